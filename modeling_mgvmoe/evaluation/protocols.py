"""The three protocols: which posts meet which candidates, and what is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..inference.metrics import (
    AVERAGES,
    NONE,
    TaskResult,
    accuracy,
    calibrated,
    confidence,
    expected_calibration_error,
    fit_gamma,
    fit_rejection_threshold,
    generalised_scores,
    macro_f1,
    majority_label,
    precision_recall_f1,
    rejection_auroc,
    rejection_scores,
)

if TYPE_CHECKING:
    from ..data.evaluation_data import EvaluationData, Posts


Scorer = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Answers:
    """Answer of a scorer.

    Attributes:
        predictions: the best candidate per post.
        confidences: its probability (posts,).
    """

    predictions: list[str]
    confidences: np.ndarray

    def calibration_error(self, references: Sequence[str], rows: Sequence[int] | None = None) -> float:
        """ECE of all posts, or of some."""
        chosen = range(len(references)) if rows is None else rows
        right = [self.predictions[row] == references[row] for row in chosen]
        return expected_calibration_error(self.confidences[list(chosen)], right)


def answer(scorer: Scorer, posts: Posts, candidates: Sequence[str]) -> Answers:
    """The best candidate of every post and its probability."""
    return best_of(scores_of(scorer, posts, candidates), candidates)


def scores_of(scorer: Scorer, posts: Posts, candidates: Sequence[str]) -> np.ndarray:
    """Logits (posts, candidates), checked."""
    logits = np.asarray(scorer(posts, candidates), dtype=float)
    if logits.shape != (len(posts), len(candidates)) or np.isnan(logits).any():
        raise ValueError(
            f"scorer: logits ({len(posts)}, {len(candidates)}) without NaN are needed, got shape {logits.shape}"
            + (" with NaN" if np.isnan(logits).any() else "")
        )
    return logits


def best_of(logits: np.ndarray, candidates: Sequence[str]) -> Answers:
    """The best candidate of every row of logits and its probability."""
    best = logits.argmax(-1)
    confidences = 1 / np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)
    return Answers([candidates[column] for column in best.tolist()], confidences)


# By what a post is rejected under "open", and how the scores of it begin in the results.
REJECTION_METHODS = {"probability": "", "logit": "logit_"}
MAJORITY, CHANCE = "majority class", "uniform chance"


def evaluate_protocol(protocol: str, scorers: Mapping[str, Scorer], data: EvaluationData) -> dict[str, TaskResult]:
    """Evaluate scorers under a protocol, beside the majority class and uniform chance.

    Args:
        protocol: "unseen": test posts, candidates are the test classes, none of which is in training. "seen": the same
            for your own rows, whose test classes may be in training. "generalised":
            test posts and held-out posts of training classes, candidates are both. If the data has validation posts
            of classes that are not in training, half of the held-out ones fit a gamma with them (`metrics.py`), only
            the other half is tested on, and there are scores with and without gamma. "open": test posts and posts
            without a class; candidates: the test classes; a post is rejected when its best probability is below a
            threshold or, for the scores that begin with "logit_", its best logit. Its validation classes must be
            unseen too, and a scorer with `num_neighbors` has no such scores.
        scorers: by name; no name may be that of a floor.
        data: with the posts that `PROTOCOLS[protocol]` names.

    Returns:
        By task. A task without test posts is left out.

    Raises:
        ValueError: unknown protocol; posts that it needs are missing; a scorer's result has another shape or NaN.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    reserved = {MAJORITY, CHANCE} & set(scorers)
    if reserved:
        raise ValueError(f"scorers: {sorted(reserved)} are the names of the floors")
    check_unseen(protocol, data)
    needed = ("test", *PROTOCOLS[protocol])
    missing = [name for name in needed if name not in data.posts]
    if missing:
        raise ValueError(f"data: protocol {protocol!r} needs the posts {', '.join(needed)} (missing: {missing})")
    run = {"unseen": _unseen, "seen": _seen, "generalised": _generalised, "open": _open}[protocol]
    results = {}
    for task in data.labels["test"]:
        posts = {name: _of_task(data.posts[name], task) for name in needed}
        for name in OPTIONAL_POSTS[protocol]:
            if len(own := _of_task(data.posts.get(name, ()), task)):
                posts[name] = own
        if not len(posts["test"]):
            continue
        for name, own in posts.items():
            if not len(own):
                raise ValueError(f"data: protocol {protocol!r} needs {task} posts in {name}, got none")
        results[task] = run(task, scorers, posts, {split: names.get(task, ()) for split, names in data.labels.items()})
    if not results:
        raise ValueError("data: there are no test posts")
    return results


# What each protocol needs beside test posts.
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "unseen": (),
    "seen": (),
    "generalised": ("seen_test",),
    "open": ("validation", "none"),
}
# What it uses if it is there.
OPTIONAL_POSTS: dict[str, tuple[str, ...]] = {
    "unseen": (),
    "seen": (),
    "generalised": ("validation",),
    "open": (),
}


def check_unseen(protocol: str, data: EvaluationData) -> None:
    """Refuse to report classes as unseen that are seen in training, and as seen ones of which none is.

    Raises:
        ValueError: a test class, or a validation class of "open", is in training, and the protocol is not "seen"; or
            it is, and none of them is in training, although there are training posts. The message names the classes.
    """
    if protocol == "seen":
        trained = {name for names in data.labels["train"].values() for name in names}
        tested = {name for names in data.labels["test"].values() for name in names}
        if trained and tested and not trained & tested:
            raise ValueError(
                'protocol: "seen" needs test classes of which some are in training; protocol "unseen" is for these '
                f"(got {len(tested)} classes, none of them in training: {', '.join(sorted(tested)[:5])})"
            )
        return
    # The threshold of "open" is fitted on classes that are as unseen as those it is for.
    for split in ("test", "validation") if protocol == "open" else ("test",):
        for task, names in data.labels[split].items():
            both = [name for name in names if name in data.labels["train"].get(task, ())]
            if both:
                raise ValueError(
                    f'protocol: {protocol!r} needs {split} classes that are not in training; protocol "seen" takes '
                    f"any (got {len(both)} {task} classes of both: {', '.join(both[:5])})"
                )


def _of_task(posts: Posts, task: str) -> Posts:
    from ..data.evaluation_data import posts_of_task

    return posts_of_task(posts, task)


def _of_classes(posts: Posts, classes: Sequence[str]) -> Posts:
    from ..data.evaluation_data import select_posts

    return select_posts(posts, [row for row, (label,) in enumerate(_columns(posts, "label")) if label in classes])


def _columns(posts: Posts, *names: str) -> list[tuple[str, ...]]:
    from ..data.evaluation_data import without_images

    return [tuple(post[name] for name in names) for post in without_images(posts)]


def _unseen(task: str, scorers: Mapping[str, Scorer], posts: Mapping[str, Posts], labels: Mapping) -> TaskResult:
    return _closed("unseen", task, scorers, posts, tuple(labels["test"]), ())


def _seen(task: str, scorers: Mapping[str, Scorer], posts: Mapping[str, Posts], labels: Mapping) -> TaskResult:
    seen = tuple(name for name in labels["test"] if name in labels["train"])
    others = tuple(name for name in labels["test"] if name not in labels["train"])
    return _closed("seen", task, scorers, posts, (*seen, *others), seen)


def _closed(
    protocol: str,
    task: str,
    scorers: Mapping[str, Scorer],
    posts: Mapping[str, Posts],
    candidates: tuple[str, ...],
    seen: tuple[str, ...],
) -> TaskResult:
    """Test posts, of which each is of one of the candidates."""
    ids, references = _ids_and_labels(posts["test"], candidates)
    answers = {name: answer(scorer, posts["test"], candidates) for name, scorer in scorers.items()}
    majority = [majority_label(references)] * len(references)
    scores = {
        MAJORITY: _unseen_scores(majority, references, candidates),
        CHANCE: {"accuracy": 1 / len(candidates)},
    }
    for name, own in answers.items():
        scores[name] = _unseen_scores(own.predictions, references, candidates) | {
            "ece": own.calibration_error(references)
        }
    counts = {"posts": len(ids), "candidates": len(candidates)}
    counts |= {"candidates seen in training": len(seen)} if protocol == "seen" else {}
    return _result(protocol, task, candidates, seen, counts, scores, ids, references, answers)


def _unseen_scores(
    predictions: Sequence[str], references: Sequence[str], candidates: Sequence[str]
) -> dict[str, float]:
    averages = {
        f"{average}_{name}": value
        for average in AVERAGES
        for name, value in precision_recall_f1(predictions, references, candidates, average).items()
    }
    return {"accuracy": accuracy(predictions, references), **averages}


def _generalised(task: str, scorers: Mapping[str, Scorer], posts: Mapping[str, Posts], labels: Mapping) -> TaskResult:
    seen, unseen = tuple(labels["train"]), tuple(labels["test"])
    candidates = (*seen, *unseen)
    tested, fitting = [(posts["seen_test"], seen), (posts["test"], unseen)], None
    # Rows of one's own may be validated on classes of training.
    validated = tuple(name for name in labels["validation"] if name not in seen)
    validation = _of_classes(posts.get("validation", ()), validated)
    if len(validation):
        own, tested[0] = halves_by_id(posts["seen_test"]), (halves_by_id(posts["seen_test"])[1], seen)
        fitting = _fitting_posts(task, own, validation, seen, validated)
    ids: list[Any] = []
    references: list[str] = []
    for own_posts, names in tested:
        own_ids, own_references = _ids_and_labels(own_posts, names)
        ids, references = [*ids, *own_ids], [*references, *own_references]

    def scored(predictions: Sequence[str], prefix: str = "") -> dict[str, float]:
        groups = generalised_scores(predictions, references, seen, unseen)
        return {f"{prefix}{group}_{metric}": value for group, own in groups.items() for metric, value in own.items()}

    chance = dict.fromkeys(("seen_accuracy", "unseen_accuracy", "harmonic_accuracy"), 1 / len(candidates))
    scores = {MAJORITY: scored([majority_label(references)] * len(references)), CHANCE: chance}
    answers = {}
    for name, scorer in scorers.items():
        logits = np.concatenate([scores_of(scorer, own_posts, candidates) for own_posts, _ in tested])
        own_answers = answers[name] = best_of(logits, candidates)
        scores[name] = scored(own_answers.predictions) | {"ece": own_answers.calibration_error(references)}
        if fitting is not None:
            gamma = fitting.gamma(scorer)
            shifted = best_of(calibrated(logits, [label in seen for label in candidates], gamma), candidates)
            scores[name] |= scored(shifted.predictions, "calibrated_") | {"gamma": gamma}
    counts = {
        "posts of seen classes": len(tested[0][0]),
        "posts of unseen classes": len(posts["test"]),
        "seen candidates": len(seen),
        "unseen candidates": len(unseen),
        **({} if fitting is None else fitting.counts()),
    }
    return _result("generalised", task, candidates, seen, counts, scores, ids, references, answers)


@dataclass(frozen=True)
class _GammaFitting:
    """Data that gamma is fitted on: kinds of posts, their right labels, all candidates with seen ones first."""

    parts: list[Posts]
    references: list[str]
    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    def gamma(self, scorer: Scorer) -> float:
        candidates = (*self.seen, *self.unseen)
        logits = np.concatenate([scores_of(scorer, part, candidates) for part in self.parts])
        return fit_gamma(logits, candidates, self.references, self.seen)

    def counts(self) -> dict[str, int]:
        return {
            "gamma fitted on: posts of seen classes": len(self.parts[0]),
            "gamma fitted on: posts of validation classes": len(self.parts[1]),
            "gamma fitted on: candidates": len(self.seen) + len(self.unseen),
        }


def _fitting_posts(
    task: str, halves: tuple[Posts, Posts], validation: Posts, seen: tuple[str, ...], unseen: tuple[str, ...]
) -> _GammaFitting:
    if not len(halves[0]) or not len(halves[1]):
        raise ValueError(
            f"data: the ids must divide the held-out {task} posts of seen classes into two halves with posts, got "
            f"{len(halves[0])} and {len(halves[1])}"
        )
    references = [*_ids_and_labels(halves[0], seen)[1], *_ids_and_labels(validation, unseen)[1]]
    return _GammaFitting([halves[0], validation], references, seen, unseen)


def _open(task: str, scorers: Mapping[str, Scorer], posts: Mapping[str, Posts], labels: Mapping) -> TaskResult:
    candidates, fitting_candidates = tuple(labels["test"]), tuple(labels["validation"])
    if NONE in candidates:
        raise ValueError(f"data: no class may be called {NONE!r}, which is the answer of rejection")
    fitting_none, testing_none = halves_by_id(posts["none"])
    if not len(fitting_none) or not len(testing_none):
        raise ValueError(
            f"data: the ids must divide the {task} posts without a class into two halves with posts, got "
            f"{len(fitting_none)} and {len(testing_none)}"
        )
    ids, references = _ids_and_labels(posts["test"], candidates)
    _ids_and_labels(posts["validation"], fitting_candidates)
    known_rows = range(len(ids))
    known = [True] * len(ids) + [False] * len(testing_none)
    ids += [post_id for (post_id,) in _columns(testing_none, "id")]
    with_none = references + [NONE] * len(testing_none)
    share = len(testing_none) / len(ids)
    scores = {
        MAJORITY: {
            "auroc": 0.5,
            "rejection_accuracy": max(share, 1 - share),
            "rejection_f1": 2 * share / (1 + share) if share > 0.5 else 0.0,
            "known_accuracy": accuracy([majority_label(references)] * len(references), references),
        },
        CHANCE: {"auroc": 0.5, "rejection_accuracy": 0.5, "known_accuracy": 1 / len(candidates)},
    }
    answers = {}
    for name, scorer in scorers.items():
        fitted = [scores_of(scorer, own, fitting_candidates) for own in (posts["validation"], fitting_none)]
        is_known = [True] * len(posts["validation"]) + [False] * len(fitting_none)
        logits = np.concatenate([scores_of(scorer, own, candidates) for own in (posts["test"], testing_none)])
        best = best_of(logits, candidates)
        own = best.predictions[: len(references)]
        scores[name] = {
            "known_accuracy": accuracy(own, references),
            "known_macro_f1": macro_f1(own, references, candidates),
            "ece": best.calibration_error(with_none, known_rows),
        }
        thresholds = {}
        for method, prefix in REJECTION_METHODS.items():
            if method == "logit" and getattr(scorer, "num_neighbors", False):
                continue  # shared with neighbours, scores are log-probabilities
            measured = confidence(np.concatenate(fitted), method)
            thresholds[method] = threshold = fit_rejection_threshold(measured, is_known)
            measured = confidence(logits, method)
            rejection = rejection_scores(measured, known, threshold)
            scores[name] |= {
                f"{prefix}auroc": rejection_auroc(measured, known),
                **{f"{prefix}rejection_{metric}": value for metric, value in rejection.items()},
                f"{prefix}threshold": threshold,
            }
        rejected = best.confidences < thresholds["probability"]
        decided = [NONE if no else label for label, no in zip(best.predictions, rejected, strict=True)]
        answers[name] = Answers(decided, best.confidences)
    counts = {
        "posts of test classes": len(posts["test"]),
        "posts without a class": len(testing_none),
        "candidates": len(candidates),
        "fitted on: posts of validation classes": len(posts["validation"]),
        "fitted on: posts without a class": len(fitting_none),
        "fitted on: candidates": len(fitting_candidates),
    }
    return _result("open", task, candidates, (), counts, scores, ids, with_none, answers)


def halves_by_id(posts: Posts) -> tuple[Posts, Posts]:
    """Posts for fitting and for testing, divided by a hash of the id, so that neither moves the other."""
    from ..data.evaluation_data import id_digest, select_posts, without_images

    rows: tuple[list[int], list[int]] = ([], [])
    for row, post in enumerate(without_images(posts)):
        rows[id_digest(post) % 2].append(row)
    return select_posts(posts, rows[0]), select_posts(posts, rows[1])


def _ids_and_labels(posts: Posts, candidates: Sequence[str]) -> tuple[list[str], list[str]]:
    pairs = _columns(posts, "id", "label")
    strange = [pair for pair in pairs if pair[1] not in set(candidates)]
    if strange:
        raise ValueError(f"data: post {strange[0][0]!r} has {strange[0][1]!r}, which is not a class of its split")
    return [name for name, _ in pairs], [label for _, label in pairs]


def _result(
    protocol: str,
    task: str,
    candidates: tuple[str, ...],
    seen: tuple[str, ...],
    counts: dict[str, int],
    scores: dict[str, dict[str, float]],
    ids: list[str],
    references: list[str],
    answers: Mapping[str, Answers],
) -> TaskResult:
    return TaskResult(
        protocol=protocol,
        task=task,
        candidates=candidates,
        seen=seen,
        counts=counts,
        scores=scores,
        ids=ids,
        references=references,
        predictions={name: own.predictions for name, own in answers.items()},
        confidences={name: own.confidences.tolist() for name, own in answers.items()},
    )
