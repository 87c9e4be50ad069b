"""The unseen protocol: candidates are the classes of the split, none of which was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data.encoding import PostCollator, encode_posts
from ..data.sketchbook import neutral_text
from .metrics import accuracy, macro_f1, majority_accuracy
from .scoring import logits_in_batches

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor

# What of a post the model may see.
CONDITIONS = ("text + picture", "text only", "picture only")


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
    for rows, logits in logits_in_batches(model, encoded_posts, collator, batch_size, progress, leave=leave):
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
        condition: one of `CONDITIONS`. "text only" takes the picture away; "picture only" puts a sentence without any
            hint in place of the text, around the same mentions.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"condition: one of {CONDITIONS} is needed (got {condition!r})")
    if condition == "text only":
        return {**post, "image": None}
    return neutral_text(post) if condition == "picture only" else dict(post)


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
        label_descriptions: sentences in place of labels, as in training.
    """
    collator = PostCollator(processor, labels, label_descriptions)
    results = {}
    for condition in CONDITIONS:
        encoded = encode_posts((seen_as(post, condition) for post in posts), processor)
        results[condition] = score_predictions(encoded, predict_labels(model, encoded, collator, batch_size), labels)
    return results
