"""From the fields of the page to what it shows: the one thing that its button does."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import markup
from .form import Fields, FormError, read_fields

if TYPE_CHECKING:
    from .served_model import ServedModel

logger = logging.getLogger(__name__)


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

    try:
        if not served.has_types:
            fields = replace(fields, label_types="", type_sentences="")
        explanation = explain_post(served.model, served.processor, **read_fields(fields))
        return Shown(
            markup.verdict(explanation.ranking, least),
            markup.weighed(explanation),
            markup.experts(explanation),
            explanation.ranking,
        )
    except FormError as error:
        return Shown(markup.message(str(error)))
    except ValueError as error:  # of processor or model, which name the argument and the rule
        return Shown(markup.message(f"This cannot be answered. {error}"))
    except Exception:
        logger.exception("the page could not answer")
        return Shown(markup.message("Something went wrong on the server while answering; its log says what."))


def verdict_again(ranking: Sequence[Mapping[str, Any]] | None, least: float) -> str | None:
    """The verdict of known scores under another threshold; `None` if there is no answer yet."""
    return None if ranking is None else markup.verdict(ranking, least)
