"""The one schema that every data set is brought into, and the check of a single post against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

from ..mention_windows import check_unicode

if TYPE_CHECKING:
    import datasets

# What an adapter does with a record whose span does not fit its text: refuse the file, or leave the record out and
# count it.
ON_BAD_SPAN = ("error", "skip")


# Columns that a data set may have, and a post may leave empty: a list of strings each.
OPTIONAL_COLUMNS = ("image_text", "candidate_labels")


def post_features(*optional: str) -> datasets.Features:
    """Column types of a data set of posts.

    Args:
        optional: names of `OPTIONAL_COLUMNS` to have: `image_text`, words for the picture (a caption, alternative
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
    """Task of a post, told by the number of its mentions.

    Args:
        post: a mapping with at least `mentions`; `id` is used in the error only.

    Returns:
        `"typing"` for one mention, `"relation"` for two.

    Raises:
        ValueError: if there are neither one nor two mentions.
    """
    mentions = post.get("mentions")
    if _is_list(mentions) and len(mentions) == 1:
        return "typing"
    if _is_list(mentions) and len(mentions) == 2:
        return "relation"
    raise ValueError(
        f"post {post.get('id')!r}: mentions must hold one span (typing) or two (relation: head, tail), "
        f"got {mentions!r}"
    )


def validate_post(post: Mapping[str, Any], where: str = "") -> None:
    """Check one post against the schema. Pictures are not opened.

    The two spans of a relation may overlap: one name may stand within the other.

    Args:
        post: a mapping with the columns of `post_features`; `image`, `source` and the optional columns may be absent.
        where: where the post was read (a file and line, say), put at the front of the error.

    Raises:
        ValueError: naming the post, the rule and the value, if `id`, `text` or `label` is not a string with something
            in it, if an optional column is neither `None` nor a list of such strings (`image_text` may be one
            string), if there are neither one nor two mentions, or if a span is not two integers, is empty or
            reversed, reaches outside the text, or covers nothing but white space.
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
        strings = [value] if column == "image_text" and isinstance(value, str) else value
        if value is not None and not (
            isinstance(strings, list | tuple) and all(isinstance(one, str) and one.strip() for one in strings)
        ):
            raise ValueError(f"{name}: {column} must be a list of strings that are not empty, got {value!r:.80}")

    try:
        task_of(post)
    except ValueError as error:
        raise ValueError(f"{place}{error}") from None

    for index, span in enumerate(post["mentions"]):
        check_span(span, post["text"], f"{name}: mentions[{index}]")


def check_span(span: Any, text: str, name: str) -> None:
    """Check one mention against its text.

    Args:
        span: `[start, end)` in characters.
        text: of the post.
        name: what to call the span in the error.

    Raises:
        ValueError: it is not two integers, is empty or reversed, reaches outside the text, or covers nothing but white
            space.
    """
    if not _is_list(span) or len(span) != 2 or not all(_is_integer(bound) for bound in span):
        raise ValueError(f"{name} must be two integers, start and end, got {span!r}")
    start, end = span
    if not 0 <= start < end <= len(text):
        raise ValueError(f"{name} must have 0 <= start < end <= {len(text)}, the length of the text, got {span!r}")
    if not text[start:end].strip():
        raise ValueError(f"{name} must cover more than white space, got {span!r}")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse an argument that is none of its choices.

    Raises:
        ValueError: naming the argument, the choices and the value.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    # Whatever has a length and positions will do (lists, tuples, arrays); a string or a mapping is a slip.
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, str | bytes | Mapping)


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
