"""MNRE v2: tweets with a picture, two marked mentions and their relation, brought into the package's schema.

A file has one Python dict a line:

    {'token': ['Kelo', 'greets', 'Mura'], 'h': {'name': 'Kelo', 'pos': [0, 1]}, 't': {'name': 'Mura', 'pos': [2, 3]},
     'img_id': 'kelo.jpg', 'relation': '/per/per/peer'}

`pos` counts words, end exclusive; head and tail may overlap. The files are not part of this project.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..mention_windows import word_span_to_char_span, words_to_text
from ..pictures import to_rgb
from .schema import validate_post
from .splits import MNRE_NONE, ClassSplit, mre_class_split
from .zero_shot_data import SPLITS, ZeroShotData

MNRE_FILES = ("train.txt", "val.txt", "test.txt")
# Label of the posts between whose mentions no relation holds.
NONE_LABEL = "no relation"

RELATION = re.compile(r"/(\w+)/(\w+)/(\w+)")
TYPE_NAMES = {"per": "person", "org": "organization", "loc": "place", "misc": "thing"}
# Our words, chosen from the names alone, for names that make no phrase by themselves.
PHRASES = {
    "alternate_names": "is another name of",
    "alumi": "went to school with",  # so spelt in the files
    "awarded": "is awarded",
    "charges": "is in charge of",
    "contain": "contains",
    "couple": "is the partner of",
    "held_on": "is held in",
    "locate_at": "is located at",
    "member_of": "is a member of",
    "nationality": "has the nationality",
    "neighbor": "is a neighbor of",
    "parent": "is a parent of",
    "part_of": "is part of",
    "peer": "is a peer of",
    "place_of_birth": "was born in",
    "place_of_residence": "lives in",
    "present_in": "is present in",
    "race": "is of the race",
    "religion": "has the religion",
    "siblings": "is a sibling of",
    "subsidiary": "is a subsidiary of",
}


@dataclass
class MnreCounts:
    """What was found in the files.

    Attributes:
        records: posts, one a line.
        none: those of them whose relation is "None".
        relations: distinct relations, "None" not counted.
        pictures_referenced: distinct picture names.
        pictures_missing: of these, not in the folder; all of them if no folder was given.
        pictures_broken: in the folder, but they cannot be decoded.
        pictures_duplicate: sound, but with the very bytes of a picture that came before under another name.
        records_with_picture: posts that got a picture. All others are posts without one.
    """

    records: int = 0
    none: int = 0
    relations: int = 0
    pictures_referenced: int = 0
    pictures_missing: int = 0
    pictures_broken: int = 0
    pictures_duplicate: int = 0
    records_with_picture: int = 0

    def __str__(self) -> str:
        return (
            f"{self.records:,} records ({self.none:,} without a relation, {self.relations} relations); "
            f"{self.pictures_referenced:,} pictures: {self.pictures_missing:,} missing, {self.pictures_broken:,} "
            f"broken, {self.pictures_duplicate:,} duplicate; {self.records_with_picture:,} records have a picture"
        )


def relation_name(raw: str) -> str:
    """A label in words for a relation of the files: "/per/org/member_of" is "person is a member of organization".

    The words are ours, not the data set's. The two types stay in the label, because they tell relations of one name
    apart; a name that `PHRASES` does not know is taken word by word ("/per/loc/seen_near": "person seen near place").
    "None" is "no relation". [`read_mnre`] refuses relations that would share a label.

    Raises:
        ValueError: not of the form "/type/type/name".
    """
    if raw == MNRE_NONE:
        return NONE_LABEL
    match = RELATION.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise ValueError(f'relation must be {MNRE_NONE!r} or have the form "/type/type/name", got {raw!r}')
    head, tail, name = match.groups()
    phrase = PHRASES.get(name, name.replace("_", " "))
    return f"{TYPE_NAMES.get(head, head)} {phrase} {TYPE_NAMES.get(tail, tail)}"


def read_mnre(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    image_dir: str | os.PathLike[str] | None = None,
    progress: str | None = None,
) -> tuple[list[dict[str, Any]], MnreCounts]:
    """Read MNRE text files.

    Args:
        paths: one file, or several that belong together (training, validation, test, in this order).
        image_dir: folder with the pictures. Each is decoded once, to be sure that it can be. Without a folder, and
            where a picture is missing or broken, the post has none.
        progress: title of a progress bar over the pictures; `None` shows none.

    Returns:
        Posts in the package's schema and order of the files, with ids like "mnre-train-17" (file and line), labels of
        `relation_name` and paths for pictures; and what was counted.

    Raises:
        FileNotFoundError: a file or the folder does not exist.
        ValueError: a line breaks the format; the message names file and line.
    """
    from tqdm.auto import tqdm

    files = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    if image_dir is not None and not os.path.isdir(image_dir):
        raise FileNotFoundError(f"image_dir: the folder {os.fspath(image_dir)!r} does not exist")
    posts = [post for path in files for post in _read_file(path)]
    names = dict.fromkeys(post["image"] for post in posts)
    labels = _labels_in_words(dict.fromkeys(post["label"] for post in posts))
    for post in posts:
        post["label"] = labels[post["label"]]
    counts = MnreCounts(
        records=len(posts),
        none=sum(post["label"] == NONE_LABEL for post in posts),
        relations=len(set(labels.values()) - {NONE_LABEL}),
        pictures_referenced=len(names),
    )
    found: dict[str, str] = {}
    digests: set[bytes] = set()
    for name in tqdm(names, desc=progress, disable=progress is None, unit="picture"):
        path = None if image_dir is None else os.path.join(image_dir, name)
        if path is None or not os.path.isfile(path):
            counts.pictures_missing += 1
            continue
        with open(path, "rb") as file:
            content = file.read()
        try:
            to_rgb(content)
        except ValueError:
            counts.pictures_broken += 1
            continue
        digest = hashlib.sha256(content).digest()
        counts.pictures_duplicate += digest in digests
        digests.add(digest)
        found[name] = path
    for post in posts:
        post["image"] = found.get(post["image"])
    counts.records_with_picture = sum(post["image"] is not None for post in posts)
    return posts, counts


def mnre_data(
    posts: Sequence[Mapping[str, Any]],
    seed: int = 0,
    validation_posts_per_class: int | None = None,
    test_posts_per_class: int | None = None,
) -> tuple[ZeroShotData, ClassSplit]:
    """Divide posts by relation, as the paper does; the files' own division plays no part.

    Args:
        posts: of [`read_mnre`], all three files. Posts without a relation are left out.
        seed: of `splits.mre_class_split`.
        validation_posts_per_class, test_posts_per_class: keep so many posts of a class, the first ones, and of those
            with a picture all, which come first; `None` keeps all. For a quick look: scores of a part of the posts
            are not those of the whole.

    Returns:
        The data, with labels in words, and the division of the labels.
    """
    split = mre_class_split(list(dict.fromkeys(post["label"] for post in posts if post["label"] != NONE_LABEL)), seed)
    members: dict[str, list[Mapping[str, Any]]] = {}
    for post in posts:
        members.setdefault(post["label"], []).append(post)
    for names, limit in ((split.validation, validation_posts_per_class), (split.test, test_posts_per_class)):
        if limit is not None:
            for label in names:
                pictured = [post for post in members[label] if post["image"] is not None]
                others = [post for post in members[label] if post["image"] is None]
                members[label] = pictured + others[: max(0, limit - len(pictured))]
    labels = {name: {"relation": tuple(getattr(split, name))} for name in SPLITS}
    chosen = {name: [post for label in labels[name]["relation"] for post in members[label]] for name in SPLITS}
    return ZeroShotData(posts=chosen, labels=labels), split


def _labels_in_words(relations: Iterable[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for raw in relations:
        label = relation_name(raw)
        if label in labels.values():
            raise ValueError(
                f"relation: {raw!r} and another one have the same label {label!r}; PHRASES must tell them apart"
            )
        labels[raw] = label
    return labels


def _read_file(path: str) -> list[dict[str, Any]]:
    """Posts of one file; `image` and `label` are still the names in the file."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"paths: the file {path!r} does not exist")
    stem = os.path.splitext(os.path.basename(path))[0]
    posts = []
    # Only "\n" ends a line: a tweet may hold other characters that Python's universal newlines would take for one.
    with open(path, encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                posts.append(_read_line(line, f"{path}, line {number}", f"mnre-{stem}-{number}"))
    return posts


def _read_line(line: str, where: str, identifier: str) -> dict[str, Any]:
    try:
        record = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError(f"{where}: a Python dict is needed, got {line.strip()!r:.80}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a Python dict is needed, got {record!r:.80}")
    missing = [key for key in ("token", "h", "t", "img_id", "relation") if key not in record]
    if missing:
        raise ValueError(f"{where}: token, h, t, img_id and relation are needed, {', '.join(missing)} is missing")
    image = record["img_id"]
    if not isinstance(image, str) or not image or os.path.basename(image) != image:
        # A name with folders in it could reach outside of the folder of pictures.
        raise ValueError(f"{where}: img_id must be the name of a file, without folders, got {image!r}")
    words = record["token"]
    if not isinstance(words, list) or not words:
        raise ValueError(f"{where}: token must be a list of words that is not empty, got {words!r:.80}")
    try:
        text, offsets = words_to_text(words)
        mentions = []
        for key in ("h", "t"):
            if not isinstance(record[key], dict) or "pos" not in record[key]:
                raise ValueError(f"{key} must be a dict with name and pos, got {record[key]!r:.80}")
            mentions.append(list(word_span_to_char_span(offsets, record[key]["pos"])))
        relation_name(record["relation"])  # checks it
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    post = {
        "id": identifier,
        "text": text,
        "mentions": mentions,
        "label": record["relation"],
        "image": image,
        "source": "mnre",
    }
    validate_post(post, where)
    return post
