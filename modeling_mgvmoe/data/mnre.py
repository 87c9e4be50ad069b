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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..mention_windows import word_span_to_char_span, words_to_text
from ..pictures import to_rgb
from .labels import LabelSet
from .schema import validate_post
from .splits import MNRE_NONE, ClassSplit, mre_class_split
from .zero_shot_data import ZeroShotData, data_from_posts

MNRE_FILES = ("train.txt", "val.txt", "test.txt")
RELATION = re.compile(r"/\w+/\w+/\w+")


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
        Posts in the package's schema and order of the files, with ids like "mnre-train-17" (file and line), the
        relation of the file ("/per/per/peer", "None") as label and paths for pictures; and what was counted.

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
    counts = MnreCounts(
        records=len(posts),
        none=sum(post["label"] == MNRE_NONE for post in posts),
        relations=len({post["label"] for post in posts} - {MNRE_NONE}),
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
    label_set: LabelSet | None = None,
) -> tuple[ZeroShotData, ClassSplit]:
    """Divide posts by relation, as the paper does; the files' own division plays no part.

    Args:
        posts: of [`read_mnre`], all three files. Posts without a relation are left out.
        seed: of `splits.mre_class_split`.
        validation_posts_per_class, test_posts_per_class: keep so many posts of a class, the first ones, and of those
            with a picture all, which come first; `None` keeps all. For a quick look: scores of a part of the posts
            are not those of the whole.
        label_set: gives labels in words, descriptions and types; without one, labels are the relations of the files.

    Returns:
        The data and the division of their labels.

    Raises:
        ValueError: there are fewer than four relations, or one is not in the label set.
    """
    split = mre_class_split(list(dict.fromkeys(post["label"] for post in posts)), seed)
    members: dict[str, list[Mapping[str, Any]]] = {}
    for post in posts:
        members.setdefault(post["label"], []).append(post)
    for names, limit in ((split.validation, validation_posts_per_class), (split.test, test_posts_per_class)):
        if limit is not None:
            for label in names:
                pictured = [post for post in members[label] if post["image"] is not None]
                others = [post for post in members[label] if post["image"] is None]
                members[label] = pictured + others[: max(0, limit - len(pictured))]
    kept = [post for posts_of_class in members.values() for post in posts_of_class]
    data = data_from_posts(kept, split, "relation", label_set)
    return data, split if label_set is None else split.in_words(label_set)


def _read_file(path: str) -> list[dict[str, Any]]:
    """Posts of one file; `image` is still the name in the file."""
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
        relation = record["relation"]
        if relation != MNRE_NONE and not (isinstance(relation, str) and RELATION.fullmatch(relation)):
            raise ValueError(f'relation must be {MNRE_NONE!r} or have the form "/type/type/name", got {relation!r}')
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    post = {
        "id": identifier,
        "text": text,
        "mentions": mentions,
        "label": relation,
        "image": image,
        "source": "mnre",
    }
    validate_post(post, where)
    return post
