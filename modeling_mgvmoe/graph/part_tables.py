"""The tables of one part, filled batch by batch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .post_check import CheckedRow, RowError
from .schema import ANSWER, table_schemas


class PartTables:
    """Takes posts with what was extracted from them, and rows that could not be; gives Arrow tables.

    Args:
        feature_size: of the posts' picture features, `None` if there are none.

    Attributes:
        counts: what was found so far.
    """

    def __init__(self, feature_size: int | None = None) -> None:
        self.schemas = table_schemas(feature_size)
        self.with_features = feature_size is not None
        # Arrow holds the same in a tenth of the memory that Python's objects take.
        self.batches: dict[str, list[pa.RecordBatch]] = {name: [] for name in self.schemas}
        self.counts: Counter[str] = Counter()

    def add(
        self,
        rows: Sequence[CheckedRow],
        answers: Mapping[int, Mapping[str, Any] | RowError],
        features: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        """Add a batch of rows.

        Args:
            rows: of the input.
            answers: by row, for each post what was extracted from it, or why nothing could be.
            features: by row, (H',), for each post with a picture.
        """
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in self.schemas}
        for row in rows:
            answer = answers.get(row.row)
            if isinstance(answer, RowError):
                self._add_error(found, row, answer.kind, str(answer))
            elif row.post is None or answer is None:
                self._add_error(found, row, str(row.kind), str(row.reason))
            else:
                self._add_post(found, row, answer, None if features is None else features.get(row.row))
        for name, entries in found.items():
            if entries:
                self.batches[name].append(pa.RecordBatch.from_pylist(entries, schema=self.schemas[name]))

    def tables(self) -> dict[str, pa.Table]:
        """The tables, by name."""
        return {
            name: pa.Table.from_batches(self.batches[name], schema=schema).combine_chunks()
            for name, schema in self.schemas.items()
        }

    def _add_error(self, found: dict[str, list[dict[str, Any]]], row: CheckedRow, kind: str, reason: str) -> None:
        found["errors"].append({"row": row.row, "id": row.id, "kind": kind, "reason": reason})
        self.counts.update(["errors", f"errors: {kind}"])

    def _add_post(
        self,
        found: dict[str, list[dict[str, Any]]],
        row: CheckedRow,
        answer: Mapping[str, Any],
        features: np.ndarray | None,
    ) -> None:
        assert row.post is not None
        mentions, relations = answer["mentions"], answer["relations"]
        key = {"row": row.row, "post_id": row.id}
        post = {
            "row": row.row,
            "id": row.id,
            "text": row.post["text"],
            "has_picture": row.post["image"] is not None,
            "picture_error": row.picture_error,
            "num_mentions": len(mentions),
            "num_relations": len(relations),
        }
        if self.with_features:
            post["picture_features"] = features
        found["posts"].append(post)
        for number, mention in enumerate(mentions):
            place = {name: mention[name] for name in ("start", "end", "text")}
            found["mentions"].append({**key, "mention": number, **place, **_answer(mention)})
        for relation in relations:
            place = {name: relation[name] for name in ("head", "tail")}
            found["relations"].append({**key, **place, **_answer(relation)})
        self.counts["posts"] += 1
        self.counts["posts with picture"] += post["has_picture"]
        self.counts["posts without their picture"] += row.picture_error is not None
        self.counts["mentions"] += len(mentions)
        self.counts["mentions rejected"] += sum("scores" in one and one["label"] is None for one in mentions)
        self.counts["relations"] += len(relations)


def check_answer(answer: Mapping[str, Any]) -> None:
    """Refuse what is no answer to a post, so that it does not get into a table.

    Raises:
        ValueError: the extractor says so, a relation is not between two mentions, or a score is no number.
    """
    if answer.get("error"):
        raise ValueError(answer["error"])
    count = len(answer["mentions"])
    for name in ("mentions", "relations"):
        for number, entry in enumerate(answer[name]):
            if name == "relations" and not all(0 <= entry[key] < count for key in ("head", "tail")):
                pair = (entry["head"], entry["tail"])
                raise ValueError(f"{name}[{number}] must be between two of {count} mentions, got {pair}")
            for score in (entry.get("score"), *(one["score"] for one in entry.get("scores") or ())):
                if score is not None and not math.isfinite(score):
                    raise ValueError(f"{name}[{number}]: scores must be finite, got {score}")


def _answer(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a mention or pair; `None` for what was not asked for."""
    return {name: entry.get(name) for name in ANSWER}
