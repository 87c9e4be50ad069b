"""Scores of predictions, by scikit-learn where it has them.

Nothing to score is an error, never 0. A quotient with denominator 0 is 0: the precision of a class that is never
predicted, the recall of one that never occurs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

if TYPE_CHECKING:
    from ..labels import Rejection


# Not within the functions: the import draws from `random`, and a resumed run would draw at another step.

AVERAGES = ("macro", "micro", "weighted")
Numbers = Sequence[float] | np.ndarray
Truths = Sequence[bool] | np.ndarray


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    if isinstance(predictions, str) or isinstance(references, str):
        raise ValueError("predictions and references must be sequences of labels, got a string.")
    if len(predictions) != len(references) or not len(references):
        raise ValueError(
            "predictions and references must be equally long and not empty, "
            f"got {len(predictions)} and {len(references)}."
        )


def _check_labels(labels: Sequence[str], name: str = "labels") -> list[str]:
    if isinstance(labels, str) or not len(labels) or len(set(labels)) != len(labels):
        raise ValueError(f"{name} must be one or more different labels, got {labels!r:.80}.")
    return list(labels)


def accuracy(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of predictions that are right."""
    _check(predictions, references)
    return float(accuracy_score(references, predictions))


def macro_f1(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> float:
    """Mean over `labels`, all candidates, of F1 = 2 TP / (2 TP + FP + FN), which is 0 for an absent label."""
    return precision_recall_f1(predictions, references, labels)["f1"]


def majority_accuracy(references: Sequence[str]) -> float:
    """Accuracy of the best constant answer, the most frequent reference."""
    return accuracy([majority_label(references)] * len(references), references)


def majority_label(references: Sequence[str]) -> str:
    """The most frequent label; of several the one that comes first."""
    _check(references, references)
    return Counter(references).most_common(1)[0][0]


def per_class_scores(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each label.

    Args:
        predictions, references: a label per post.
        labels: to be scored. A post with another label counts where it is confused with one of these.

    Returns:
        By label `precision`, `recall`, `f1` and `support`, the number of references.
    """
    _check(predictions, references)
    names = _check_labels(labels)
    columns = precision_recall_fscore_support(references, predictions, labels=names, zero_division=0)
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in zip(names, *columns, strict=True)
    }


def precision_recall_f1(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str], average: str = "macro"
) -> dict[str, float]:
    """Precision, recall and F1 over several labels.

    Args:
        predictions, references: a label per post.
        labels: to be averaged over. A label without posts counts in "macro".
        average: "macro", "micro" or "weighted", as scikit-learn has them.

    Returns:
        `precision`, `recall`, `f1`. The macro F1 is the mean of the classes' F1, not the F1 of the means.
    """
    if average not in AVERAGES:
        raise ValueError(f"average must be one of {', '.join(AVERAGES)}, got {average!r}.")
    _check(predictions, references)
    names = _check_labels(labels)
    values = precision_recall_fscore_support(references, predictions, labels=names, average=average, zero_division=0)
    return {name: float(value) for name, value in zip(("precision", "recall", "f1"), values[:3], strict=True)}


def confusion_matrix(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Counts (labels, labels): row the right label, column the predicted one.

    Raises:
        ValueError: a prediction or reference is not among `labels`, where it would have no cell.
    """
    _check(predictions, references)
    names = _check_labels(labels)
    strange = sorted({*predictions, *references} - set(names))
    if strange:
        raise ValueError(f"labels must hold every prediction and reference, got others: {strange[:5]}.")
    if len(names) == 1:  # where scikit-learn warns
        return np.array([[len(references)]])
    return metrics.confusion_matrix(references, predictions, labels=names)


def harmonic_mean(seen: float, unseen: float) -> float:
    """2 seen unseen / (seen + unseen), 0 if both are 0: high only if both are."""
    if seen < 0 or unseen < 0:
        raise ValueError(f"seen and unseen must not be negative, got {seen} and {unseen}.")
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


def generalised_scores(
    predictions: Sequence[str], references: Sequence[str], seen: Sequence[str], unseen: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Scores of seen and of unseen classes when all of them are candidates, and their harmonic means.

    Args:
        predictions, references: a label per post, of either group.
        seen, unseen: classes of training, and the others.

    Returns:
        `seen` and `unseen`, each with the `accuracy` of its posts and the `macro_f1` of its classes, which posts of
        the other group lower; and `harmonic`, the harmonic means of both.

    Raises:
        ValueError: a group has no post, a class is in both groups, or a reference in none.
    """
    _check(predictions, references)
    groups = {"seen": set(_check_labels(seen, "seen")), "unseen": set(_check_labels(unseen, "unseen"))}
    if groups["seen"] & groups["unseen"]:
        raise ValueError(
            f"seen and unseen must share no class, got {sorted(groups['seen'] & groups['unseen'])[:5]} in both."
        )
    strange = sorted(set(references) - groups["seen"] - groups["unseen"])
    if strange:
        raise ValueError(f"references must be seen or unseen classes, got others: {strange[:5]}.")
    scores = {}
    for group, names in groups.items():
        rows = [row for row, name in enumerate(references) if name in names]
        if not rows:
            raise ValueError(f"references: posts of {group} classes are needed, got none.")
        own = [references[row] for row in rows]
        scores[group] = {
            "accuracy": accuracy([predictions[row] for row in rows], own),
            "macro_f1": macro_f1(predictions, references, sorted(names)),
        }
    scores["harmonic"] = {
        metric: harmonic_mean(scores["seen"][metric], scores["unseen"][metric]) for metric in ("accuracy", "macro_f1")
    }
    return scores


def _known(scores: Numbers, is_known: Truths) -> tuple[np.ndarray, np.ndarray]:
    values, known = np.asarray(scores, dtype=float), np.asarray(is_known)
    if values.ndim != 1 or values.shape != known.shape or not len(values):
        raise ValueError(
            f"scores and is_known must be equally long and not empty, got shapes {values.shape} and {known.shape}."
        )
    if not np.isin(known, (0, 1)).all():
        raise ValueError(f"is_known must hold true and false, got {sorted(set(known.tolist()), key=str)[:5]}.")
    if np.isnan(values).any():
        raise ValueError(f"scores must be numbers, got NaN in {int(np.isnan(values).sum())} places.")
    return values, known.astype(bool)


def rejection_auroc(scores: Numbers, is_known: Truths) -> float:
    """Probability that a post of a known class scores higher than one without a class; a tie counts one half.

    Args:
        scores: of posts; high means that some candidate class applies.
        is_known: whether one does.

    Raises:
        ValueError: there are not posts of both kinds.
    """
    values, known = _known(scores, is_known)
    positive, negative = int(known.sum()), int((~known).sum())
    if not positive or not negative:
        raise ValueError(f"is_known must hold both kinds, got {positive} true and {negative} false.")
    return float(roc_auc_score(known, values))


def rejection_scores(scores: Numbers, is_known: Truths, threshold: float) -> dict[str, float]:
    """Accuracy of rejecting posts by a threshold, and precision, recall and F1 of the rejected ones.

    Args:
        scores, is_known: as of [`rejection_auroc`].
        threshold: a post with a lower score is rejected.
    """
    values, known = _known(scores, is_known)
    if np.isnan(threshold):
        raise ValueError(f"threshold must be a number, got {threshold}.")
    rejected = values < threshold
    precision, recall, f1, _ = precision_recall_fscore_support(~known, rejected, average="binary", zero_division=0)
    return {
        "accuracy": float((rejected != known).mean()),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }


def rejection_f1(scores: Numbers, is_known: Truths, threshold: float) -> float:
    """F1 of rejecting posts without a class; see [`rejection_scores`]."""
    return rejection_scores(scores, is_known, threshold)["f1"]


def fit_rejection_threshold(scores: Numbers, is_known: Truths) -> float:
    """The lowest threshold with the best [`rejection_f1`] on these posts, half way between two scores or above all.

    Raises:
        ValueError: there is no post without a class, so that every threshold has F1 0.
    """
    values, known = _known(scores, is_known)
    if known.all():
        raise ValueError(f"is_known must hold posts without a class, got {len(known)} times true.")
    distinct, group = np.unique(values, return_inverse=True)
    if not np.isfinite(distinct).all():
        raise ValueError("scores must be finite, got an infinite one.")
    # Rejected up to distinct score k: its posts and those of the lower ones. To reject none is never best.
    below = np.cumsum(np.bincount(group))
    right = np.cumsum(np.bincount(group, weights=~known))
    best = int(np.argmax(right / (below + (~known).sum())))  # half of F1
    if best + 1 == len(distinct):
        return float(np.nextafter(distinct[-1], np.inf))
    low, high = distinct[best], distinct[best + 1]
    middle = low + (high - low) / 2
    # Between two neighbouring numbers there is none.
    return float(middle if middle > low else high)


def expected_calibration_error(confidences: Numbers, is_right: Truths, num_bins: int = 15) -> float:
    """Mean over posts of |accuracy - mean confidence| of the bin that the post is in.

    Eq. 3 of Guo et al., On Calibration of Modern Neural Networks (ICML 2017): bins of equal width, open on the left.

    Args:
        confidences: probability of the predicted label, per post.
        is_right: whether that label is right.
        num_bins: at least 1.
    """
    values, right = np.asarray(confidences, dtype=float), np.asarray(is_right)
    if values.ndim != 1 or values.shape != right.shape or not len(values):
        raise ValueError(
            "confidences and is_right must be equally long and not empty, "
            f"got shapes {values.shape} and {right.shape}."
        )
    # Single precision may sum a softmax to a little more than 1.
    if not ((values >= 0) & (values <= 1 + 1e-6)).all():
        raise ValueError(f"confidences must lie in [0, 1], got {values.min()} to {values.max()}.")
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
    inner = np.arange(1, num_bins) / num_bins
    bins = np.searchsorted(inner, values, side="left")
    gaps = np.bincount(bins, weights=right - values)
    return float(np.abs(gaps).sum() / len(values))


# How the answer "of no candidate class" is written. No class may be called so.
NONE = "(none)"


@dataclass(frozen=True)
class TaskResult:
    """The result of one task under one protocol.

    Attributes:
        protocol: its name.
        task: "typing" or "relation".
        candidates: the labels among which was chosen.
        seen: those of them that were trained on.
        counts: number of posts by kind.
        scores: by method and metric. What a method does not have, such as the calibration of a majority, is left out.
        ids: of the posts.
        references: the right label per post, `NONE` for a post without a class.
        predictions: by scorer, per post; under "open" `NONE` where it is rejected.
        confidences: by scorer, the probability of the best candidate per post.
    """

    protocol: str
    task: str
    candidates: tuple[str, ...]
    seen: tuple[str, ...]
    counts: dict[str, int]
    scores: dict[str, dict[str, float]]
    ids: list[str]
    references: list[str]
    predictions: dict[str, list[str]]
    confidences: dict[str, list[float]] = field(repr=False)

    @property
    def classes(self) -> list[str]:
        """The candidates, and `NONE` if posts without a class were asked about: the rows of the confusion matrix."""
        return [*self.candidates, *([NONE] if self.protocol == "open" else [])]

    def per_class(self, method: str) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support of each class."""
        return per_class_scores(self.predictions[method], self.references, self.classes)

    def confusion(self, method: str) -> np.ndarray:
        """Counts (classes, classes): row the right label, column the answer."""
        return confusion_matrix(self.predictions[method], self.references, self.classes)


REJECT_BY = ("probability", "ratio", "logit")  # `COMPARED` of `labels`, which imports torch


def confidence(logits: np.ndarray, reject_by: str) -> np.ndarray:
    """Confidence of each row in its best candidate, on the scale of `threshold` and `reject_by`.

    Args:
        logits: (posts, candidates).
        reject_by: "probability" of the best candidate, its "ratio" to the average other one, or its "logit".

    Returns:
        (posts,).
    """
    if reject_by not in REJECT_BY:
        raise ValueError(f"reject_by must be one of {', '.join(REJECT_BY)}, got {reject_by!r}")
    best = logits.max(-1)
    if reject_by == "logit":
        return best
    total = np.exp(logits - best[:, None]).sum(-1)
    if reject_by == "probability":
        return 1 / total
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 1, (logits.shape[-1] - 1) / (total - 1), np.inf)


def fit_threshold(logits: np.ndarray, is_known: Sequence[bool] | np.ndarray, reject_by: str = "logit") -> float:
    """The `threshold` of `extract` and the pipelines with the best F1 of rejection on some posts.

    Args:
        logits: (posts, candidates), of posts of classes that are not trained on and of posts without a class.
        is_known: whether a post is of some class.
        reject_by: what the threshold is about.
    """
    return fit_rejection_threshold(confidence(np.asarray(logits, dtype=float), reject_by), is_known)


def fit_calibration(logits: Sequence[float] | np.ndarray, is_right: Truths) -> tuple[float, float]:
    """Slope and intercept for `score_calibration` of a model's configuration, by logistic regression (Platt scaling).

    Args:
        logits: (posts,), of the best label of each; of lists that have the right label and of lists that have not.
        is_right: whether that label is right.

    Raises:
        ValueError: all answers are right, none is, or right ones have no higher logits.
    """
    right = np.asarray(is_right, dtype=bool)
    if right.all() or not right.any():
        raise ValueError(f"is_right must have right and wrong answers, got {int(right.sum())} of {len(right)} right.")
    fitted = LogisticRegression(C=np.inf).fit(np.asarray(logits, dtype=float)[:, None], right)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope <= 0:
        raise ValueError(f"logits must be higher for right answers than for wrong ones, got a slope of {slope:.3g}.")
    return slope, intercept


def fit_rejection(logits: np.ndarray, is_known: Sequence[bool] | np.ndarray, method: str = "logit") -> Rejection:
    """[`fit_threshold`] as version 0.1 called it; version 0.3 will not have it."""
    from ..labels import Rejection

    return Rejection(fit_threshold(logits, is_known, method), method)


def calibrated(logits: np.ndarray, is_seen: Sequence[bool] | np.ndarray, gamma: float) -> np.ndarray:
    """Logits (posts, labels) with gamma taken off those of seen classes."""
    return np.asarray(logits, dtype=float) - gamma * np.asarray(is_seen, dtype=float)


def fit_gamma(logits: np.ndarray, labels: Sequence[str], references: Sequence[str], seen: Sequence[str]) -> float:
    """The gamma with the greatest harmonic mean of the accuracies of seen and of unseen classes.

    Tries all values at which an answer changes; the one nearest to 0 wins a tie.

    Args:
        logits: (posts, labels), of posts of both kinds.
        labels: their columns.
        references: the right label per post.
        seen: those of the labels that were trained on.

    Raises:
        ValueError: there are not posts and labels of both kinds, or logits are not finite.
    """
    scores = np.asarray(logits, dtype=float)
    if scores.shape != (len(references), len(labels)) or not np.isfinite(scores).all():
        raise ValueError(
            f"logits must be finite and ({len(references)}, {len(labels)}), posts and labels, got {scores.shape}."
        )
    groups = np.array([label in set(seen) for label in labels])
    of_seen = np.array([reference in set(seen) for reference in references])
    for name, own in (("labels", groups), ("references", of_seen)):
        if own.all() or not own.any():
            raise ValueError(f"{name} must be of seen and of unseen classes, got {int(own.sum())} of seen classes.")
    names = np.array(labels, dtype=object)
    best = {}
    for kind, columns in ((True, np.flatnonzero(groups)), (False, np.flatnonzero(~groups))):
        place = scores[:, columns].argmax(-1)
        right = names[columns[place]] == np.array(references, dtype=object)
        best[kind] = scores[np.arange(len(scores)), columns[place]], right
    # A post gets its best unseen label where gamma is above its margin.
    margins = best[True][0] - best[False][0]
    distinct = np.unique(margins)
    tried = np.concatenate([[distinct[0] - 1], (distinct[:-1] + distinct[1:]) / 2, [distinct[-1] + 1], [0.0]])
    order = np.sort(margins[of_seen & best[True][1]]), np.sort(margins[~of_seen & best[False][1]])
    # Right are seen posts whose margin is at least gamma, and unseen ones whose margin is below.
    seen_accuracy = (len(order[0]) - np.searchsorted(order[0], tried, side="left")) / of_seen.sum()
    unseen_accuracy = np.searchsorted(order[1], tried, side="left") / (~of_seen).sum()
    total = seen_accuracy + unseen_accuracy
    harmonic = np.divide(2 * seen_accuracy * unseen_accuracy, total, out=np.zeros_like(total), where=total > 0)
    equal = tried[harmonic >= harmonic.max() - 1e-12]
    return float(equal[np.abs(equal).argmin()])
