"""Prediction: logits of a model for many posts, and its metrics on posts of unseen classes.

Axes: B = posts, C = candidate labels, N = draws from the experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ..data.encoding import PostCollator, TypesOfLabels, encode_posts, has_image, has_image_text
from ..data.evaluation_data import select_posts, without_images
from ..data.progress_bar import progress_bar
from ..data.schema import task_of
from ..data.sketchbook import neutral_text
from ..labels import in_evaluation
from ..modeling_mgvmoe import NO_LABEL
from ..sample_graph import number_groups, propagate_labels
from ..spans import pair_key
from .metrics import accuracy, macro_f1, majority_accuracy

if TYPE_CHECKING:
    from transformers import EvalPrediction

    from ..modeling_mgvmoe import MGVMoEForZeroShotIE, MGVMoEOutput
    from ..processing_mgvmoe import MGVMoEProcessor


def outputs_in_batches(
    model: MGVMoEForZeroShotIE,
    encoded_posts: Sequence[Mapping[str, Any]],
    collator: PostCollator,
    batch_size: int = 64,
    progress: str | None = None,
    candidates: Mapping[str, torch.Tensor] | None = None,
    num_samples: int | None = None,
    leave: bool = True,
) -> Iterator[tuple[list[int], MGVMoEOutput]]:
    """Yield the model's outputs batch by batch.

    Args:
        model: left in the mode, training or evaluation, in which it came.
        encoded_posts: of [`encode_posts`]; their labels are not looked at.
        collator: with the C candidate labels.
        batch_size: in posts; changes nothing but speed.
        progress: title of a progress bar over the posts; `None` shows none.
        candidates: of [`embed_candidates`], where they are known already.
        num_samples: draws from the experts; see `objectives.py`.
        leave: keep the bar on the screen when it is done.

    Yields:
        The numbers of B posts, and the model's output for them; logits are -inf for the labels of other tasks.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    device = model.device
    if candidates is None:
        candidates = embed_candidates(model, collator)
    # Posts of like length together, so that little is padded; those with an image apart from the others, so that
    # the vision tower runs for few batches where few posts have one.
    order = sorted(
        range(len(encoded_posts)),
        key=lambda index: (
            has_image(encoded_posts[index]),
            has_image_text(encoded_posts[index]),
            len(encoded_posts[index]["input_ids"]),
        ),
    )
    with progress_bar(desc=progress, total=len(order), leave=leave) as bar:
        for start in range(0, len(order), batch_size):
            chunk = order[start : start + batch_size]
            batch = collator.model_inputs([encoded_posts[index] for index in chunk])
            inputs = {name: value.to(device) for name, value in batch.items()}
            with in_evaluation(model):
                output = model(**inputs, **candidates, num_samples=num_samples)
            yield chunk, output
            bar.update(len(chunk))


def embed_candidates(model: MGVMoEForZeroShotIE, collator: PostCollator) -> dict[str, torch.Tensor]:
    """The collator's labels, and types, as the model takes them instead of their words, in evaluation mode."""
    with in_evaluation(model):
        return model.encode_candidates({name: ids.to(model.device) for name, ids in collator.candidates.items()})


class ModelScorer:
    """Scores posts with a model, as the protocols ask for it.

    Args:
        model: scores.
        processor: of the model.
        label_descriptions: sentences instead of labels, as in training.
        types: of heads and tails, for models with `score="similarity"`; others are not told them.
        batch_size: in posts; changes nothing but speed.
        progress: show a progress bar.
        num_neighbors: posts that are scored together share their probabilities with this many nearest ones, see
            `sample_graph.propagate_labels`; 0: with none.
    """

    # Posts that are encoded at a time: their prepared images are in memory together.
    encoded_at_once = 512

    def __init__(
        self,
        model: MGVMoEForZeroShotIE,
        processor: MGVMoEProcessor,
        label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
        batch_size: int = 64,
        progress: bool = False,
        types: TypesOfLabels | None = None,
        num_neighbors: int = 0,
    ):
        if num_neighbors < 0:
            raise ValueError(f"num_neighbors must not be negative, got {num_neighbors}.")
        self.num_neighbors = num_neighbors
        self.model, self.processor, self.label_descriptions = model, processor, label_descriptions
        self.types = types if model.config.score == "similarity" else None
        self.batch_size, self.progress = batch_size, progress

    def __call__(self, posts: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> np.ndarray:
        """Logits (posts, labels).

        Args:
            posts: in the package's schema, all of one task.
            labels: the candidates.
        """
        return self._score(posts, labels, None)[0]

    def with_samples(self, posts: Sequence[Mapping[str, Any]], labels: Sequence[str], num_samples: int) -> np.ndarray:
        """Logits (1 + num_samples, posts, labels), first those without noise; see `objectives.py`.

        Neighbours share no draws: `num_neighbors` takes no part here.
        """
        return self._score(posts, labels, num_samples)

    def _score(self, posts: Sequence[Mapping[str, Any]], labels: Sequence[str], num_samples: int | None) -> np.ndarray:
        tasks = {task_of(post) for post in without_images(posts)}
        if len(tasks) != 1:
            raise ValueError(f"posts must be of one task, got {sorted(tasks) or 'none'}.")
        collator = PostCollator(self.processor, {tasks.pop(): labels}, self.label_descriptions, types=self.types)
        candidates = embed_candidates(self.model, collator)
        logits = np.empty((1 + (num_samples or 0), len(posts), len(labels)))
        nodes = torch.empty(len(posts), 0)
        with progress_bar(desc="scoring", total=len(posts), show=self.progress) as bar:
            for start in range(0, len(posts), self.encoded_at_once):
                chosen = range(start, min(start + self.encoded_at_once, len(posts)))
                encoded = encode_posts(select_posts(posts, chosen), self.processor)
                batches = outputs_in_batches(
                    self.model, encoded, collator, self.batch_size, candidates=candidates, num_samples=num_samples
                )
                for rows, output in batches:
                    own = [start + row for row in rows]
                    # In double precision, as the pipeline has it.
                    logits[0, own] = cast(torch.Tensor, output.logits).double().cpu().numpy()
                    if output.sample_logits is not None:
                        logits[1:, own] = output.sample_logits.double().cpu().numpy()
                    if self.num_neighbors:
                        embeds = cast(torch.Tensor, output.mention_embeds).float().cpu()
                        nodes = nodes if nodes.shape[1] else nodes.new_empty(len(posts), embeds.shape[1])
                        nodes[own] = embeds
                    bar.update(len(rows))
        if self.num_neighbors and num_samples is None:
            probs = torch.from_numpy(logits[0]).softmax(-1)
            # The two directions of a pair, which are near each other and say the contrary, share nothing.
            pairs = number_groups(pair_key(post["text"], post["mentions"]) for post in without_images(posts))
            shared = propagate_labels(probs, nodes, self.num_neighbors, groups=pairs)
            logits[0] = shared.clamp(min=torch.finfo(shared.dtype).tiny).log().numpy()
        return logits


# What of a post the model may see.
CONDITIONS = ("text + image", "text only", "image only")


def predict_labels(
    model: MGVMoEForZeroShotIE,
    encoded_posts: Sequence[Mapping[str, Any]],
    collator: PostCollator,
    batch_size: int = 64,
    progress: str | None = None,
    leave: bool = True,
) -> list[str]:
    """The best candidate of every post; of several with one score the first.

    Args:
        model: left in the mode, training or evaluation, in which it came.
        encoded_posts: of [`encode_posts`].
        collator: with the candidate labels.
        batch_size: in posts; changes nothing but speed.
        progress: title of a progress bar over the posts; `None` shows none.
        leave: keep the bar on the screen when it is done.

    Returns:
        A label per post, in the order of the posts.
    """
    names = collator.candidate_labels
    predictions = [""] * len(encoded_posts)
    for rows, output in outputs_in_batches(model, encoded_posts, collator, batch_size, progress, leave=leave):
        logits = cast(torch.Tensor, output.logits)
        if bool(logits.isnan().any()):
            raise ValueError("logits: a post has NaN scores, so the weights are damaged or there was an overflow")
        for row, column in zip(rows, logits.argmax(-1).tolist(), strict=True):
            predictions[row] = names[column]
    return predictions


def score_predictions(
    encoded_posts: Sequence[Mapping[str, Any]], predictions: Sequence[str], labels: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Accuracy and macro-F1 for each task, beside uniform chance and the best constant answer.

    Raises:
        ValueError: a post's label is not among those of its task.
    """
    scores = {}
    for task, names in labels.items():
        rows = [index for index, post in enumerate(encoded_posts) if post["task"] == task]
        if not rows:
            continue
        guessed = [predictions[index] for index in rows]
        actual = [encoded_posts[index]["label"] for index in rows]
        strange = sorted(set(actual) - set(names))
        if strange:
            raise ValueError(
                f"labels[{task!r}]: all labels of the posts must be among them, got others: {strange[:5]}"
            )
        scores[task] = {
            "n": len(rows),
            "accuracy": accuracy(guessed, actual),
            "macro_f1": macro_f1(guessed, actual, names),
            "chance": 1 / len(names),
            "majority": majority_accuracy(actual),
        }
    return scores


def seen_as(post: Mapping[str, Any], condition: str) -> dict[str, Any]:
    """The post with what `condition` hides taken out.

    Args:
        post: in the package's schema.
        condition: one of `CONDITIONS`. "text only" takes image and image text away; "image only" puts
            a sentence without any hint instead of the text, around the same mentions.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"condition: one of {CONDITIONS} is needed (got {condition!r})")
    if condition == "text only":
        return {**post, "image": None, **({"image_text": None} if "image_text" in post else {})}
    return neutral_text(post) if condition == "image only" else dict(post)


def evaluate_conditions(
    model: MGVMoEForZeroShotIE,
    processor: MGVMoEProcessor,
    posts: Sequence[Mapping[str, Any]],
    labels: Mapping[str, Sequence[str]],
    batch_size: int = 64,
    label_descriptions: Mapping[str, str | Sequence[str]] | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores on unseen classes by condition, then task: which modality the model needs.

    Args:
        posts: of one split.
        labels: the split's candidate labels of each task.
        batch_size: in posts.
        label_descriptions: sentences instead of labels, as in training.
    """
    collator = PostCollator(processor, labels, label_descriptions)
    results = {}
    for condition in CONDITIONS:
        encoded = encode_posts((seen_as(post, condition) for post in posts), processor)
        results[condition] = score_predictions(encoded, predict_labels(model, encoded, collator, batch_size), labels)
    return results


def make_compute_metrics(collators: Mapping[str, PostCollator]) -> Callable[[EvalPrediction], dict[str, float]]:
    """A function for `Trainer(compute_metrics=...)`.

    It returns `macro_f1` and `accuracy`, each the mean over the tasks that have posts, and both for each of these
    tasks, as in `typing_macro_f1`. `macro_f1` is what our own loop chooses by: `metric_for_best_model="macro_f1"`.

    The task of a post follows from its candidates, the columns whose logits are not -inf. Posts without a label
    (-100) do not count; where no post has one, there are no scores.

    Args:
        collators: for each split that is evaluated the one that made its batches.

    Raises:
        ValueError: two tasks of a collator have the same candidates.
    """
    # The candidates of each task, as the mask of a row of logits; and the names of all columns.
    splits = [
        ({mask.numpy().tobytes(): task for task, mask in collator.task_masks.items()}, collator.candidate_labels)
        for collator in collators.values()
    ]
    for collator, (tasks, _) in zip(collators.values(), splits, strict=True):
        if len(tasks) < len(collator.task_masks):
            raise ValueError(
                "collators: tasks must have different candidates to be told apart, got the same for two of "
                f"{', '.join(collator.task_masks)}."
            )

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        """Scores of all posts.

        Args:
            prediction: `predictions` (N, C), logits; `label_ids` (N,), columns, or -100.

        Raises:
            ValueError: there are other outputs than logits, a logit is NaN, the logits have other candidates than
                those of any split, or a label is none of the columns.
        """
        logits: Any = prediction.predictions
        if isinstance(logits, tuple):
            raise ValueError(
                f"predictions must be logits alone, got {len(logits)} outputs; name the others in "
                "model.config.keys_to_ignore_at_inference or leave output_hidden_states and output_attentions off."
            )
        if np.isnan(logits).any():
            raise ValueError(f"predictions hold NaN, got it in {int(np.isnan(logits).any(-1).sum())} posts.")
        patterns = [row.tobytes() for row in logits != -np.inf]
        tasks, names = _fitting_split(splits, logits, set(patterns))
        predicted, actual = logits.argmax(-1), np.asarray(prediction.label_ids)
        known = actual != NO_LABEL
        if (wrong := actual[known & ((actual < 0) | (actual >= logits.shape[1]))]).size:
            raise ValueError(f"label_ids must be in [0, {logits.shape[1]}), or {NO_LABEL} for none, got {wrong[:5]}.")
        scores: dict[str, dict[str, float]] = {}
        for pattern, task in tasks.items():
            rows = [row for row, own in enumerate(patterns) if own == pattern and known[row]]
            if not rows:
                continue
            guesses, truths = ([names[column] for column in columns[rows]] for columns in (predicted, actual))
            classes = [name for name, own in zip(names, np.frombuffer(pattern, dtype=bool), strict=True) if own]
            scores[task] = {"macro_f1": macro_f1(guesses, truths, classes), "accuracy": accuracy(guesses, truths)}
        if not scores:
            return {}
        means = {
            metric: sum(own[metric] for own in scores.values()) / len(scores) for metric in ("macro_f1", "accuracy")
        }
        return means | {f"{task}_{metric}": value for task, own in scores.items() for metric, value in own.items()}

    return compute_metrics


def _fitting_split(
    splits: Sequence[tuple[dict[bytes, str], list[str]]], logits: np.ndarray, patterns: set[bytes]
) -> tuple[dict[bytes, str], list[str]]:
    """The tasks by their candidates, and the labels, of the split that logits are of."""
    for tasks, names in splits:
        if len(names) == logits.shape[1] and patterns <= set(tasks):
            return tasks, names
    raise ValueError(
        f"predictions must be over the candidates of one split, of which there are "
        f"{sorted({len(names) for _, names in splits})}, got logits {logits.shape} with {len(patterns)} sets of "
        "candidates."
    )
