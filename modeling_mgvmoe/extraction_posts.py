"""Posts as the extraction takes them: checks, and mentions that a token-classification pipeline finds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .spans import as_list, check_span, is_absent, warn_of_columns

POST_KEYS = ("id", "text", "image", "mentions")
# Columns of the data sets of this package that say nothing about what is to be predicted from.
IGNORED_KEYS = ("label", "source", "image_text", "candidate_labels")
FINDER_TASKS = ("token-classification", "ner")


@dataclass(frozen=True)
class PostToExtract:
    """A post that was checked.

    Attributes:
        id: as given, or `None`.
        text: as given.
        image: as given, or `None`.
        mentions: distinct spans (start, end) of the text.
    """

    id: Any
    text: str
    image: Any
    mentions: tuple[tuple[int, int], ...]

    @classmethod
    def of_broken(cls, post: object) -> "PostToExtract":
        """What can be told of a post that could not be read."""
        known = post if isinstance(post, Mapping) else {}
        text = known.get("text")
        return cls(known.get("id"), text if isinstance(text, str) else "", None, ())


class MentionFinder:
    """Finds the mentions of a text with what the user gave.

    Args:
        finder: a token-classification pipeline of transformers, or any function of a text that returns dicts with
            `start` and `end`; `None`: nothing is ever found.

    Raises:
        ValueError: it cannot be called.
    """

    def __init__(self, finder: Any = None) -> None:
        if finder is not None and not callable(finder):
            raise ValueError(
                "mention_finder: a token-classification pipeline or a function of a text is needed "
                f"(got {type(finder).__name__})"
            )
        self.finder = finder
        self.arguments: dict[str, Any] = {}
        if getattr(finder, "task", None) in FINDER_TASKS:
            own = getattr(finder, "_postprocess_params", {}).get("aggregation_strategy")
            if own is None or getattr(own, "value", own) == "none":
                # Left to itself it tells of every token, and a name is of several.
                self.arguments = {"aggregation_strategy": "simple"}

    def __call__(self, text: str, where: str) -> list[tuple[int, int]]:
        """Distinct spans, without white space around, in the order of the text."""
        if self.finder is None:
            raise ValueError(
                f"{where}: 'mentions' is needed, a list of spans; or a mention_finder, a token-classification "
                "pipeline that finds them (got neither)"
            )
        spans = set()
        for entity in self.finder(text, **self.arguments):
            start, end = entity.get("start"), entity.get("end")
            if start is None or end is None:
                raise ValueError(
                    f"mention_finder: 'start' and 'end' are needed of every mention (got {entity!r:.200})"
                )
            found = text[start:end]
            start, end = start + len(found) - len(found.lstrip()), end - len(found) + len(found.rstrip())
            if start < end:
                spans.add((start, end))
        return sorted(spans)


def read_post(post: object, where: str, finder: MentionFinder) -> PostToExtract:
    """Check one post and find its mentions if it has none of its own.

    Args:
        post: a dict with `text`, and optionally `id`, `image` and `mentions`, a list of spans (`spans.check_span`).
        where: how to call the post in messages.
        finder: of mentions.

    Raises:
        ValueError: it is no such dict, or a span does not fit its text.
    """
    if not isinstance(post, Mapping):
        raise ValueError(
            f"{where}: a dict with 'text' and 'mentions' is needed (got {type(post).__name__}: {post!r:.80})"
        )
    warn_of_columns(post, (*POST_KEYS, *IGNORED_KEYS))
    text = post.get("text")
    if not isinstance(text, str):
        raise ValueError(f"{where}: 'text' must be a string (got {type(text).__name__})")
    given = post.get("mentions")
    if is_absent(given):
        mentions = finder(text, where)
    else:
        spans = as_list(given)
        if spans is None:
            raise ValueError(f"{where}: 'mentions' must be a list of spans (got {given!r:.80})")
        mentions = [check_span(text, span, f"{where}, mentions[{number}]") for number, span in enumerate(spans)]
        if len(set(mentions)) < len(mentions):
            raise ValueError(f"{where}: mentions must be distinct (got {mentions!r:.200})")
    image = None if is_absent(post.get("image")) else post["image"]
    return PostToExtract(post.get("id"), text, image, tuple(mentions))


__all__ = ["MentionFinder", "PostToExtract", "read_post"]
