"""The baselines that MG-VMoE is compared with, over the same encoder, and how they are trained.

Axes: B = posts, C = candidate labels, H = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup
from transformers.utils import ModelOutput

from modeling_mgvmoe.data.encoding import PostCollator
from modeling_mgvmoe.data.environment import choose_precision
from modeling_mgvmoe.data.progress_bar import progress_bar
from modeling_mgvmoe.modeling_mgvmoe import MGVMoEForZeroShotIE, token_mean
from modeling_mgvmoe.objectives import ranking_loss
from modeling_mgvmoe.training.loop import class_balanced_order
from modeling_mgvmoe.training.optimization import freeze_layers


@dataclass
class BaselineOutput(ModelOutput):
    """Output of a baseline.

    Args:
        loss: scalar, if labels were given.
        logits: (B, C), -inf where `candidate_mask` is false.
        mention_embeds: (B, H), vectors of the posts, where the baseline has such.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mention_embeds: torch.Tensor | None = None
    sample_logits: torch.Tensor | None = None


class Baseline(nn.Module):
    """A model that takes the batches of [`PostCollator`] and is evaluated like MG-VMoE.

    Args:
        model: its encoders are taken, and trained, in place; nothing else of it is used.
    """

    # What label propagation takes for the posts of the last batch.
    node: torch.Tensor | None = None

    def __init__(self, model: MGVMoEForZeroShotIE) -> None:
        super().__init__()
        self.encoders = model.mgvmoe
        self.hidden_size: int = model.config.hidden_size

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def text_states(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """(B, L, H), of the text encoder."""
        return self.encoders.text_model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state

    def marker_states(self, batch: Mapping[str, Any], states: torch.Tensor) -> torch.Tensor:
        """(B, (S + 1) H): the first token and the opening marker of each mention, zeros for an absent one."""
        return self.encoders._mention_states(states, batch["attention_mask"].bool(), batch["mention_positions"])

    def mean_of_post(self, batch: Mapping[str, Any], states: torch.Tensor) -> torch.Tensor:
        """(B, H)."""
        return token_mean(states.float(), batch["attention_mask"])

    def single(self) -> torch.autocast:
        """No half precision within: what decides between labels is below what it tells apart, here as in MG-VMoE."""
        return torch.autocast(self.device.type, enabled=False)

    def encode_candidates(self, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Labels as what `forward` takes instead of their words."""
        return {
            "candidate_embeds": self.encoders.get_candidate_embeds(
                encoded["candidate_input_ids"], encoded["candidate_attention_mask"], encoded.get("candidate_index")
            )
        }

    def scores(self, batch: Mapping[str, Any], candidate_embeds: torch.Tensor) -> torch.Tensor:
        """Scores (B, C) of labels (C, H)."""
        raise NotImplementedError

    def loss_of(self, logits: torch.Tensor, labels: torch.Tensor, candidate_mask: torch.Tensor | None) -> torch.Tensor:
        """The training objective; default: E9, the ranking loss with margin 1."""
        return ranking_loss(logits, labels, 1.0, candidate_mask)

    def forward(
        self,
        labels: torch.Tensor | None = None,
        candidate_mask: torch.Tensor | None = None,
        candidate_embeds: torch.Tensor | None = None,
        **batch: Any,
    ) -> BaselineOutput:
        """As [`MGVMoEForZeroShotIE`] is called, of which a baseline uses what it needs."""
        if candidate_embeds is None:
            candidate_embeds = self.encode_candidates(batch)["candidate_embeds"]
        logits = self.scores(batch, candidate_embeds).float()
        if candidate_mask is not None:
            logits = logits.masked_fill(~candidate_mask, float("-inf"))
        loss = None if labels is None else self.loss_of(logits, labels, candidate_mask)
        return BaselineOutput(loss=loss, logits=logits, mention_embeds=self.node)


class Prototype(Baseline):
    """Dot product of the mean of the opening markers' states and the label, ranking loss; text only."""

    def scores(self, batch: Mapping[str, Any], candidate_embeds: torch.Tensor) -> torch.Tensor:
        markers = self.marker_states(batch, self.text_states(batch)).unflatten(1, (-1, self.hidden_size))[:, 1:]
        present = (batch["mention_positions"] >= 0).sum(1, keepdim=True)
        with self.single():
            return (markers.float().sum(1) / present) @ candidate_embeds.float().T


class SimilarityTuned(Baseline):
    """Scaled cosine of post and label, both means over tokens; cross-entropy over the training classes."""

    scale = 20.0

    def scores(self, batch: Mapping[str, Any], candidate_embeds: torch.Tensor) -> torch.Tensor:
        states = self.text_states(batch)
        with self.single():
            posts = F.normalize(self.mean_of_post(batch, states), dim=-1)
            self.node = posts.detach()
            return self.scale * posts @ F.normalize(candidate_embeds.float(), dim=-1).T

    def loss_of(self, logits: torch.Tensor, labels: torch.Tensor, candidate_mask: torch.Tensor | None) -> torch.Tensor:
        return F.cross_entropy(logits, labels)


class AttributeRegression(Baseline):
    """A post's first token and markers, through a hidden layer, are drawn to its class's attribute vector.

    The attribute vectors are those of a sentence encoder that is not trained, here the text encoder as it came, for
    the labels' descriptions. The loss is ZS-BERT's: a hinge that wants the right attribute nearer than the nearest
    wrong one by a margin, and cross-entropy of a classifier over the training classes, weighted 0.6 and 0.4. Its
    margin of 7.5 is for inner products of BERT; ours are cosines, with 0.5. Text only.

    Args:
        model: its encoders are taken.
        num_classes: of the training.
    """

    margin, share = 0.5, 0.4

    def __init__(self, model: MGVMoEForZeroShotIE, num_classes: int) -> None:
        super().__init__(model)
        self.attribute_encoder = deepcopy(model.mgvmoe.text_model).requires_grad_(False)
        width = (model.config.max_mentions + 1) * self.hidden_size
        self.hidden = nn.Linear(width, self.hidden_size)
        self.attributes = nn.Linear(self.hidden_size, self.hidden_size)
        self.classifier = nn.Linear(self.hidden_size, num_classes)
        self._class_logits: torch.Tensor | None = None

    @torch.no_grad()
    def encode_candidates(self, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        own, self.encoders.text_model = self.encoders.text_model, self.attribute_encoder.eval()
        try:
            return super().encode_candidates(encoded)
        finally:
            self.encoders.text_model = own

    def scores(self, batch: Mapping[str, Any], candidate_embeds: torch.Tensor) -> torch.Tensor:
        markers = self.marker_states(batch, self.text_states(batch))
        attributes = self.attributes(torch.tanh(self.hidden(markers)))
        self._class_logits = self.classifier(attributes) if self.training else None
        with self.single():
            return F.normalize(attributes.float(), dim=-1) @ F.normalize(candidate_embeds.float(), dim=-1).T

    def loss_of(self, logits: torch.Tensor, labels: torch.Tensor, candidate_mask: torch.Tensor | None) -> torch.Tensor:
        right = logits.gather(1, labels[:, None]).squeeze(1)
        wrong = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
        hinge = F.relu(self.margin - right + wrong).mean()
        assert self._class_logits is not None, "the loss is that of training"
        classes = self._class_logits.float()
        if candidate_mask is not None:
            classes = classes.masked_fill(~candidate_mask, float("-inf"))
        return (1 - self.share) * hinge + self.share * F.cross_entropy(classes, labels)


# What a batch may hold of its images.
IMAGES = ("pixel_values", "image_features", "image_mask", "image_index")


class Concatenation(Baseline):
    """[first token and markers; mean of the text; mean of the image] and the label, projected to one space (E8).

    Ranking loss. A post without an image has zeros there.

    Args:
        model: its encoders and the projection of the image's states are taken.
    """

    def __init__(self, model: MGVMoEForZeroShotIE) -> None:
        super().__init__(model)
        width = (model.config.max_mentions + 3) * self.hidden_size
        self.dropout = nn.Dropout(model.config.projection_dropout)
        self.post_projection = nn.Linear(width, self.hidden_size)
        self.label_projection = nn.Linear(self.hidden_size, self.hidden_size)

    def scores(self, batch: Mapping[str, Any], candidate_embeds: torch.Tensor) -> torch.Tensor:
        states = self.text_states(batch)
        given = {name: batch.get(name) for name in IMAGES}
        image_states, has_image, _ = self.encoders._image_states(states, **given, extras={})
        if image_states is not None and given["image_index"] is not None:
            image_states = image_states[given["image_index"]]
        mean = torch.zeros_like(states[:, 0])
        if image_states is not None:
            mean = token_mean(image_states, has_image[:, None].expand(image_states.shape[:2]))
        post = torch.cat([self.marker_states(batch, states), self.mean_of_post(batch, states), mean], dim=-1)
        labels = self.label_projection(self.dropout(candidate_embeds.to(post.dtype)))
        posts = self.post_projection(self.dropout(post))
        with self.single():
            return posts.float() @ labels.float().T


class CrossEncoder(Baseline):
    """One number per pair of post and label, from the mean over the tokens of both; cross-entropy over the labels.

    In training a post meets its own label and `negatives` others, drawn anew each time. Text only. Every post is
    encoded once per label: with C labels it costs C times what the other models cost.

    Args:
        model: its text encoder is taken.
        negatives: wrong labels per post and step.
        pairs_at_once: of evaluation.
    """

    def __init__(self, model: MGVMoEForZeroShotIE, negatives: int = 3, pairs_at_once: int = 128) -> None:
        super().__init__(model)
        self.negatives, self.pairs_at_once = negatives, pairs_at_once
        self.dropout = nn.Dropout(model.config.projection_dropout)
        self.classifier = nn.Linear(self.hidden_size, 1)

    def encode_candidates(self, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The labels' words as they are: nothing of them can be computed before the post is there."""
        return {name: encoded[name] for name in ("candidate_input_ids", "candidate_attention_mask")}

    def forward(  # type: ignore[override]
        self, labels: torch.Tensor | None = None, candidate_mask: torch.Tensor | None = None, **batch: Any
    ) -> BaselineOutput:
        """See the class; a label must have one text."""
        if batch.get("candidate_index") is not None:
            raise ValueError("candidate_index: a cross-encoder reads one text per label, got several")
        number, columns = len(batch["input_ids"]), len(batch["candidate_input_ids"])
        open_pairs = torch.ones(number, columns, dtype=torch.bool, device=self.device)
        if candidate_mask is not None:
            open_pairs &= candidate_mask
        if labels is not None and self.training:
            open_pairs = self._draw(open_pairs, labels)
        rows, labels_of = open_pairs.nonzero(as_tuple=True)
        found = [
            self._pairs(batch, rows[start : start + self.pairs_at_once], labels_of[start : start + self.pairs_at_once])
            for start in range(0, len(rows), self.pairs_at_once)
        ]
        logits = torch.full(open_pairs.shape, float("-inf"), device=self.device)
        logits = logits.index_put((rows, labels_of), torch.cat(found).float())
        return BaselineOutput(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)

    def _draw(self, open_pairs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The right label of each post and `negatives` others that are open to it."""
        right = F.one_hot(labels, open_pairs.shape[1]).bool()
        order = torch.rand(open_pairs.shape, device=self.device).masked_fill(~open_pairs | right, -1)
        kept = min(self.negatives, open_pairs.shape[1] - 1)
        wrong = torch.zeros_like(open_pairs).scatter(1, order.topk(kept).indices, True) & open_pairs
        return right | wrong

    def _pairs(self, batch: Mapping[str, Any], rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(N,), of posts `rows` with labels `columns`: [first post last] [label last]."""
        label_ids = batch["candidate_input_ids"][columns, 1:]
        label_mask = batch["candidate_attention_mask"][columns, 1:]
        ids = torch.cat([batch["input_ids"][rows], label_ids], dim=1)
        limit = self.encoders.max_text_length
        if limit is not None and ids.shape[1] > limit:
            raise ValueError(
                f"input_ids and candidate_input_ids together must have at most {limit} tokens, as the text encoder "
                f"has positions for, got {ids.shape[1]}. Give the processor a smaller max_length."
            )
        mask = torch.cat([batch["attention_mask"][rows], label_mask], dim=1)
        # Positions go on over the padding between the two, as if there were none.
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        kinds = torch.cat([torch.zeros_like(batch["input_ids"][rows]), torch.ones_like(label_ids)], dim=1)
        states = self.encoders.text_model(
            ids, attention_mask=mask, position_ids=positions, token_type_ids=kinds
        ).last_hidden_state
        with self.single():
            return self.classifier(self.dropout(token_mean(states.float(), mask))).squeeze(-1)


@dataclass(frozen=True)
class FitArguments:
    """How a baseline is trained.

    Attributes:
        max_train_steps: optimizer steps.
        batch_size: posts, drawn class-balanced.
        learning_rate: for the encoders.
        head_learning_rate: for everything else.
        freeze_text_layers: number of first layers of the text encoder to freeze, with the embeddings; `None`: freeze
            nothing.
        eval_steps: steps between validations; the weights of the best one are kept.
        seed: of weights and order.
        mixed_precision: "no", "bf16", or "auto": bf16 where the hardware has it.
    """

    max_train_steps: int = 200
    batch_size: int = 16
    learning_rate: float = 2e-5
    head_learning_rate: float = 1e-3
    freeze_text_layers: int | None = 3
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    eval_steps: int = 50
    seed: int = 0
    mixed_precision: str = "auto"


def fit(
    baseline: Baseline,
    encoded_posts: Sequence[Mapping[str, Any]],
    collator: PostCollator,
    arguments: FitArguments,
    validation_score: Callable[[Baseline], float],
    progress: str | None = None,
) -> list[dict[str, float]]:
    """Train a baseline in place, with AdamW and a linear schedule, and leave it with its best weights.

    Args:
        baseline: fresh.
        encoded_posts: of training.
        collator: with the training labels.
        arguments: how.
        validation_score: called every `eval_steps` steps and at the end; greater is better.
        progress: title of a progress bar; `None` shows none.

    Returns:
        Step, mean loss since the last entry and score of every validation.

    Raises:
        ValueError: the loss is not finite.
    """
    freeze_text_layers_of(baseline, arguments.freeze_text_layers)
    steps = arguments.max_train_steps
    classes = [(post["task"], post["label"]) for post in encoded_posts]
    sampler = class_balanced_order(classes, steps * arguments.batch_size, arguments.seed)
    loader: DataLoader[Any] = DataLoader(encoded_posts, arguments.batch_size, sampler=sampler, collate_fn=collator)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(_groups(baseline, arguments), lr=arguments.learning_rate)
    schedule = get_linear_schedule_with_warmup(optimizer, round(steps * arguments.warmup_ratio), steps)
    history: list[dict[str, float]] = []
    best: dict[str, torch.Tensor] = {}
    total, since = 0.0, 0
    baseline.train()
    half = choose_precision(arguments.mixed_precision, baseline.device) == "bf16"
    for step, batch in enumerate(progress_bar(loader, progress, unit="step"), 1):
        inputs = {name: value.to(baseline.device) for name, value in batch.items()}
        with torch.autocast(baseline.device.type, torch.bfloat16, enabled=half):
            loss = baseline(**inputs).loss
        if not torch.isfinite(loss):
            raise ValueError(f"The loss of {type(baseline).__name__} is {loss.item()} at step {step}.")
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        total, since = total + loss.item(), since + 1
        if step % arguments.eval_steps == 0 or step == steps:
            score = validation_score(baseline)
            if not history or score > max(entry["score"] for entry in history):
                best = {name: deepcopy(value) for name, value in baseline.state_dict().items()}
            history.append({"step": step, "loss": total / since, "score": score})
            total, since = 0.0, 0
            baseline.train()
    baseline.load_state_dict(best)
    baseline.eval()
    return history


def freeze_text_layers_of(baseline: Baseline, number: int | None) -> None:
    """As for MG-VMoE, a frozen vision tower too; what only MG-VMoE uses is left out of the training."""
    if number is not None:
        freeze_layers(baseline.encoders.text_model, number)
    if baseline.encoders.config.freeze_vision:
        baseline.encoders.vision_model.requires_grad_(False)
    for name, part in baseline.encoders.named_children():
        if name not in ("text_model", "vision_model", "vision_projection"):
            part.requires_grad_(False)


def _groups(baseline: Baseline, arguments: FitArguments) -> list[dict[str, Any]]:
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in baseline.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith(("encoders.text_model.", "encoders.vision_model.")), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": arguments.learning_rate if encoder else arguments.head_learning_rate,
            "weight_decay": arguments.weight_decay if decayed else 0.0,
        }
        for (encoder, decayed), parameters in groups.items()
    ]
