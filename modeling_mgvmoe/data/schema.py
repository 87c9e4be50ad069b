"""The common schema of all datasets, and the check of a post against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..spans import as_list, check_span, check_unicode, list_mentions, word_span_to_char_span

if TYPE_CHECKING:
    import datasets


# What an adapter does with a record whose span does not fit its text: refuse the file, or leave the record out and
# count it.
ON_BAD_SPAN = ("error", "skip")


# Columns that a dataset may have, and a post may leave empty: a list of strings each.
OPTIONAL_COLUMNS = ("image_text", "candidate_labels")


def post_features(*optional: str) -> datasets.Features:
    """Column types of a dataset of posts.

    Args:
        optional: names of `OPTIONAL_COLUMNS` to have: `image_text`, words for the image (a caption, alternative
            text), and `candidate_labels`, the post's own candidates.

    Returns:
        `datasets.Features` with `id`, `text`, `label` and `source` (strings), `image` (`datasets.Image`, may be
        None) and `mentions`, a list of `[start, end)` spans counted in characters of `text`. One span is a mention
        to be typed; two spans are the head and the tail of a relation, in this order, wherever they stand in the text.
    """
    import datasets  # here, because it takes over a second to import

    for name in optional:
        check_choice("optional", name, OPTIONAL_COLUMNS)
    return datasets.Features(
        {
            "id": datasets.Value("string"),
            "text": datasets.Value("string"),
            "mentions": datasets.List(datasets.List(datasets.Value("int32"))),
            "label": datasets.Value("string"),
            "image": datasets.Image(),
            "source": datasets.Value("string"),
            **{name: datasets.List(datasets.Value("string")) for name in optional},
        }
    )


def task_of(post: Mapping[str, Any]) -> Literal["typing", "relation"]:
    """Task of a post: `"typing"` with one mention, `"relation"` with two.

    Raises:
        ValueError: there are neither one nor two mentions.
    """
    return (
        "typing" if len(list_mentions(post.get("mentions"), f"post {post.get('id')!r}: mentions")) == 1 else "relation"
    )


def validate_post(post: Mapping[str, Any], where: str = "") -> None:
    """Check one post against the schema. Images are not opened.

    The two spans of a relation may overlap: one name may stand within the other.

    Args:
        post: a mapping with the columns of `post_features`; `image`, `source` and the optional columns may be absent.
            Mentions are spans as [`spans.check_span`] takes them.
        where: where the post was read (a file and line, say), put at the front of the error.

    Raises:
        ValueError: `id`, `text` or `label` is not a string with something in it, an optional column is neither `None`
            nor a list of such strings (`image_text` may be one string), there are neither one nor two mentions, or a
            span breaks the rule of [`spans.check_span`]; the message names post, rule and value.
    """
    place = f"{where}: " if where else ""
    name = f"{place}post {post.get('id')!r}"
    for column in ("id", "text", "label"):
        value = post.get(column)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name}: {column} must be a string that is not empty, got {value!r}")
        check_unicode(value, f"{name}: {column}")

    for column in OPTIONAL_COLUMNS:
        value = post.get(column)
        strings = [value] if column == "image_text" and isinstance(value, str) else as_list(value)
        if value is not None and (strings is None or not all(isinstance(one, str) and one.strip() for one in strings)):
            raise ValueError(f"{name}: {column} must be a list of strings that are not empty, got {value!r:.80}")

    for index, span in enumerate(list_mentions(post.get("mentions"), f"{name}: mentions")):
        check_span(post["text"], span, f"{name}: mentions[{index}]")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise ValueError if an argument is not one of its choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


# A message names this many identifiers and counts the rest.
SHOWN = 5


@dataclass
class Counts:
    """Counts from reading a dataset's files.

    Attributes:
        task: "typing" or "relation".
        records: posts.
        none: number of posts labelled with the class that says that no other applies.
        classes: for each class but that one, the number of its posts, in order of first appearance.
        images_referenced: distinct names of images.
        images_missing: of these, not in the folder; all of them if no folder was given.
        images_broken: in the folder, but they cannot be decoded.
        images_duplicate: sound, but with the very bytes of an image that came before under another name.
        records_with_image: posts that got an image. All others are posts without one.
        records_with_image_text: posts that got words for their image.
        bad_spans: identifiers of records that were left out, for a mention is not where the file says it is.
        texts: sentences or tweets in the files, with a record or without; 0 where each record has its own.
        files: number of records by file, where it is known.
    """

    task: str
    records: int = 0
    none: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    images_referenced: int = 0
    images_missing: int = 0
    images_broken: int = 0
    images_duplicate: int = 0
    records_with_image: int = 0
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

    def __str__(self) -> str:
        noun = "relation" if self.task == "relation" else "type"
        without = f"{self.none:,} without a {noun}, " if self.none else ""
        text = f"{self.texts:,} texts, " if self.texts else ""
        text += f"{self.records:,} records ({without}{len(self.classes)} {noun}s)"
        if self.files:
            text += ": " + ", ".join(f"{count:,} in {name}" for name, count in self.files.items())
        if self.images_referenced:
            text += (
                f"; {self.images_referenced:,} images: {self.images_missing:,} missing, "
                f"{self.images_broken:,} broken, {self.images_duplicate:,} duplicate; "
                f"{self.records_with_image:,} records have an image"
            )
        if self.records_with_image_text:
            text += f"; {self.records_with_image_text:,} records have an image text"
        if self.bad_spans:
            more = len(self.bad_spans) - SHOWN
            shown = ", ".join(self.bad_spans[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
            text += f"; {len(self.bad_spans):,} more records left out, their spans do not fit the text: {shown}"
        return text


def new_post(
    identifier: str,
    text: str,
    mentions: list[list[int]],
    label: str,
    source: str,
    image: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A post with the columns of [`post_features`]."""
    columns = {"id": identifier, "text": text, "mentions": mentions, "label": label, "image": image, "source": source}
    return {**columns, **more}


def keep_post(post: Mapping[str, Any], where: str, on_bad_span: str, counts: Counts) -> bool:
    """Whether a post fits the schema; with "skip" one whose spans alone break it is left out and counted.

    Raises:
        ValueError: the post breaks the schema otherwise; the message begins with `where`, its file and line.
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


def char_span(words: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """A span of words as one of characters; one that reaches beyond the words reaches beyond the text.

    Such a span breaks the schema, and [`keep_post`] finds it.

    Args:
        words: first and last, end exclusive.
        offsets: of every word of the text, in characters.
    """
    try:
        return list(word_span_to_char_span(offsets, words))
    except ValueError:
        return [0, offsets[-1][1] + 1]
