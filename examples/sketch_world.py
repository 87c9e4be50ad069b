"""Write posts about a small world, and candidate labels, for examples/extract.py.

    python examples/sketch_world.py --output_dir runs/world
    accelerate launch examples/extract.py --input runs/world/posts.parquet --output runs/graph --model runs/demo/model

Everything is made by this package from a seed. The labels are those that the model of `make demo` has never seen.

Its people belong to four clans. Everybody knows some others, of any clan. How two of them get on follows from their
clans alone: clans are numbers of two bits, and each of the four values of their exclusive or has a relation of its
own. Most people of a clan are of one type. Posts are written and drawn as those of the sketchbook: a relation post
names two people who know each other, a typing post one.

Whoever extracts the relations can tell the clans, and from these how two people would get on who never met in a
post. Names are written in capitals now and then.
"""

import argparse
import io
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modeling_mgvmoe.cli.errors import one_line
from modeling_mgvmoe.data.atomic_io import whole_file, write_whole
from modeling_mgvmoe.data.flags import FlagParser
from modeling_mgvmoe.data.progress_bar import progress_bar
from modeling_mgvmoe.data.sketchbook import (
    SYLLABLES,
    TASKS,
    draw_entity,
    draw_relation,
    label_parts,
    split_classes,
    write_sentence,
)
from modeling_mgvmoe.inference.model_folder import check_output_folder

CLANS = 4
# Share of a clan's people who have its type, share of names in capitals, and share of posts that name one person.
OF_CLAN_TYPE, CAPITALS, TYPING_SHARE = 0.85, 0.1, 0.25
POSTS_FILE, LABELS_FILE = "posts.parquet", "labels.json"
# Posts that are in memory at a time when they are written.
CHUNK = 1000


@dataclass(frozen=True)
class SketchWorld:
    """Who there is and who knows whom.

    Attributes:
        names: of the people.
        clans: of each, from 0 to 3.
        types: of each, a typing label.
        acquaintances: pairs of people, the lower number first.
        relations: four labels, by the exclusive or of two clans.
        typing_labels, relation_labels: all candidates of the sketchbook's test split.
    """

    names: tuple[str, ...]
    clans: tuple[int, ...]
    types: tuple[str, ...]
    acquaintances: tuple[tuple[int, int], ...]
    relations: tuple[str, ...]
    typing_labels: tuple[str, ...]
    relation_labels: tuple[str, ...]

    def relation_of(self, one: int, other: int) -> str:
        """How two people get on."""
        return self.relations[self.clans[one] ^ self.clans[other]]


def make_world(people: int = 150, acquaintances: int = 8, seed: int = 0) -> SketchWorld:
    """Draw a world, whose candidates are the test classes of the sketchbook of seed 0.

    Args:
        people: how many.
        acquaintances: mean number per person.
        seed: for names, clans and acquaintances.

    Raises:
        ValueError: there are too few people for that number of acquaintances, or more people than names.
    """
    if not 1 <= acquaintances < people:
        raise ValueError(f"acquaintances must be in [1, {people}), the number of people, got {acquaintances}")
    most = len(SYLLABLES) * (len(SYLLABLES) - 1) * (len(SYLLABLES) - 2)
    if people > most // 2:
        raise ValueError(f"people must be at most {most // 2}, got {people}")
    draw = random.Random(f"sketch world/{seed}")
    names: dict[str, None] = {}
    while len(names) < people:
        names["".join(draw.sample(SYLLABLES, draw.choice((2, 3)))).capitalize()] = None
    typing, relation = (split_classes(task, 0).test for task in ("typing", "relation"))
    clan_types, relations = _of_all_drawings("typing", typing), _of_all_drawings("relation", relation)
    clans = [draw.randrange(CLANS) for _ in range(people)]
    types = [clan_types[clan] if draw.random() < OF_CLAN_TYPE else draw.choice(clan_types) for clan in clans]
    pairs: set[tuple[int, int]] = set()
    while len(pairs) < people * acquaintances // 2:
        one, other = draw.sample(range(people), 2)
        pairs.add((min(one, other), max(one, other)))
    return SketchWorld(tuple(names), tuple(clans), tuple(types), tuple(sorted(pairs)), relations, typing, relation)


def _of_all_drawings(task: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Four labels that share no part that is drawn, each with another written part as far as there are any."""
    chosen: dict[tuple[str, str], str] = {}
    written: list[str] = []
    for label in labels:
        first, second, word = label_parts(task, label)
        if (first, second) not in chosen and (word not in written or len(written) >= 3):
            chosen[first, second] = label
            written.append(word)
    return tuple(chosen.values())


def world_posts(
    world: SketchWorld, count: int, seed: int = 0, image_share: float = 1.0, image_size: int = 64
) -> Iterator[dict[str, Any]]:
    """Posts about a world, one by one.

    Args:
        world: the people and acquaintances that posts name.
        count: number of posts.
        seed: for the posts.
        image_share: share of the posts with an image.
        image_size: width and height of the images in pixels.

    Yields:
        `id`, `text`, `mentions`, `image` (an RGB image or `None`), and `label`, what is the case.
    """
    if count < 1 or not 0 <= image_share <= 1:
        raise ValueError(f"posts must be at least 1, and image_share between 0 and 1, got {count} and {image_share}")
    draw = random.Random(f"sketch world/{seed}/posts")
    for number in range(count):
        if draw.random() < TYPING_SHARE:
            people: tuple[int, ...] = (draw.randrange(len(world.names)),)
            task, label = "typing", world.types[people[0]]
        else:
            people = draw.choice(world.acquaintances)
            task, label = "relation", world.relation_of(*people)
        names = [world.names[one].upper() if draw.random() < CAPITALS else world.names[one] for one in people]
        first, second, word = label_parts(task, label)
        template = draw.choice(TASKS[task].templates[word])
        slots = ("name",) if task == "typing" else ("head", "tail")
        text, mentions = write_sentence(draw, template, dict(zip(slots, names, strict=True)))
        image = None
        if draw.random() < image_share:
            image = (draw_entity if task == "typing" else draw_relation)(draw, first, second, image_size)
        yield {"id": f"world-{seed}-{number:07d}", "text": text, "mentions": mentions, "image": image, "label": label}


def write_world(
    folder: str | os.PathLike[str], world: SketchWorld, count: int, progress: bool = False, **arguments: Any
) -> tuple[str, str]:
    """Write posts about a world, and the candidate labels, as `examples/extract.py` reads them.

    Args:
        folder: to write `posts.parquet` and `labels.json` into; made if it is not there.
        world: that the posts are about.
        count: of the posts; 1,000 at a time are in memory.
        progress: show a progress bar.
        arguments: of [`world_posts`].

    Returns:
        The paths of both files.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    os.makedirs(folder, exist_ok=True)
    posts_path, labels_path = (os.path.join(folder, name) for name in (POSTS_FILE, LABELS_FILE))
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("mentions", pa.list_(pa.list_(pa.int32()))),
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.string()),
        ]
    )
    posts = progress_bar(world_posts(world, count, **arguments), "writing posts", count, show=progress)
    with whole_file(posts_path) as partial, pq.ParquetWriter(partial, schema) as writer:
        chunk: list[dict[str, Any]] = []
        for post in posts:
            chunk.append({**post, "image": _png(post["image"])})
            if len(chunk) == CHUNK:
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
                chunk = []
        if chunk:
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
    labels = {
        "typing_labels": list(world.typing_labels),
        "relation_labels": list(world.relation_labels),
        # Nothing in the sketchbook's training tells in which direction a relation holds.
        "symmetric": list(world.relation_labels),
    }
    write_whole(labels_path, json.dumps(labels, indent=1).encode())
    return posts_path, labels_path


def _png(image: Any) -> dict[str, Any] | None:
    if image is None:
        return None
    file = io.BytesIO()
    image.save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


@one_line()
def main(argv: list[str] | None = None) -> tuple[str, str]:
    """Write the files, and return their paths."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True, help="folder for posts.parquet and labels.json")
    parser.add_argument("--posts", type=int, default=3000, help="default 3000")
    parser.add_argument("--people", type=int, default=150, help="default 150")
    parser.add_argument("--acquaintances", type=int, default=8, help="of somebody on average (default 8)")
    parser.add_argument("--image_share", type=float, default=1.0, help="of the posts (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of world and posts (default 0)")
    flags = parser.parse_args(argv)
    check_output_folder("output_dir", flags.output_dir)
    world = make_world(flags.people, flags.acquaintances, flags.seed)
    paths = write_world(
        flags.output_dir, world, flags.posts, progress=True, seed=flags.seed, image_share=flags.image_share
    )
    print(f"{flags.posts:,} posts about {flags.people} people: {paths[0]}; candidate labels: {paths[1]}")
    return paths


if __name__ == "__main__":
    main()
