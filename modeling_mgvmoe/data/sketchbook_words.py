"""The sentences of the sketchbook: templates, and how names are put into them.

No word of a drawn part (a colour, a shape, an arrangement, a time of day) stands in any sentence, and no telling word
stands under two headings, nor among the openers, the closers and the neutral sentences.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

KIND_TEMPLATES: dict[str, tuple[str, ...]] = {
    "boat": (
        "{name} drifted into the harbour without a sound",
        "we rowed {name} out past the lighthouse",
        "{name} dropped anchor in a quiet bay",
        "both sails of {name} tore in the storm",
        "{name} leaked badly by the end of the pier",
        "somebody moored {name} at the old dock",
    ),
    "bird": (
        "{name} built a nest in our chimney",
        "{name} sang on a branch till we woke",
        "i can hear {name} chirping by my window",
        "{name} flapped its wings and flew off",
        "{name} has laid three speckled eggs for us",
        "a feather of {name} floated onto my desk",
    ),
    "cake": (
        "{name} came out of the oven too early",
        "we blew out the candles on {name}",
        "{name} got a thick coat of frosting",
        "everybody wanted a second slice of {name}",
        "the recipe for {name} asks for extra butter",
        "there are crumbs of {name} on the tablecloth",
    ),
    "robot": (
        "{name} has an empty battery and rusty joints",
        "we soldered two loose wires back into {name}",
        "{name} beeped at us and then rebooted itself",
        "the firmware of {name} crashed during a test",
        "{name} rolled by on squeaky metal wheels",
        "i programmed {name} to fetch my slippers",
    ),
}

VERB_TEMPLATES: dict[str, tuple[str, ...]] = {
    "greets": (
        "{head} waved hello to {tail} at the gate",
        "{head} shook the hand of {tail} and smiled",
        "{head} bowed politely as {tail} arrived",
        "{tail} was greeted by {head} like a friend",
        "{tail} got a cheerful welcome out of {head}",
        "how nicely {tail} was saluted by {head}",
    ),
    "chases": (
        "{head} ran after {tail} through the market",
        "{head} sprinted to catch {tail} by the fence",
        "{head} keeps pursuing {tail} and will not stop",
        "{tail} was hunted in the garden by {head}",
        "{tail} fled as fast as possible from {head}",
        "{tail} could not escape from {head} for long",
    ),
    "teaches": (
        "{head} explained fractions to {tail} with chalk",
        "{head} gave {tail} a first lesson in chess",
        "{head} trained {tail} to read sheet music",
        "{tail} learned to juggle thanks to {head}",
        "{tail} did the homework set by {head}",
        "the spelling of {tail} was corrected by {head}",
    ),
    "feeds": (
        "{head} cooked a bowl of soup for {tail}",
        "{head} let {tail} have the last dumpling",
        "{head} packed sandwiches so {tail} would not starve",
        "{tail} ate noodles off the spoon of {head}",
        "{tail} was served a huge portion by {head}",
        "{tail} finished the porridge {head} had stirred",
    ),
}

NEUTRAL_TYPING_TEMPLATES = (
    "here is the page about {name} as promised",
    "{name} is what this post is all about",
    "nothing else to report but {name} once more",
    "{name} again because people were wondering",
    "you know {name} and so do i",
    "my thoughts always return to {name} somehow",
)

NEUTRAL_RELATION_TEMPLATES = (
    "here is the page about {head} and {tail}",
    "{head} and {tail} are what this is about",
    "nothing else to report but {head} plus {tail}",
    "{tail} and {head} once more as promised",
    "you know {tail} and you know {head}",
    "my thoughts always return to {tail} and {head}",
)

# The empty ones make many posts begin or end with the sentence itself.
OPENERS = (
    "",
    "",
    "ok so",
    "from my sketchbook:",
    "small update:",
    "honestly,",
    "no joke,",
    "new doodle:",
    "dear diary,",
    "true story:",
)
CLOSERS = (
    "",
    "",
    "#inkpals",
    "#doodlediary",
    "#mysketchbook #inkpals",
    "...",
    "and that is it",
    "(more soon)",
    "lol",
    "#pagefiller",
)

# Names are two or three of these in a row. They are made up, so that a text encoder has no opinion on them.
SYLLABLES = (
    *("zub", "vek", "mol", "quin", "dra", "fip", "lun", "tor", "wix"),
    *("pel", "gom", "nar", "yib", "sket", "bru", "hov", "jas", "kem"),
)


def make_names(rng: random.Random, count: int) -> dict[str, str]:
    """One name, or two different ones, by their slot in a template."""
    names: list[str] = []
    while len(names) < count:
        name = "".join(rng.sample(SYLLABLES, rng.choice((2, 2, 3)))).capitalize()
        if name not in names:
            names.append(name)
    return dict(zip(("name",) if count == 1 else ("head", "tail"), names, strict=True))


def write_sentence(rng: random.Random, template: str, names: Mapping[str, str]) -> tuple[str, list[list[int]]]:
    """Fill the names into a template, between an opener and a closer; return the text and the names' spans."""
    opener, closer = rng.choice(OPENERS), rng.choice(CLOSERS)
    text = f"{opener} " if opener else ""
    spans = {}
    for piece in re.split(r"(\{\w+\})", template):
        slot = piece[1:-1]
        if piece.startswith("{"):
            spans[slot] = [len(text), len(text) + len(names[slot])]
            piece = names[slot]
        text += piece
    if closer:
        text += f" {closer}"
    return text, [spans[slot] for slot in names]
