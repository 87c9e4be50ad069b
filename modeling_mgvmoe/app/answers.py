"""From the fields of the page to what it shows: what its two buttons do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from . import markup
from .form import Fields, FormError, read_fields, read_whole_post

if TYPE_CHECKING:
    from .served_model import ServedModel

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Shown:
    """What the page shows.

    Attributes:
        verdict: HTML of the answer and the scores, or of a message.
        weighed, experts: HTML of the explanation; empty beside a message.
        ranking: the scores, for another threshold; `None` beside a message.
    """

    verdict: str
    weighed: str = ""
    experts: str = ""
    ranking: list[dict[str, Any]] | None = None


def answer(served: ServedModel, fields: Fields, least: float) -> Shown:
    """Score the labels and explain the scores. Never raises: what goes wrong is shown in words.

    Args:
        served: the model.
        fields: of the page.
        least: see [`markup.verdict`].
    """
    from ..evaluation.explanation import explain_post

    def explain() -> Shown:
        known = fields if served.has_types else replace(fields, label_types="", type_sentences="")
        explanation = explain_post(served.model, served.processor, **read_fields(known))
        return Shown(
            markup.verdict(explanation.ranking, least),
            markup.side_by_side(explanation) + markup.weighed(explanation),
            markup.experts(explanation),
            explanation.ranking,
        )

    done = _in_words(explain)
    return Shown(done) if isinstance(done, str) else done


def whole_post(served: ServedModel, fields: Fields) -> str:
    """The graph of a post as HTML, or a message. Never raises."""

    def extract() -> str:
        arguments = read_whole_post(fields)
        if not served.has_types:
            arguments.pop("label_types", None)
        (graph,) = served.model.extract(processor=served.processor, **arguments)
        return markup.post_graph(graph)

    return _in_words(extract)


def _in_words(work: Callable[[], T]) -> T | str:
    """What `work` returns, or in words what went wrong."""
    try:
        return work()
    except FormError as error:
        return markup.message(str(error))
    except ValueError as error:  # of processor or model, which name the argument and the rule
        return markup.message(f"This cannot be answered. {error}")
    except Exception:
        logger.exception("the page could not answer")
        return markup.message("Something went wrong on the server while answering; its log says what.")


def verdict_again(ranking: Sequence[Mapping[str, Any]] | None, least: float) -> str | None:
    """The verdict of known scores under another threshold; `None` if there is no answer yet."""
    return None if ranking is None else markup.verdict(ranking, least)
