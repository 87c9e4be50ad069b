"""One row of the comparison: make a method, train it, choose on validation classes, score it on test classes."""

from __future__ import annotations

import importlib
import os
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..data.encoding import PostCollator, TypesOfLabels, encode_posts
from ..data.precision import choose_precision
from ..data.zero_shot_data import ZeroShotData
from .baselines.fit import FitArguments, fit
from .methods import Method
from .metrics import majority_label
from .predict import predict_labels, score_predictions
from .similarity import similarity_predictions

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor
    from ..training.arguments import ModelArguments, TrainingArguments


@dataclass(frozen=True)
class Comparison:
    """What all methods of a comparison share.

    Attributes:
        data: posts and classes.
        model_arguments, training_arguments: the recipe of MG-VMoE; baselines take encoders, lengths and whatever of it
            applies to them.
        fit_arguments: of the baselines.
        names: for a relation its name between its types ("person member of organization"), for methods that read
            names; other labels are read as they are.
        one_sentence: for each label its description, for methods that read one sentence; without it, names are read.
        progress: whether to show bars.
    """

    data: ZeroShotData
    model_arguments: ModelArguments
    training_arguments: TrainingArguments
    fit_arguments: FitArguments
    names: Mapping[str, str]
    one_sentence: Mapping[str, str]
    progress: bool = True

    def words(self, method: Method) -> Mapping[str, Any]:
        """What a method reads for labels, in place of their names."""
        if method.words == "all":
            return self.data.label_descriptions
        return self.one_sentence if method.words == "description" else self.names


def run_method(comparison: Comparison, method: Method, seed: int) -> dict[str, dict[str, float]]:
    """Scores on the test classes, by task.

    Args:
        comparison: data and recipe.
        method: which.
        seed: of weights, order and noise; plays no part where nothing is trained.
    """
    posts, labels = comparison.data.posts["test"], comparison.data.labels["test"]
    stated = [{"label": post["label"], "task": task} for task, own in _by_task(posts).items() for post in own]
    if method.kind == "majority":
        answer = {task: majority_label([post["label"] for post in own]) for task, own in _by_task(posts).items()}
        return score_predictions(stated, [answer[post["task"]] for post in stated], labels)
    model, processor = _build(comparison, method, seed)
    if method.kind == "similarity":
        predictions = [
            label
            for task, own in _by_task(posts).items()
            for label in similarity_predictions(model, processor, own, labels[task], comparison.words(method))
        ]
        return score_predictions(stated, predictions, labels)
    if method.kind == "baseline":
        scorer: Any = _trained_baseline(comparison, method, seed, model, processor)
    else:
        scorer, processor = _trained_model(comparison, method, seed, model, processor)
    encoded = encode_posts(posts, processor)
    collator = _collator(comparison, method, processor, "test")
    return score_predictions(encoded, _predict(comparison, scorer, encoded, collator), labels)


def _predict(
    comparison: Comparison, scorer: Any, encoded: Sequence[Mapping[str, Any]], collator: PostCollator
) -> list[str]:
    """In the precision of the training."""
    import torch

    half = choose_precision(comparison.fit_arguments.mixed_precision, scorer.device) == "bf16"
    with torch.autocast(scorer.device.type, torch.bfloat16, enabled=half):
        return predict_labels(scorer, encoded, collator)


def fewer_posts(posts: Sequence[Mapping[str, Any]], per_class: int, seed: int = 0) -> list[Mapping[str, Any]]:
    """At most so many posts of each class, drawn without regard to anything but the class; the order stays.

    Validation classes are many times larger than is needed to choose a step.
    """
    order = list(range(len(posts)))
    random.Random(seed).shuffle(order)
    counts: Counter[str] = Counter()
    kept = set()
    names = [post["label"] for post in posts]
    for index in order:
        counts[names[index]] += 1
        if counts[names[index]] <= per_class:
            kept.add(index)
    return [posts[index] for index in sorted(kept)]


def _by_task(posts: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    from ..data.schema import task_of

    found: dict[str, list[Mapping[str, Any]]] = {}
    for post in posts:
        found.setdefault(task_of(post), []).append(post)
    return found


def _build(comparison: Comparison, method: Method, seed: int) -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    from ..training.build import build_model

    config = {**comparison.model_arguments.model_config, **method.model_config}
    if method.kind != "mgvmoe":
        config["score"] = "projection"  # nothing of it is used; it needs no mask of mentions
    style = method.mention_style or comparison.model_arguments.mention_style
    arguments = replace(comparison.model_arguments, model_config=config, mention_style=style)
    return build_model(arguments, comparison.data, seed)


def _collator(comparison: Comparison, method: Method, processor: MGVMoEProcessor, split: str) -> PostCollator:
    data, types = comparison.data, None
    score = {**comparison.model_arguments.model_config, **method.model_config}.get("score")
    if method.kind == "mgvmoe" and method.types and score == "similarity":
        types = TypesOfLabels(data.label_types, data.type_descriptions)
    return PostCollator(processor, data.labels[split], comparison.words(method), types=types)


def _trained_baseline(
    comparison: Comparison, method: Method, seed: int, model: MGVMoEForZeroShotIE, processor: MGVMoEProcessor
) -> Any:
    import torch

    assert method.baseline is not None
    module, name = method.baseline
    made = getattr(importlib.import_module(f".baselines.{module}", __package__), name)
    collators = {split: _collator(comparison, method, processor, split) for split in ("train", "validation")}
    torch.manual_seed(seed)
    classes = len(collators["train"].candidate_labels)
    baseline = made(model, classes) if name == "AttributeRegression" else made(model)
    encoded = {split: encode_posts(comparison.data.posts[split], processor) for split in collators}
    labels = comparison.data.labels["validation"]

    def validation_score(trained: Any) -> float:
        predictions = _predict(comparison, trained, encoded["validation"], collators["validation"])
        tasks = score_predictions(encoded["validation"], predictions, labels)
        return sum(scores["macro_f1"] for scores in tasks.values()) / len(tasks)

    fit(
        baseline,
        encoded["train"],
        collators["train"],
        replace(comparison.fit_arguments, seed=seed),
        validation_score,
        method.name if comparison.progress else None,
    )
    return baseline


def _trained_model(
    comparison: Comparison, method: Method, seed: int, model: MGVMoEForZeroShotIE, processor: MGVMoEProcessor
) -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    """Trained by the package's own loop, and loaded from what it saved."""
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor
    from ..training.loop import train

    data = replace(comparison.data, label_descriptions=comparison.words(method))
    if not method.types:
        data = replace(data, label_types={}, type_descriptions={})
    with tempfile.TemporaryDirectory() as folder:
        train(model, processor, data, replace(comparison.training_arguments, output_dir=folder, seed=seed))
        saved = os.path.join(folder, "model")
        return MGVMoEForZeroShotIE.from_pretrained(saved), MGVMoEProcessor.from_pretrained(saved)
