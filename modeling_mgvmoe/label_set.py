"""Candidate labels made ready for a model once: their vectors, their types, their tree if they are paths."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .candidate_embedder import CandidateEmbedder
from .candidates import check_labels
from .label_paths import LabelPaths, check_separator
from .label_types import read_label_types
from .rejection import Rejection
from .uncertainty import statistics_of_probs


class LabelSet:
    """Labels, what the model takes for them, and rankings of them.

    Args:
        labels: C of them.
        name: of the argument they came as, for messages.
        embedder: encodes and remembers them.
        descriptions, label_types, type_descriptions, template: as of the pipeline.
        separator: makes the labels paths.

    Attributes:
        model_inputs: arguments of the model's `forward` in place of the labels' words.

    Raises:
        ValueError: labels or what belongs to them are wrong.
    """

    def __init__(
        self,
        labels: Sequence[str],
        name: str,
        embedder: CandidateEmbedder,
        descriptions: Mapping[str, str | Sequence[str]] | None = None,
        label_types: Mapping[str, Any] | None = None,
        type_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        template: str | None = None,
        separator: str | None = None,
    ) -> None:
        self.labels = check_labels(labels, name)
        separator = check_separator(separator)
        self.paths = None if separator is None else LabelPaths(self.labels, separator)
        columns = self.labels
        if self.paths is not None:
            columns, descriptions = self.paths.names(), self.paths.node_descriptions(descriptions)
        processor = embedder.processor
        texts = processor.candidate_texts(columns, descriptions, template)
        types, allowed = read_label_types(label_types, columns)
        self.model_inputs = {"candidate_embeds": embedder(texts, columns)}
        if types:
            self.model_inputs["type_embeds"] = embedder(
                processor.candidate_texts(types, type_descriptions, "{}"), types
            )
            self.model_inputs["candidate_types"] = torch.tensor(allowed, device=embedder.model.device)

    def scores_of(self, logits: torch.Tensor) -> torch.Tensor:
        """(..., C) numbers whose softmax are the labels' probabilities, of the model's logits."""
        return logits if self.paths is None else self.paths.log_probs(logits)

    def ranked(
        self,
        logits: torch.Tensor,
        rejection: Rejection | None = None,
        top_k: int | None = None,
        probs: torch.Tensor | None = None,
        answer: int | None = None,
    ) -> dict[str, Any]:
        """The answer and the ranking of one mention or pair.

        Args:
            logits: (1 + samples, C), first those without noise; -inf for labels that are not open to it.
            rejection: decides whether it has any of the labels.
            top_k: of the ranking; default all.
            probs: (1 + samples, C), in place of the softmax of the logits.
            answer: column of the label, in place of the best.

        Returns:
            {"label", "score", "scores"}; the label is `None` if it is rejected. With samples also "deviation", here
            and in `scores`, and "mutual_information"; with paths "levels", the score of every level of the label.
        """
        probs = logits.softmax(-1) if probs is None else probs
        mean = probs[0] if len(probs) == 1 else probs[1:].mean(0)
        answer = int(mean.argmax()) if answer is None else answer
        means, open_ = mean.tolist(), (logits[0] > float("-inf")).tolist()
        # Stable: equal scores keep the order of the labels.
        order = [column for column in sorted(range(len(means)), key=means.__getitem__, reverse=True) if open_[column]]
        ranking = [{"label": self.labels[column], "score": means[column]} for column in order]
        result: dict[str, Any] = {
            "label": self.labels[answer],
            "score": means[answer],
            "scores": ranking[:top_k],
        }
        if len(probs) > 1:
            statistics = statistics_of_probs(probs[1:])
            result["deviation"] = float(statistics["std_probs"][answer])
            result["mutual_information"] = float(statistics["mutual_information"])
            for entry, column in zip(ranking, order, strict=True):
                entry["deviation"] = float(statistics["std_probs"][column])
        if self.paths is not None:
            result["levels"] = self.paths.levels(self.labels[answer], self.paths.sums(means))
        if rejection is not None and rejection.rejects(logits[0], result["score"]):
            result["label"] = None
        return result


__all__ = ["LabelSet"]
