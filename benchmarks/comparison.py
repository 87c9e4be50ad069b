"""Methods of the comparison, their training and scoring: baselines, MG-VMoE, and its ablations."""

from __future__ import annotations

import difflib
import os
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import baselines
from baselines import FitArguments, fit

from modeling_mgvmoe.data.encoding import PostCollator, TypesOfLabels, encode_posts
from modeling_mgvmoe.data.environment import choose_precision
from modeling_mgvmoe.data.feature_cache import cache_post_states, caches_states
from modeling_mgvmoe.data.zero_shot_data import ZeroShotData
from modeling_mgvmoe.evaluation.similarity import similarity_predictions
from modeling_mgvmoe.inference.metrics import accuracy, majority_label
from modeling_mgvmoe.inference.predict import outputs_in_batches, score_predictions
from modeling_mgvmoe.sample_graph import propagate_labels

if TYPE_CHECKING:
    from modeling_mgvmoe.modeling_mgvmoe import MGVMoEForZeroShotIE
    from modeling_mgvmoe.processing_mgvmoe import MGVMoEProcessor
    from modeling_mgvmoe.training.arguments import ModelArguments, TrainingArguments


Kind = Literal["majority", "similarity", "baseline", "mgvmoe"]
# What a method reads for a label: its name; one sentence; its name and all sentences.
Words = Literal["name", "description", "all"]


@dataclass(frozen=True)
class Method:
    """One row of the comparison.

    Attributes:
        name: value of `--methods`.
        what: one-line description.
        kind: how it is built.
        words: label texts it reads.
        mention_style: how mentions are marked; `None`: as in the recipe.
        baseline: class in `baselines.py`, for baselines.
        model_config: fields of MGVMoEConfig that differ from the recipe, for MG-VMoE.
        types: whether it gets the types of heads and tails.
        training: fields of the training's arguments that differ from the recipe.
        experts: whether the experts are trained; untrained residual experts change no score.
    """

    name: str
    what: str
    kind: Kind
    words: Words = "all"
    mention_style: str | None = None
    baseline: str | None = None
    model_config: Mapping[str, Any] = field(default_factory=dict)
    types: bool = True
    training: Mapping[str, Any] = field(default_factory=dict)
    experts: bool = True

    @property
    def trained(self) -> bool:
        """Whether its scores depend on a training seed."""
        return self.kind in ("baseline", "mgvmoe") and self.training.get("max_train_steps") != 0


def _ours(name: str, what: str, **model_config: Any) -> Method:
    return Method(name, what, "mgvmoe", model_config=model_config)


RESIDUAL: dict[str, Any] = {
    "expert_type": "residual",
    "kl_loss_coef": 1.0,
    "router_entropy_loss_coef": 0.0,
    "alignment_loss_coef": 0.0,
    "consistency_loss_coef": 0.0,
    "adversary": "none",
    "sample_candidate_texts": False,
}
FROZEN = {**RESIDUAL, "freeze_text": True}
# An epoch over cached vectors takes seconds; batches may be larger than those of an encoder.
CACHED: dict[str, Any] = {
    "max_train_steps": 200,
    "per_device_train_batch_size": 64,
    "learning_rate": 1e-3,
    "max_grad_norm": 0.0,
}


def _residual(name: str, what: str, experts: bool = True, training: Mapping[str, Any] = CACHED, **more: Any) -> Method:
    return Method(name, what, "mgvmoe", model_config={**FROZEN, **more}, training=training, experts=experts)


BASELINES = (
    Method("majority", "always the most frequent class of the test", "majority"),
    Method("similarity", "nearest label name, nothing trained", "similarity", words="name"),
    Method("similarity_description", "nearest description, nothing trained", "similarity", words="description"),
    Method("similarity_all", "nearest mean of name and all sentences, nothing trained", "similarity"),
    Method("prototype", "markers and label name, dot product, ranking loss", "baseline", "name", "markers",
           "Prototype"),
    Method("attribute_regression", "ZS-BERT: regression onto the description's vector", "baseline", "description",
           "markers", "AttributeRegression"),
    Method("concatenation", "text and image side by side, no experts, ranking loss", "baseline", "description",
           "markers", "Concatenation"),
    Method("cross_encoder", "post and description in one pass", "baseline", "description", "prefix",
           "CrossEncoder"),
    Method("similarity_tuned", "similarity to the description, fine-tuned", "baseline", "description", "prefix",
           "SimilarityTuned"),
    Method("similarity_tuned_all", "the same with name and all sentences of a label", "baseline", "all", "prefix",
           "SimilarityTuned"),
    _residual("similarity_types", "similarity_all with types, share of the mention and image text, nothing trained",
              training={"max_train_steps": 0}),
    _residual("similarity_tuned_types", "the same, fine-tuned: residual_fine_tuned without its experts",
              experts=False, training={}, num_experts=1, expert_prior_std=0.0, freeze_text=False),
)  # fmt: skip

MGVMOE = _ours("mgvmoe", "MG-VMoE with everything on")

# Each differs from `mgvmoe` in one thing.
ABLATIONS = (
    _ours("no_experts", "tokens as they are instead of experts", num_experts=0),
    _residual("residual_experts", "low-rank experts that move the frozen encoder's pooled states"),
    _residual("residual_one_expert", "one of them", num_experts=1),
    _residual("residual_one_wide_expert", "one with the weights of all", num_experts=1, expert_rank=128),
    _residual("residual_no_prior", "residual_experts without noise and pull to the prior", expert_prior_std=0.0),
    _ours("residual_fine_tuned", "residual_experts, the encoder fine-tuned", **RESIDUAL),
    _ours("one_expert", "one expert, nothing to route", num_experts=1),
    _ours("deterministic_experts", "experts without variance: no bottleneck", deterministic_experts=True),
    _ours("no_router_entropy", "no E5", router_entropy_loss_coef=0.0),
    _ours("no_alignment", "no E6", alignment_loss_coef=0.0),
    _ours("no_graph", "no E10 and E11", consistency_loss_coef=0.0, adversary="none"),
    _ours("no_adversary", "E11 with a random perturbation", adversary="random"),
    _ours("learned_adversary", "the paper's E11: one learned vector", adversary="learned"),
    _ours("additive_fusion", "the paper's E7", fusion="additive"),
    _ours("query_fusion", "E7 as attention of the mention", fusion="query"),
    _ours("kl_summed", "the paper's E4: summed, coefficient 1", kl_loss_coef=1.0),
    _ours("ranking_objective", "the paper's E9", objective="ranking"),
    _ours("projection_score", "the paper's E8: two projections from random weights", score="projection"),
    _ours("no_type_score", "scores without types of head and tail", type_score_coef=0.0, type_loss_coef=0.0),
    Method("no_types", "no types of head and tail at all", "mgvmoe", types=False),
    _ours("no_mention_direction", "the whole post only", mention_weight=0.0),
    Method("one_sentence", "one sentence for a label", "mgvmoe", words="description"),
)

METHODS: dict[str, Method] = {method.name: method for method in (*BASELINES, MGVMOE, *ABLATIONS)}
GROUPS = {
    "all": tuple(METHODS),
    "baselines": tuple(method.name for method in BASELINES),
    "ablations": tuple(method.name for method in ABLATIONS),
}


def choose_methods(names: Sequence[str]) -> list[Method]:
    """Methods by name; "all", "baselines" and "ablations" stand for several.

    Raises:
        ValueError: a name is unknown; the nearest is named.
    """
    chosen: dict[str, Method] = {}
    for name in names:
        if name not in METHODS and name not in GROUPS:
            nearest = difflib.get_close_matches(name, [*GROUPS, *METHODS], n=1, cutoff=0.0)
            raise ValueError(f"methods: {name!r} is unknown; did you mean {nearest[0]!r}?")
        for one in GROUPS.get(name, (name,)):
            chosen[one] = METHODS[one]
    return list(chosen.values())


@dataclass(frozen=True)
class Comparison:
    """Data, recipe and caches that all methods share.

    Attributes:
        data: posts and classes.
        model_arguments, training_arguments: the recipe of MG-VMoE; baselines take encoders, lengths and whatever of it
            applies to them.
        fit_arguments: of the baselines.
        names: for a relation its name between its types ("person member of organization"), for methods that read
            names; other labels are read as they are.
        one_sentence: for each label its description, for methods that read one sentence; without it, names are read.
        progress: whether to show bars.
        states: what a frozen encoder gave for posts, by id and image text: read once for all methods and splits that
            keep it frozen.
    """

    data: ZeroShotData
    model_arguments: ModelArguments
    training_arguments: TrainingArguments
    fit_arguments: FitArguments
    names: Mapping[str, str]
    one_sentence: Mapping[str, str]
    progress: bool = True
    states: dict[Any, Any] = field(default_factory=dict)

    def words(self, method: Method) -> Mapping[str, Any]:
        """The label texts that a method reads, by label name."""
        if method.words == "all":
            return self.data.label_descriptions
        return self.one_sentence if method.words == "description" else self.names


# Nearest posts that share their probabilities with `--graph`, chosen on validation classes (LOG.md).
NUM_NEIGHBORS = 20


def run_method(
    comparison: Comparison, method: Method, seed: int, graph: bool = False
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores on the test classes, by graph at test time ("none", and with `graph` the number of neighbors) and task.

    Where posts say whether their mention is in the image, also the accuracies of those that are and are not.

    Args:
        comparison: data and recipe.
        method: which.
        seed: of weights, order and noise; plays no part where nothing is trained.
        graph: also share the probabilities of the test posts, where the method has such.
    """
    posts, labels = comparison.data.posts["test"], comparison.data.labels["test"]
    stated = [{"label": post["label"], "task": task} for task, own in _by_task(posts).items() for post in own]
    if method.kind == "majority":
        answer = {task: majority_label([post["label"] for post in own]) for task, own in _by_task(posts).items()}
        return {"none": _scores(posts, stated, [answer[post["task"]] for post in stated], labels)}
    model, processor = _build(comparison, method, seed)
    if caches_states(model):
        comparison = replace(comparison, data=_with_states(comparison, model, processor))
        posts = comparison.data.posts["test"]
    if method.kind == "similarity":
        predictions = [
            label
            for task, own in _by_task(posts).items()
            for label in similarity_predictions(model, processor, own, labels[task], comparison.words(method))
        ]
        return {"none": _scores(posts, stated, predictions, labels)}
    if method.kind == "baseline":
        scorer: Any = _trained_baseline(comparison, method, seed, model, processor)
    elif not method.trained:
        scorer = model
    else:
        scorer, processor = _trained_model(comparison, method, seed, model, processor)
    encoded = encode_posts(posts, processor)
    collator = _collator(comparison, method, processor, "test")
    answers = _predict(comparison, scorer, encoded, collator, NUM_NEIGHBORS if graph else 0)
    return {name: _scores(posts, encoded, own, labels) for name, own in answers.items()}


VISIBLE = {"accuracy_visible": True, "accuracy_not_visible": False}


def _scores(
    posts: Sequence[Mapping[str, Any]],
    encoded: Sequence[Mapping[str, Any]],
    predictions: Sequence[str],
    labels: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, float]]:
    """Scores by task; with the accuracies by visibility where posts, all of one task, say so."""
    scores = score_predictions(encoded, predictions, labels)
    if "visible" in posts[0]:
        (own,) = scores.values()
        for name, kind in VISIBLE.items():
            rows = [row for row, post in enumerate(posts) if post["visible"] is kind]
            if rows:
                own[name] = accuracy([predictions[row] for row in rows], [posts[row]["label"] for row in rows])
    return scores


def _with_states(comparison: Comparison, model: MGVMoEForZeroShotIE, processor: MGVMoEProcessor) -> ZeroShotData:
    """The data with the frozen encoder's states of all posts, which depend on no training."""
    data, states = comparison.data, comparison.states
    key_of = lambda post: (post["id"], str(post.get("dataset")), str(post.get("image_text")))  # noqa: E731
    for split, posts in data.posts.items():
        new = {key_of(post): post for post in posts if key_of(post) not in states}
        keys = {(post["id"], str(post.get("dataset"))): key for key, post in new.items()}
        encoded = encode_posts([{**post, "image": None} for post in new.values()], processor, skip_without_token=True)
        collator = PostCollator(processor, data.labels[split])
        cache_post_states(model, encoded, collator, progress=f"{split} posts" if comparison.progress else None)
        for post in encoded:
            states[keys[post["id"], str(post.get("dataset"))]] = post["post_states"]
    return replace(data, posts={
        split: [{**post, "post_states": states[key_of(post)]} for post in posts if key_of(post) in states]
        for split, posts in data.posts.items()
    })  # fmt: skip


def _predict(
    comparison: Comparison,
    scorer: Any,
    encoded: Sequence[Mapping[str, Any]],
    collator: PostCollator,
    num_neighbors: int = 0,
) -> dict[str, list[str]]:
    """The best labels, in the precision of the training; by graph at test time, among the posts of one task."""
    import torch

    half = choose_precision(comparison.fit_arguments.mixed_precision, scorer.device) == "bf16"
    logits: list[Any] = [None] * len(encoded)
    nodes: list[Any] = [None] * len(encoded)
    with torch.autocast(scorer.device.type, torch.bfloat16, enabled=half):
        for rows, output in outputs_in_batches(scorer, encoded, collator):
            for place, row in enumerate(rows):
                logits[row] = output.logits[place].double()
                nodes[row] = None if output.mention_embeds is None else output.mention_embeds[place].float()
    probs = torch.stack(logits).softmax(-1)
    found = {"none": probs}
    if num_neighbors and all(node is not None for node in nodes):
        found[str(num_neighbors)] = shared = probs.clone()
        for task in {post["task"] for post in encoded}:
            own = [row for row, post in enumerate(encoded) if post["task"] == task]
            shared[own] = propagate_labels(probs[own], torch.stack([nodes[row] for row in own]), num_neighbors)
    return {
        graph: [collator.candidate_labels[column] for column in values.argmax(-1).tolist()]
        for graph, values in found.items()
    }


def fewer_posts(posts: Sequence[Mapping[str, Any]], per_class: int, seed: int = 0) -> list[Mapping[str, Any]]:
    """At most `per_class` randomly drawn posts of each class, in their order.

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
    """Posts by what their candidates are listed under: the dataset, or the task where there is but one."""
    from modeling_mgvmoe.data.schema import task_of

    found: dict[str, list[Mapping[str, Any]]] = {}
    for post in posts:
        found.setdefault(post.get("dataset") or task_of(post), []).append(post)
    return found


def _build(comparison: Comparison, method: Method, seed: int) -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    from modeling_mgvmoe.training.build import build_model

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
    name = method.baseline
    made = getattr(baselines, name)
    collators = {split: _collator(comparison, method, processor, split) for split in ("train", "validation")}
    torch.manual_seed(seed)
    classes = len(collators["train"].candidate_labels)
    baseline = made(model, classes) if name == "AttributeRegression" else made(model)
    encoded = {split: encode_posts(comparison.data.posts[split], processor) for split in collators}
    labels = comparison.data.labels["validation"]

    def validation_score(trained: Any) -> float:
        predictions = _predict(comparison, trained, encoded["validation"], collators["validation"])["none"]
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
    from modeling_mgvmoe.modeling_mgvmoe import MGVMoEForZeroShotIE
    from modeling_mgvmoe.processing_mgvmoe import MGVMoEProcessor
    from modeling_mgvmoe.training.loop import train

    data = replace(comparison.data, label_descriptions=comparison.words(method))
    if not method.types:
        data = replace(data, label_types={}, type_descriptions={})
    with tempfile.TemporaryDirectory() as folder:
        if not method.experts:
            model.mgvmoe.experts.requires_grad_(False)
        changes = {**method.training, "output_dir": folder, "seed": seed}
        train(model, processor, data, replace(comparison.training_arguments, **changes))
        saved = os.path.join(folder, "model")
        return MGVMoEForZeroShotIE.from_pretrained(saved), MGVMoEProcessor.from_pretrained(saved)
