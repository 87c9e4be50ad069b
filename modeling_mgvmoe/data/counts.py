"""What was found in the files of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .schema import validate_post

# So many identifiers stand in a message; the rest are counted.
SHOWN = 5


@dataclass
class Counts:
    """What was found in the files of a data set.

    Attributes:
        task: "typing" or "relation".
        records: posts.
        none: those of them in whose class no class holds.
        classes: for each class but that one, the number of its posts, in order of first appearance.
        pictures_referenced: distinct names of pictures.
        pictures_missing: of these, not in the folder; all of them if no folder was given.
        pictures_broken: in the folder, but they cannot be decoded.
        pictures_duplicate: sound, but with the very bytes of a picture that came before under another name.
        records_with_picture: posts that got a picture. All others are posts without one.
        records_with_image_text: posts that got words for their picture.
        bad_spans: identifiers of records that were left out, for a mention is not where the file says it is.
        texts: sentences or tweets in the files, with a record or without; 0 where each record has its own.
        files: number of records by file, where that is told.
    """

    task: str
    records: int = 0
    none: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    pictures_referenced: int = 0
    pictures_missing: int = 0
    pictures_broken: int = 0
    pictures_duplicate: int = 0
    records_with_picture: int = 0
    records_with_image_text: int = 0
    bad_spans: list[str] = field(default_factory=list)
    texts: int = 0
    files: dict[str, int] = field(default_factory=dict)

    def count_posts(self, posts: Iterable[Mapping[str, Any]], none: str | None = None) -> None:
        """Count posts and their classes; `none` is the class that says that no class holds."""
        found = Counter(post["label"] for post in posts)
        self.records = found.total()
        self.none = found.pop(none, 0) if none is not None else 0
        self.classes = dict(found)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return asdict(self)

    def __str__(self) -> str:
        noun = "relation" if self.task == "relation" else "type"
        without = f"{self.none:,} without a {noun}, " if self.none else ""
        text = f"{self.texts:,} texts, " if self.texts else ""
        text += f"{self.records:,} records ({without}{len(self.classes)} {noun}s)"
        if self.files:
            text += ": " + ", ".join(f"{count:,} in {name}" for name, count in self.files.items())
        if self.pictures_referenced:
            text += (
                f"; {self.pictures_referenced:,} pictures: {self.pictures_missing:,} missing, "
                f"{self.pictures_broken:,} broken, {self.pictures_duplicate:,} duplicate; "
                f"{self.records_with_picture:,} records have a picture"
            )
        if self.records_with_image_text:
            text += f"; {self.records_with_image_text:,} records have an image text"
        if self.bad_spans:
            more = len(self.bad_spans) - SHOWN
            shown = ", ".join(self.bad_spans[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
            text += f"; {len(self.bad_spans):,} more records left out, their spans do not fit the text: {shown}"
        return text


def keep_post(post: Mapping[str, Any], where: str, on_bad_span: str, counts: Counts) -> bool:
    """Check a post against the schema: keep it, or leave it out and count it.

    Args:
        post: in the package's schema.
        where: file and line, for the error.
        on_bad_span: "skip" leaves out a post whose spans alone break the schema; "error" refuses it.
        counts: gets the ids of posts that are left out.

    Raises:
        ValueError: the post breaks the schema, and is not left out.
    """
    try:
        validate_post(post, where)
    except ValueError:
        if on_bad_span == "error":
            raise
        whole = [0, len(post["text"])]
        validate_post({**post, "mentions": [whole for _ in post["mentions"]]}, where)  # what else is wrong is refused
        counts.bad_spans.append(post["id"])
        return False
    return True
