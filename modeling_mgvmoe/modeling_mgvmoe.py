"""MG-VMoE: two encoders, a variational mixture of experts over both, fusion, scores, losses (E7, E8, E12).

Axes: B = posts, L = tokens, Lt = text tokens, Li = image tokens, Lw = tokens of the image text, H = hidden size,
H' = width of the vision encoder, K = experts, C = candidate labels, Lc = label tokens, P = rows that posts or labels
share (distinct images, texts of labels), D = projection size, S = marked mentions of a post (1 for typing, 2 for a
relation), T = types of heads and tails, Q = (max_mentions + 1) H, the size of the query q of E7, N = draws from the
experts. Equations E1 to E12: docs/method.md.
"""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self, cast

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, cached_file, can_return_tuple, logging

from .configuration_mgvmoe import MGVMoEConfig, check_experts_implementation
from .distributed import Announcement, gather_rows, number_of_processes, random_generator
from .extraction import extract
from .labels import Label
from .loading import (
    HUB_ARGUMENTS,
    WEIGHTS,
    check_repeatable,
    check_weights,
    other_shapes,
    pretrained_backbone,
    random_backbone,
    reading,
    text_base_states,
)
from .objectives import at_least_float32, info_nce, label_cross_entropy, predictive_statistics, ranking_loss
from .sample_graph import adversarial_consistency, learned_adversary_loss, power_perturbation, random_perturbation
from .variational_experts import (
    NoExperts,
    ResidualMixtureOfExperts,
    VariationalMixtureOfExperts,
    VariationalMixtureOutput,
    expert_losses,
    is_plain,
    loss_sums,
    losses_of_sums,
)

logger = logging.get_logger(__name__)

if TYPE_CHECKING:
    # Never run. `save_pretrained` copies the files named here, so a saved model brings processor and pipelines, and
    # what an Inference Endpoint runs.
    from .handler import EndpointHandler  # noqa: F401
    from .pipeline_mgvmoe import ZeroShotMultimodalIEPipeline  # noqa: F401
    from .processing_mgvmoe import MGVMoEProcessor  # noqa: F401


# Outputs


@dataclass
class MGVMoEModelOutput(ModelOutput):
    """Output of [`MGVMoEModel`]. Fields typed as plain tensors are always there.

    Args:
        fused_embeds: (B, H), f of E7; with residual experts the sum of [`MGVMoEModel._fuse_pooled`]. Where such posts
            came as `post_states` there are no tokens: text_states and mention_states are `None`, fusion_attentions
            the signed weights (B, R) of the R = max_mentions + 1 pooled states, two more in front with images,
            text_router_probs (B, 1, K) and image_router_probs (B, 2, K).
        fused_variance: (B, H), its variance where tokens are drawn as in E3; only if asked for.
        text_states: (B, Lt, H), the text encoder's states.
        mention_states: (B, (max_mentions + 1) H), q of E7: the text encoder's states of the first token and of the
            opening markers; zeros for absent mentions.
        text_embeds: (B, H), t of E6.
        image_embeds: (B, H), v of E6; zeros for posts without an image. `None` if no post has one.
        image_mask: (B,), true for posts with an image: pixels, image text or both.
        image_text_embeds: (B, H), the mean of the text encoder's states of the image text, in no less than single
            precision; zeros for posts without one. `None` if no post has one.
        mention_directions: (B, max_mentions, H), the mentions behind residual experts, of length 1 or zeros for absent
            ones; `None` with others.
        kl_loss: scalar, E4 averaged over the modalities present; only if losses were asked for.
        router_entropy_loss: scalar, E5, likewise.
        expert_loss_sums: (2, 3), what several processes add up: for text and for images the sum of E4 and the sum of
            E5 over the tokens, and the number of tokens. Only with losses. Behind residual experts a third row has
            the labels.
        fusion_attentions: (B, Li + Lt), the weights a of E7, image first; 0 on padding. The tokens of the image, Li,
            are those of the pixels and then the Lw of the image text.
        text_router_probs: (B, Lt, K). image_router_probs: (B, Li, K) or `None`.
        hidden_states, attentions: the text encoder's, if asked for.
        vision_hidden_states, vision_attentions: the vision encoder's, if asked for and if it ran.
    """

    fused_embeds: torch.Tensor = None  # type: ignore[assignment]
    fused_variance: torch.Tensor | None = None
    text_states: torch.Tensor = None  # type: ignore[assignment]
    mention_states: torch.Tensor = None  # type: ignore[assignment]
    text_embeds: torch.Tensor = None  # type: ignore[assignment]
    image_embeds: torch.Tensor | None = None
    image_mask: torch.Tensor = None  # type: ignore[assignment]
    image_text_embeds: torch.Tensor | None = None
    mention_directions: torch.Tensor | None = None
    kl_loss: torch.Tensor | None = None
    router_entropy_loss: torch.Tensor | None = None
    expert_loss_sums: torch.Tensor | None = None
    fusion_attentions: torch.Tensor = None  # type: ignore[assignment]
    text_router_probs: torch.Tensor = None  # type: ignore[assignment]
    image_router_probs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    vision_hidden_states: tuple[torch.Tensor, ...] | None = None
    vision_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MGVMoEOutput(ModelOutput):
    """Output of [`MGVMoEForZeroShotIE`]. The terms of E12 are unweighted and present if `labels` were given.

    Args:
        loss: scalar, E12.
        logits: (B, C), E8; -inf where `candidate_mask` is false.
        ranking_loss: scalar, E9, or the cross-entropy that `objective` sets in its place.
        kl_loss: scalar, E4, averaged over the modalities.
        router_entropy_loss: scalar, E5, averaged over the modalities.
        alignment_loss: scalar, E6.
        consistency_loss: scalar, E11.
        type_loss: scalar, -log P of the types that the right label allows, mean over posts; 0 without types. With
            residual experts, of a post with one mention -log P of its label by the mention alone.
        sample_logits: (N, B, C), E8 for each draw; only with `num_samples`, as are
        mean_probs, std_probs: (B, C), mean and deviation over the draws of the softmax of `sample_logits`, and
        mutual_information: (B,), in nats; see `objectives.py`.
        mention_embeds: (B, D), the posts' side of E8.
        candidate_embeds: (C, H) or (B, C, H), l of E8, to be given back as `candidate_embeds`.
        text_embeds: (B, H), t of E6. image_embeds: (B, H), v of E6, or `None`.
        fusion_attentions: (B, Li + Lt), a of E7, image first.
        text_router_probs: (B, Lt, K). image_router_probs: (B, Li, K) or `None`.
        hidden_states, attentions: the text encoder's, if asked for.
        vision_hidden_states, vision_attentions: the vision encoder's, if asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    ranking_loss: torch.Tensor | None = None
    kl_loss: torch.Tensor | None = None
    router_entropy_loss: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    consistency_loss: torch.Tensor | None = None
    type_loss: torch.Tensor | None = None
    sample_logits: torch.Tensor | None = None
    mean_probs: torch.Tensor | None = None
    std_probs: torch.Tensor | None = None
    mutual_information: torch.Tensor | None = None
    mention_embeds: torch.Tensor | None = None
    candidate_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    fusion_attentions: torch.Tensor | None = None
    text_router_probs: torch.Tensor | None = None
    image_router_probs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    vision_hidden_states: tuple[torch.Tensor, ...] | None = None
    vision_attentions: tuple[torch.Tensor, ...] | None = None


# Checks of the arguments. Those that read values are left out when torch compiles.


def refuse_unknown(arguments: dict[str, Any]) -> None:
    """`forward` takes **kwargs as transformers expects of it, but a misspelt mask must not pass unseen.

    `None` says nothing and passes: PEFT, for one, hands on `inputs_embeds=None`.
    """
    unknown = sorted(name for name, value in arguments.items() if value is not None)
    if unknown:
        raise TypeError(f"forward got unknown arguments: {', '.join(unknown)}.")


def check_tensors(**arguments: Any) -> None:
    """Refuse what is no tensor: lists of a processor without `return_tensors`, labels as words.

    Args:
        arguments: arguments of `forward` by name; `None` if left out.

    Raises:
        ValueError: naming the argument and what it is.
    """
    for name, value in arguments.items():
        if value is None or isinstance(value, torch.Tensor):
            continue
        if name == "labels":
            rule = "a tensor (B,) of numbers, each the place of the right label among the candidates"
        else:
            rule = 'a tensor; the processor makes them with return_tensors="pt"'
        raise ValueError(f"{name} must be {rule}, got {type(value).__name__} {value!r:.80}.")


def one_for_all(tensor: torch.Tensor | None, name: str, axes: int, posts: int) -> torch.Tensor | None:
    """Take what all posts share out of a batch that has it once for each post.

    Args:
        tensor: with `axes` axes, or (B, ...) with `axes` further ones.
        name: name of the argument.
        axes: number of axes without that of the posts.
        posts: B.

    Raises:
        ValueError: there are rows for another number of posts, or they differ.
    """
    if tensor is None or tensor.ndim != axes + 1:
        return tensor
    if tensor.shape[0] != posts:
        raise ValueError(f"{name} must have {axes} axes, or come once for each of {posts} posts, got {len(tensor)}.")
    if not torch.compiler.is_compiling() and not bool((tensor == tensor[:1]).all()):
        raise ValueError(
            f"{name} must be the same for every post where it comes once for each, {tuple(tensor.shape)}; posts with "
            "their own labels take candidate_mask, or candidate_embeds (B, C, H)."
        )
    return tensor[0]


# What describes labels and types may come once for each post, too; here the axes that each has alone.
SHARED_AXES = {
    "candidate_input_ids": 2,
    "candidate_attention_mask": 2,
    "candidate_index": 1,
    "candidate_types": 3,
    "type_input_ids": 2,
    "type_attention_mask": 2,
    "type_index": 1,
}


def check_pixels(pixel_values: torch.Tensor) -> None:
    """(B, channels, height, width)."""
    check_tensors(pixel_values=pixel_values)
    if pixel_values.ndim != 4:
        raise ValueError(f"pixel_values must be (B, channels, height, width), got {tuple(pixel_values.shape)}.")


def check_tokens(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    name: str,
    limit: int | None,
    vocab_size: int,
    may_be_empty: bool = False,
) -> None:
    """Raise ValueError for wrong shapes, ids outside the vocabulary, or rows without a token.

    Torch reports these from inside an embedding, or not at all.

    Args:
        input_ids, attention_mask: (rows, tokens).
        name: prefix of their names.
        limit: most tokens of a row; `None`: no limit.
        vocab_size: size of the text encoder's vocabulary.
        may_be_empty: a row may have no token at all.
    """
    if input_ids.ndim != 2 or 0 in input_ids.shape:
        raise ValueError(f"{name}input_ids must be (rows, tokens), neither of them 0, got {tuple(input_ids.shape)}.")
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"{name}attention_mask must be {tuple(input_ids.shape)}, like {name}input_ids, "
            f"got {tuple(attention_mask.shape)}."
        )
    if limit is not None and input_ids.shape[1] > limit:
        raise ValueError(
            f"{name}input_ids must have at most {limit} tokens, as the text encoder has positions for, "
            f"got {input_ids.shape[1]}. Give the processor a smaller max_length."
        )
    if torch.compiler.is_compiling():
        return
    lowest, highest = input_ids.aminmax()
    if lowest < 0 or highest >= vocab_size:
        raise ValueError(
            f"{name}input_ids must be in [0, {vocab_size}), the vocabulary, got {int(lowest)} to {int(highest)}. "
            "If the processor added markers to the tokenizer, call "
            "model.resize_token_embeddings(processor.vocabulary_size) first."
        )
    if not may_be_empty and not bool(attention_mask.any(1).all()):
        empty = (~attention_mask.any(1)).nonzero().flatten().tolist()
        raise ValueError(f"{name}attention_mask must leave every row at least one token, got none in rows {empty}.")


def check_index(index: torch.Tensor, number: int, name: str = "candidate_index") -> None:
    """Raise ValueError unless `index` (P,) names the label of each of `number` texts, every label from 0 on."""
    if index.shape != (number,):
        raise ValueError(f"{name} must be ({number},), one a text, got {tuple(index.shape)}.")
    if not torch.compiler.is_compiling() and (bool(index.min() < 0) or not bool(index.bincount().all())):
        raise ValueError(f"{name} must hold every number from 0 to its largest, the labels, got {index.tolist()}.")


def check_mention_positions(mention_positions: torch.Tensor, text_mask: torch.Tensor, slots: int) -> None:
    """Raise ValueError unless positions (B, S), S at most `slots`, are on real tokens of `text_mask` (B, Lt).

    -1 stands for an absent second mention.
    """
    size = text_mask.shape
    if mention_positions.ndim != 2 or mention_positions.shape[0] != size[0] or mention_positions.shape[1] > slots:
        raise ValueError(
            f"mention_positions must be (B, S) with B = {size[0]} and S at most max_mentions = {slots}, "
            f"got {tuple(mention_positions.shape)}."
        )
    if not torch.compiler.is_compiling():
        valid = (mention_positions >= -1) & (mention_positions < size[1])
        if not bool(valid.all() & (mention_positions[:, 0] >= 0).all()):
            raise ValueError(
                f"mention_positions must be in [0, {size[1]}), or -1 for an absent second mention, "
                f"got {mention_positions.tolist()}."
            )
        if not bool((text_mask.gather(1, mention_positions.clamp(min=0)) | (mention_positions < 0)).all()):
            raise ValueError(f"mention_positions must not be on padding, got {mention_positions.tolist()}.")


def check_image_index(image_index: torch.Tensor, batch_size: int, image_states: torch.Tensor | None) -> None:
    """Raise ValueError unless every entry of `image_index` (B,) is a row of the images."""
    if image_index.shape != (batch_size,):
        raise ValueError(f"image_index must be (B,) = ({batch_size},), got {tuple(image_index.shape)}.")
    if image_states is None:
        raise ValueError("image_index came, but neither pixel_values nor image_features, of which it names rows.")
    if torch.compiler.is_compiling():
        return
    if not bool(((image_index >= 0) & (image_index < len(image_states))).all()):
        raise ValueError(
            f"image_index must be in [0, {len(image_states)}), the rows of images, got {image_index.tolist()}."
        )


def check_mention_mask(
    mention_mask: torch.Tensor, mention_positions: torch.Tensor, attention_mask: torch.Tensor
) -> None:
    """Raise ValueError unless the mask (B, S, Lt) marks tokens of every mention of `mention_positions` (B, S)."""
    shape = (*mention_positions.shape, attention_mask.shape[-1])
    if tuple(mention_mask.shape) != shape or mention_mask.dtype != torch.bool:
        raise ValueError(
            f"mention_mask must be (B, S, Lt) = {shape} and boolean, got {tuple(mention_mask.shape)}, "
            f"{mention_mask.dtype}."
        )
    if torch.compiler.is_compiling():
        return
    if bool((mention_mask & ~attention_mask.bool()[:, None]).any()):
        raise ValueError("mention_mask must not mark padding.")
    if not torch.equal(mention_mask.any(-1), mention_positions >= 0):
        raise ValueError("mention_mask must mark a token of every mention, and none of an absent one.")


def check_types(candidate_types: torch.Tensor, number: int, types: int) -> None:
    """Raise ValueError unless types (C, 2, T) are boolean and allow every label at least one for head and tail."""
    if tuple(candidate_types.shape) != (number, 2, types) or candidate_types.dtype != torch.bool:
        raise ValueError(
            f"candidate_types must be (C, 2, T) = {(number, 2, types)} and boolean, got "
            f"{tuple(candidate_types.shape)}, {candidate_types.dtype}."
        )
    if not torch.compiler.is_compiling() and not bool(candidate_types.any(-1).all()):
        raise ValueError("candidate_types must allow every label at least one type for head and tail.")


def lexsort_rows(keys: torch.Tensor) -> torch.Tensor:
    """The order that sorts rows lexicographically, so that what is computed in it does not depend on the rows' order.

    Matrix products round the same row differently at another place, and a score must not depend on the place of its
    label, not even in the last bit.

    Args:
        keys: (..., C, n), n numbers to compare for each of the C rows.

    Returns:
        (..., C), a permutation.
    """
    order = torch.arange(keys.shape[-2], device=keys.device).expand(keys.shape[:-1])
    for column in reversed(range(keys.shape[-1])):
        order = order.gather(-1, keys[..., column].gather(-1, order).argsort(dim=-1, stable=True))
    return order


# Initial weights, checkpoints, pretrained encoders


class MGVMoEPreTrainedModel(PreTrainedModel):
    """Common base of both models: loading, saving, initial weights, attention back ends."""

    config: MGVMoEConfig
    base_model_prefix = "mgvmoe"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SimilarityScore) and module.gate is not None:
            init.zeros_(module.gate)
        if isinstance(module, ResidualMixtureOfExperts):
            init.normal_(module.down.weight, std=module.hidden_size**-0.5)
            init.zeros_(module.expert_means)
            if module.prior_std:
                init.zeros_(module.expert_log_variances)
        if isinstance(module, MGVMoEModel) and module.image_gate is not None:
            init.zeros_(module.image_gate)
        if isinstance(module, AdditiveFusionScore):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        """The form in which the experts run; see `experts_implementation` of [`MGVMoEConfig`]."""
        check_experts_implementation(requested_experts, self.config.expert_type)
        return requested_experts or "auto"

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True

    def set_experts_implementation(self, experts_implementation: str | dict[str, str]) -> None:
        """Choose the form in which the experts run from now on.

        Args:
            experts_implementation: of ours, or a dict: by "" of ours, by `text_config` and `vision_config` of
                backbones that have experts, too.

        Raises:
            ValueError: there is no such form.
        """
        own = {"": experts_implementation} if isinstance(experts_implementation, str) else experts_implementation
        super().set_experts_implementation(own)

    def _freeze_encoders(self) -> None:
        """Take the gradient off every parameter of an encoder that the configuration freezes.

        Done at construction and after loading, not in `train()`: parameters that are added later, such as adapters,
        keep theirs.
        """
        base = getattr(self, self.base_model_prefix, self)
        if self.config.freeze_vision:
            base.vision_model.requires_grad_(False)
        if self.config.freeze_text:
            base.text_model.requires_grad_(False)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict whose names are those in memory or those that `save_pretrained` writes.

        Some backbones (ViT) have other names on the disk than in memory. `Trainer` reads its checkpoints by this
        method, and would leave the weights of other names as they are, with no more than a warning.
        """
        known = set(self.state_dict())
        if not known.issuperset(state_dict):
            loaded: Any = type(self).from_pretrained(
                None, config=self.config, state_dict=dict(state_dict), dtype=self.dtype, output_loading_info=True
            )
            model, report = loaded
            there = model.state_dict()
            renamed = {name: there[name] for name in there if name not in report["missing_keys"]}
            # Those that nothing answers to, for torch to name.
            state_dict = renamed | {name: state_dict[name] for name in report["unexpected_keys"] if name in state_dict}
        return super().load_state_dict(state_dict, strict, assign)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved model, from safetensors only; no pickle is read.

        Raises:
            OSError: a file is missing or damaged.
            ValueError: `use_safetensors` is false, or weights and configuration do not go together.
        """
        source, asked = pretrained_model_name_or_path, kwargs.get("use_safetensors")
        if asked is False:
            raise ValueError("use_safetensors must not be False: pickles are not read, got False")
        kwargs["use_safetensors"] = True
        with reading(source, "model"):
            check_weights(source, kwargs.get("config"))
            with_report = kwargs.pop("output_loading_info", False)
            text_source = kwargs.pop("text_model_name_or_path", None)
            if source is not None and (base := cls._text_base(source, kwargs)) is not None:
                model = cls._with_text_base(source, base, text_source, kwargs)
                empty: dict[str, Any] = {name: [] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
                return (model, empty) if with_report else model
            if text_source is not None:
                raise ValueError(
                    f"text_model_name_or_path: {str(source)!r} holds a text encoder already, got {text_source!r}."
                )
            try:
                loaded: Any = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
            except RuntimeError as error:
                if "ignore_mismatched_sizes" not in str(error):
                    raise
                raise ValueError(cls._what_differs(source, kwargs.get("config"))) from error
            model, report = loaded
            # Who asks for the report sees it.
            nothing_loaded = source is not None and len(report["missing_keys"]) == len(model.state_dict())
            if nothing_loaded and not with_report:
                raise ValueError(f"model: {str(source)!r} must hold weights of {cls.__name__}, no tensor of it is one")
            model._freeze_encoders()  # loading made new parameters, which require a gradient
            return loaded if with_report else model

    @classmethod
    def _text_base(cls, source: Any, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """`text_base` of a folder that leaves its text encoder out; puts its configuration into the arguments."""
        config = kwargs.get("config")
        if config is None:
            config_class: type[Any] = cls.config_class  # type: ignore[assignment]
            # `dtype` is a field, too, and an argument of the model.
            names = {field.name for field in fields(config_class)} | {"output_attentions"}
            own = {name: kwargs[name] for name in names - {"dtype"} if name in kwargs}
            hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
            config = config_class.from_pretrained(source, **hub, **own)
            if config.text_base is not None:
                kwargs["config"] = config
                for name in own:  # they are in the configuration now
                    del kwargs[name]
        base: dict[str, Any] | None = config.text_base
        if base is None:
            return None
        path = cls._weights_file(source, kwargs)
        if path is None:  # in several files, as only whole models are
            return None
        with safe_open(path, "pt") as file:
            return None if any(".text_model." in f".{name}" for name in file.keys()) else base  # noqa: SIM118

    @staticmethod
    def _weights_file(source: Any, kwargs: Mapping[str, Any]) -> str | None:
        """The file of weights of a folder or Hub name; `None` where there is none of that name."""
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        found = cached_file(str(source), WEIGHTS, _raise_exceptions_for_missing_entries=False, **hub)
        return found

    @classmethod
    def _with_text_base(
        cls, source: Any, base: dict[str, Any], text_source: str | None, kwargs: dict[str, Any]
    ) -> Any:
        """A model of the trained parts of a folder and a text encoder from elsewhere."""
        states = dict(load_file(cast(str, cls._weights_file(source, kwargs))))
        prefix = f"{cls.base_model_prefix}."
        # The folder's revision and subfolder are not those of the encoder.
        hub = {name: kwargs[name] for name in set(HUB_ARGUMENTS) - {"revision", "subfolder"} if name in kwargs}
        encoder = text_base_states(base, text_source, **hub)
        states |= {f"{prefix}text_model.{name}": value for name, value in encoder.items()}
        others = {name: value for name, value in kwargs.items() if name not in (*HUB_ARGUMENTS, "use_safetensors")}
        try:
            loaded: Any = super().from_pretrained(None, state_dict=states, output_loading_info=True, **others)
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise ValueError(
                f"text_base: the text encoder must have the shapes that the config.json of {str(source)!r} asks for, "
                f"got another one, {text_source or base['name']!r}."
            ) from error
        model, report = loaded
        if report["missing_keys"]:
            raise ValueError(
                f"model: {str(source)!r} and its text encoder lack weights of {cls.__name__}: "
                f"{sorted(report['missing_keys'])[:5]}."
            )
        model.config._name_or_path = model.name_or_path = str(source)
        model._freeze_encoders()
        return model

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, trained_only: bool = False, **kwargs: Any
    ) -> Any:
        """Save configuration and weights; see `PreTrainedModel.save_pretrained`.

        Args:
            save_directory: folder.
            args, kwargs: arguments of `PreTrainedModel.save_pretrained`.
            trained_only: leave out the text encoder, which must be frozen, so that the folder takes a few MB.
                `from_pretrained` then fetches the encoder that `config.text_base` names.

        Raises:
            ValueError: the text encoder is not frozen or another one, or the configuration does not name it.

        Warns:
            UserWarning: that encoder is not at hand, so that nothing tells whether it is this one.
        """
        if trained_only:
            if self.config.text_base is None or not self.config.freeze_text:
                raise ValueError(
                    "trained_only needs a frozen text encoder that config.text_base names, got "
                    f"freeze_text={self.config.freeze_text} and text_base={self.config.text_base!r}."
                )
            states = kwargs.pop("state_dict", None) or self.state_dict()
            self._check_text_base(self.config.text_base, states)
            kwargs["state_dict"] = {name: kept for name, kept in states.items() if ".text_model." not in f".{name}"}
        return super().save_pretrained(save_directory, *args, **kwargs)

    @staticmethod
    def _check_text_base(text_base: dict[str, Any], states: Mapping[str, torch.Tensor]) -> None:
        """Raise ValueError if `states` hold another text encoder than `text_base`; warn if that is not at hand."""
        text_model = {f".{name}".partition(".text_model.")[2]: value for name, value in states.items()}
        try:
            expected = text_base_states(text_base)
        except OSError as error:
            warnings.warn(f"trained_only: the text encoder was not compared. {error}", stacklevel=3)
            return
        for name, value in expected.items():
            own = text_model.get(name)
            if own is None or own.shape != value.shape or not torch.equal(value.to(own), own):
                raise ValueError(
                    f"trained_only needs the text encoder that config.text_base names, {text_base['name']!r}, "
                    f"got another {name!r}."
                )

    @classmethod
    def _what_differs(cls, source: Any, config: Any) -> str:
        """Says which weights of a folder have other shapes than its configuration asks for."""
        config_class: type[Any] = cls.config_class  # type: ignore[assignment]
        with torch.device("meta"):
            model = cls(config if config is not None else config_class.from_pretrained(source))
        found = other_shapes(source, model) or "transformers' report lists the tensors"
        return f"model: the weights of {str(source)!r} must have the shapes that its config.json asks for: {found}"

    @classmethod
    def from_text_vision_pretrained(
        cls,
        text_id: str,
        vision_id: str,
        text_kwargs: dict[str, Any] | None = None,
        vision_kwargs: dict[str, Any] | None = None,
        **config_kwargs: Any,
    ) -> Self:
        """Compose two pretrained encoders; everything between them starts from random weights.

        A warning says so where the scores are random, too, until the model is trained: with `score="projection"`.

        Args:
            text_id: Hub name or folder of a text encoder.
            vision_id: Hub name or folder of a vision encoder, or of a text-image model, whose vision part is taken.
            text_kwargs, vision_kwargs: for the two calls of `AutoModel.from_pretrained` (`revision`, `token`, ...).
            config_kwargs: fields of [`MGVMoEConfig`].

        Raises:
            TypeError: a keyword is not a field of the configuration.
            ValueError: an encoder is of the other kind, or draws at random in evaluation.
        """
        config_class: type[Any] = cls.config_class  # type: ignore[assignment]  # None only in the abstract base
        known = {field.name for field in fields(config_class)}
        unknown = sorted(set(config_kwargs) - known)
        if unknown:
            raise TypeError(f"from_text_vision_pretrained got {unknown}, which MGVMoEConfig does not have.")
        text_model = pretrained_backbone(text_id, False, **(text_kwargs or {}))
        vision_model = pretrained_backbone(vision_id, True, **(vision_kwargs or {}))
        config = config_class(text_config=text_model.config, vision_config=vision_model.config, **config_kwargs)
        model = cls(config, text_model=text_model, vision_model=vision_model)
        if config.score == "projection" and hasattr(model, "candidate_projection"):
            warnings.warn(
                'from_text_vision_pretrained: with score="projection" all scores are random until the model is '
                'trained; score="similarity" begins with what the text encoder knows.',
                stacklevel=2,
            )
        return model


# Fusion (E7)

# States (B, L, H) of one modality and their mask (B, L).
Tokens = tuple[torch.Tensor, torch.Tensor]
# Tokens whose variances `fused_variance` holds in memory at once.
TOKENS_AT_ONCE = 512


def stable_linear(layer: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """`layer` of rows (..., n), bitwise the same wherever in memory its weights lie.

    For a single row BLAS multiplies a matrix and a vector, and the last bit depends on the weights' alignment: a model
    that was saved and loaded would score slightly otherwise. So such a row is computed twice, as a pair.
    """
    if torch.compiler.is_compiling() or rows.shape[:-1].numel() != 1:
        return layer(rows)
    two = layer(rows.reshape(1, -1).expand(2, -1))
    return two[:1].view(*rows.shape[:-1], -1)


class AdditiveFusionScore(nn.Module):
    """E7's w . [q ; z_j] + b for every token, without writing the concatenations out.

    No subclass of `nn.Linear`: what takes the place of linear layers (PEFT's "all-linear", quantised weights) would
    call it with the concatenation, and one row has neither a lower rank nor bytes to save.

    Args:
        size: width of the concatenation, Q + H.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        layer = nn.Linear(size, 1)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, mention_states: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Scores (B, L) of tokens (B, L, H) for posts (B, Q)."""
        query_weight, token_weight = self.weight.split([mention_states.shape[1], states.shape[2]], 1)
        # The first summand is the same for every token of a post and cancels in the softmax; it is the paper's.
        scores = nn.functional.linear(mention_states, query_weight, self.bias)
        return scores + nn.functional.linear(states, token_weight).squeeze(-1)


class Fusion:
    """One way to weigh the tokens of a post (E7), by a layer of the model.

    The layer is a submodule of the model itself, under `layer_name`, as checkpoints have it, and is looked up in every
    pass: adapters (PEFT) and quantised layers take its place there. To add a fusion to this package: a subclass,
    its name in [`FUSIONS`], and among the values that the configuration's field `fusion` may have.

    Args:
        layer: result of [`make_layer`], or the layer that replaced it.
    """

    layer_name: str
    # The layer's class where `query` reads its weights without calling it, so that nothing may take its place.
    reads_weights_of: type[nn.Module] | None = None

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    @staticmethod
    def make_layer(mention_size: int, hidden_size: int) -> nn.Module:
        """The layer, untrained; `mention_size` is Q."""
        raise NotImplementedError

    def query(self, mention_states: torch.Tensor, hidden_size: int) -> torch.Tensor:
        """The vector that tokens are multiplied with: (B, H), or (H,) for all posts, from q (B, Q).

        The products are the scores, but for a summand that all tokens of a post share: the softmax drops it.
        """
        raise NotImplementedError

    def scores(self, mention_states: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """(B, L), before the softmax, of q (B, Q) and tokens (B, L, H)."""
        return torch.einsum("bh,blh->bl", self.query(mention_states, states.shape[-1]), states)


class AdditiveFusion(Fusion):
    """The paper's E7, w . [q ; z_j] + b: w . q and b cancel in the softmax, so no weight depends on the mention."""

    layer_name = "fusion_score"
    reads_weights_of = AdditiveFusionScore

    @staticmethod
    def make_layer(mention_size: int, hidden_size: int) -> nn.Module:
        return AdditiveFusionScore(mention_size + hidden_size)

    def query(self, mention_states: torch.Tensor, hidden_size: int) -> torch.Tensor:
        return cast(torch.Tensor, self.layer.weight)[0, -hidden_size:]

    def scores(self, mention_states: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return self.layer(mention_states, states)


class QueryFusion(Fusion):
    r"""E7 as scaled dot-product attention, :math:`(W q + b) \cdot z_j / \sqrt H`, with the mention as the query."""

    layer_name = "fusion_query"

    @staticmethod
    def make_layer(mention_size: int, hidden_size: int) -> nn.Module:
        return nn.Linear(mention_size, hidden_size)

    def query(self, mention_states: torch.Tensor, hidden_size: int) -> torch.Tensor:
        return stable_linear(self.layer, mention_states) / hidden_size**0.5


# By the values of the configuration's field `fusion`.
FUSIONS: dict[str, type[Fusion]] = {"additive": AdditiveFusion, "query": QueryFusion}


def _attend(scores: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights (B, L) of tokens: the softmax of their scores over those that `mask` marks."""
    return scores.masked_fill(~mask, float("-inf")).softmax(-1).to(dtype)


def fuse(
    fusion: Fusion, mention_states: torch.Tensor, states: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """E7 of mixtures that are written out.

    Args:
        fusion: with its layer.
        mention_states: (B, Q), q.
        states: (B, L, H), z.
        mask: (B, L), true for real tokens.

    Returns:
        The fused vector (B, H) and the weights (B, L).
    """
    weights = _attend(fusion.scores(mention_states, states), mask, states.dtype)
    return torch.einsum("bl,blh->bh", weights, states), weights


def fuse_means(
    fusion: Fusion,
    experts: VariationalMixtureOfExperts,
    mention_states: torch.Tensor,
    modalities: Sequence[Tokens],
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """E7 and the means of E6 at evaluation, of mixtures that are never written out ("Linearity" in docs/method.md).

    Args:
        fusion: as in [`fuse`]; weights that it reads, and those of the experts, must be plain: [`experts_of_means`].
        experts: experts of the tokens.
        mention_states: (B, Q), q.
        modalities: states (B, L, H) before the experts and mask (B, L) of each.

    Returns:
        The fused vector (B, H), the weights over the tokens of all modalities, and for each modality the mean of its
        mixtures (B, H) and the router's probabilities (B, L, K).
    """
    query = fusion.query(mention_states, experts.hidden_size)
    probs = [experts.route(states) for states, _ in modalities]
    products = [experts.mean_products(states, p, query) for (states, _), p in zip(modalities, probs, strict=True)]
    masks = [mask for _, mask in modalities]
    weights = _attend(torch.cat(products, dim=1), torch.cat(masks, dim=1), mention_states.dtype)
    shares = weights.split([mask.shape[1] for mask in masks], dim=1)
    fused, means = [], []
    for (states, mask), p, share in zip(modalities, probs, shares, strict=True):
        equal = mask.to(share.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)
        sums = experts.mean_sums(states, p, torch.stack([share, equal], dim=1))
        fused.append(sums[:, 0])
        means.append(sums[:, 1])
    return sum(fused[1:], start=fused[0]), weights, means, probs


def fuse_modalities(
    fusion: Fusion,
    experts: nn.Module,
    mention_states: torch.Tensor,
    modalities: Sequence[Tokens],
    noises: Sequence[torch.Tensor | None],
    sampled: bool,
    return_losses: bool,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], list[torch.Tensor], list[VariationalMixtureOutput]]:
    """E1 to E3 of every token and E7, in the form that [`experts_of_means`] allows where nothing is drawn.

    Args:
        fusion, mention_states: as in [`fuse`].
        experts: experts of the tokens.
        modalities: states (B, L, H) before the experts and mask (B, L) of each, text last.
        noises: (B, L, H) of each, or `None`: of the experts' own.
        sampled: whether the mixtures have noise.
        return_losses: whether the mixtures are asked for, with E4 and E5.

    Returns:
        As [`fuse_means`], and the mixtures, none where they were not needed.
    """
    plain = None if sampled else experts_of_means(fusion, experts)
    mixtures: list[VariationalMixtureOutput] = []
    if return_losses or plain is None:
        # The text draws its noise first.
        mixtures = [
            experts(*tokens, noise, return_losses)
            for tokens, noise in zip(modalities[::-1], noises[::-1], strict=True)
        ][::-1]
    if plain is not None:
        # With and without losses, so that these change no score.
        return *fuse_means(fusion, plain, mention_states, modalities), mixtures
    masks = [mask for _, mask in modalities]
    states = torch.cat([mixture.hidden_states for mixture in mixtures], dim=1)
    fused, weights = fuse(fusion, mention_states, states, torch.cat(masks, dim=1))
    means = [token_mean(mixture.hidden_states, mask) for mixture, mask in zip(mixtures, masks, strict=True)]
    return fused, weights, means, [mixture.router_probs for mixture in mixtures], mixtures


def fused_variance(
    experts: VariationalMixtureOfExperts,
    modalities: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]],
) -> torch.Tensor:
    r"""The variance of f in E7, given the weights a, if every token's mixture is drawn by itself, as E3 draws it.

    .. math::
        \mathrm{Var}(f) = \sum_j a_j^2 \sum_k p_{jk}^2\, e^{s_{jk}}

    The sum of independent Gaussians is Gaussian, so that mean and variance are the whole distribution of f.

    Args:
        experts: experts of the tokens.
        modalities: of each the states before the experts (P, L, H), the weights (B, L), and the row of each post among
            the states (B,), or `None` where every post has its own. A row of several posts is computed once.

    Returns:
        (B, H), in no less than single precision.
    """
    states, weights, _ = modalities[0]
    total = at_least_float32(states.new_zeros(len(weights), states.shape[-1]))
    for states, weights, index in modalities:
        probs = experts.route(states)
        squares = at_least_float32(weights).square()
        for row in range(len(states)):
            posts = [row] if index is None else index == row
            # Not the padding, nor an image that no post of this row has.
            needed = squares[posts].any(0).nonzero().flatten()
            for chunk in needed.split(TOKENS_AT_ONCE):
                variances = experts.token_variances(states[row, chunk], probs[row, chunk])
                total[posts] += squares[posts][:, chunk] @ variances
    return total


def experts_of_means(fusion: Fusion, experts: nn.Module) -> VariationalMixtureOfExperts | None:
    """The experts, if [`fuse_means`] gives what the layers' own forward would: nothing hooks in or replaces them."""
    if fusion.reads_weights_of and not is_plain(fusion.layer, fusion.reads_weights_of):
        return None
    return experts if isinstance(experts, VariationalMixtureOfExperts) and experts.is_chunked else None


# Scores (E8)


def masked_token_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of (B, L, H) states over the tokens that `mask` (B, S, L) marks; zeros where none are. To (B, S, H)."""
    weights = mask.to(states.dtype)
    return torch.einsum("blh,bsl->bsh", states, weights / weights.sum(-1, keepdim=True).clamp(min=1))


def label_mean(embeds: torch.Tensor, index: torch.Tensor | None, directions: bool = True) -> torch.Tensor:
    """Each label as the mean of its texts.

    One sentence has its accidents, which make a label near to every post or to none; several that say the same in
    other words have fewer.

    Args:
        embeds: (P, H), of one text each.
        index: (P,), the label of each text, every label from 0 to C - 1 present; `None` for one text a label.
        directions: the mean is that of directions, and of length 1; else that of the vectors as they are.

    Returns:
        (C, H).
    """
    if directions:
        embeds = F.normalize(at_least_float32(embeds), dim=-1)
    if index is None:
        return embeds
    # `item`, not `int`: an exported graph has any number of labels.
    number = cast(int, index.max().item()) + 1
    sums = embeds.new_zeros(number, embeds.shape[1]).index_add(0, index, embeds)
    if directions:
        return F.normalize(sums, dim=-1)
    return sums / embeds.new_zeros(number).index_add(0, index, embeds.new_ones(index.shape))[:, None]


def one_of_each(index: torch.Tensor) -> torch.Tensor:
    """For each label one of its texts, drawn from torch's generator.

    Args:
        index: (P,), the label of each text.

    Returns:
        (C,), rows.
    """
    order = torch.rand(len(index), device=index.device).argsort()
    # Of a label's texts, the one that comes first in a random order of all.
    first = torch.full((int(index.max()) + 1,), len(index), device=index.device)
    ranks = first.scatter_reduce(0, index[order], torch.arange(len(index), device=index.device), "amin")
    return order[ranks]


class SimilarityScore(nn.Module):
    r"""E8': similarity as the start, a gated residual, and the types of head and tail.

    .. math::
        u = (1 - w)\,\bar x + w\,\bar x_{mention} + w_v\,\hat v \qquad
        s_c = \tau\, \langle \hat u + g\, \widehat{P_m[f ; q]},\; \hat l_c \rangle
              + \lambda \sum_{i} \log \sum_{t \in T_{c,i}} p_i(t) \qquad
        p_i = \mathrm{softmax}_t(\tau\, \langle \hat x_{mention_i}, \hat l_t \rangle)

    :math:`\bar x` is the mean of the text encoder's states over the post, :math:`\bar x_{mention}` over a mention,
    hats are directions (length 1), w is 0 for pairs, whose mentions speak through their types, g starts at 0,
    :math:`T_{c,i}` are the types that label c allows for mention i. v is the mean of the text encoder's states over
    the image text; a post without one has no such summand.

    Args:
        scale: tau.
        mention_weight: w of posts with one mention.
        type_coef: lambda.
        image_text_weight: w_v.
        gated: whether there is a residual. Residual experts, which move u itself, have none.
    """

    def __init__(
        self,
        scale: float,
        mention_weight: float,
        type_coef: float,
        image_text_weight: float = 0.1,
        gated: bool = True,
    ) -> None:
        super().__init__()
        self.scale, self.mention_weight, self.type_coef = scale, mention_weight, type_coef
        self.image_text_weight = image_text_weight
        self.gate = nn.Parameter(torch.zeros(1)) if gated else None

    def embed_posts(
        self,
        states: torch.Tensor,
        mask: torch.Tensor,
        mention_mask: torch.Tensor,
        image_text_embeds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The directions of posts and mentions.

        Args:
            states: (B, L, H), of the text encoder.
            mask: (B, L), true for real tokens.
            mention_mask: (B, S, L), true for the tokens of each mention; all false for an absent second mention.
            image_text_embeds: (B, H), v; zeros for posts without an image text. `None`: no post has one.

        Returns:
            u, (B, H), and the mentions, (B, S, H), zeros for absent ones; all of length 1.
        """
        states = at_least_float32(states)
        whole = F.normalize(masked_token_mean(states, mask[:, None]).squeeze(1), dim=-1)
        mentions = F.normalize(masked_token_mean(states, mention_mask), dim=-1)
        single = mention_mask.any(-1).sum(-1) == 1
        weight = (self.mention_weight * single.to(whole.dtype))[:, None]
        posts = (1 - weight) * whole + weight * mentions[:, 0]
        if image_text_embeds is not None:
            posts = posts + self.image_text_weight * F.normalize(at_least_float32(image_text_embeds), dim=-1)
        return F.normalize(posts, dim=-1), mentions

    def with_residual(self, post_embeds: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
        """The posts' side of the score: u with what the experts add, both (B, H)."""
        assert self.gate is not None, "it is made with a gate"
        return post_embeds + self.gate * F.normalize(at_least_float32(projected), dim=-1)

    def type_log_probs(self, mentions: torch.Tensor, type_embeds: torch.Tensor) -> torch.Tensor:
        """log p of every type for every mention, (B, S, T), of mentions (B, S, H) and types (T, H)."""
        return (self.scale * at_least_float32(mentions) @ at_least_float32(type_embeds).T).log_softmax(-1)

    @staticmethod
    def type_compatibility(
        log_probs: torch.Tensor, candidate_types: torch.Tensor, mention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Sum over the mentions of log P(types that the label allows).

        Args:
            log_probs: (B, S, T).
            candidate_types: (C, S', T), true for the allowed types, S' at least S. All true: no constraint, worth 0.
            mention_mask: (B, S, L).

        Returns:
            (B, C).
        """
        allowed = candidate_types[None, :, : log_probs.shape[1]]
        fit = log_probs[:, None].masked_fill(~allowed, float("-inf")).logsumexp(-1)
        # Types are those of heads and tails: a post with one mention has none. And rounding must not tell a label
        # without constraint from 0.
        pairs = (mention_mask.any(-1).sum(-1) == 2)[:, None, None]
        counts = pairs & ~allowed.all(-1)
        return torch.where(counts, fit, 0).sum(-1)


def token_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of (B, L, H) states over the tokens that `mask` (B, L) marks; zeros for rows without one. To (B, H)."""
    return masked_token_mean(states, mask[:, None]).squeeze(1)


def _tokens_of_images(
    image_states: torch.Tensor | None, mask: torch.Tensor, index: torch.Tensor | None, image_text: Tokens | None
) -> tuple[list[Tokens], torch.Tensor]:
    """The tokens of the posts' images, by source, and which posts have an image.

    Args:
        image_states: (P, L, H), of the pixels, `None` without any.
        mask: (B,), true for posts with pixels.
        index: (B,), the row of each post in `image_states`; `None` where every post has its own.
        image_text: tokens of the image texts; `None` without any.

    Returns:
        For pixels and for image texts, if there are any, the states (B, L, H) with their mask (B, L); and (B,).
    """
    images: list[Tokens] = []
    if image_states is not None:
        pixels = image_states if index is None else image_states[index]
        images.append((pixels, mask[:, None].expand(pixels.shape[:2])))
    if image_text is not None:
        images.append(image_text)
        mask = mask | image_text[1].any(1)
    return images, mask


def _side_by_side(parts: Sequence[Tokens]) -> Tokens:
    """Tokens of several sources as one row of tokens for each post."""
    return torch.cat([states for states, _ in parts], dim=1), torch.cat([mask for _, mask in parts], dim=1)


def _surely_all_true(mask: torch.Tensor) -> bool:
    """True if nothing is masked; False also where asking would wait for a device or break a compiled graph."""
    return mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask.all())


IMAGE_TEXT_ARGUMENTS = ("image_text_input_ids", "image_text_attention_mask")
IMAGE_ARGUMENTS = ("pixel_values", "image_features", "image_mask", "image_index", *IMAGE_TEXT_ARGUMENTS)


@dataclass
class PostEmbeds(ModelOutput):
    """Vectors of encoded posts, to be scored later against any labels.

    Args:
        mention_embeds: (B, D), the posts' side of E8.
        mention_directions: (B, S, H), of length 1, the mentions by themselves, zeros for absent ones; only with
            `score="similarity"`, for the types of heads and tails.
        sample_embeds: (N, B, D), the same as `mention_embeds` for each draw from the experts; only if asked for.
    """

    mention_embeds: torch.Tensor = None  # type: ignore[assignment]
    mention_directions: torch.Tensor | None = None
    sample_embeds: torch.Tensor | None = None

    def rows(self, index: torch.Tensor | slice | Sequence[int]) -> Self:
        """Some of the posts."""
        samples = self.sample_embeds
        return type(self)(
            mention_embeds=self.mention_embeds[index],
            mention_directions=None if self.mention_directions is None else self.mention_directions[index],
            sample_embeds=None if samples is None else samples[:, index],
        )

    @classmethod
    def concatenate(cls, parts: Sequence["PostEmbeds"]) -> "PostEmbeds":
        """Several batches as one.

        Raises:
            ValueError: there are none, or some have what others have not.
        """
        if not parts or len({tuple(part.keys()) for part in parts}) > 1:
            raise ValueError(f"parts: posts that were encoded alike are needed, got {[list(part) for part in parts]}.")
        joined = {"mention_embeds": torch.cat([part.mention_embeds for part in parts])}
        if parts[0].sample_embeds is not None:
            joined["sample_embeds"] = torch.cat([cast(torch.Tensor, part.sample_embeds) for part in parts], dim=1)
        if parts[0].mention_directions is not None:
            # A batch of typing posts has one slot, others two.
            directions = [cast(torch.Tensor, part.mention_directions) for part in parts]
            slots = max(own.shape[1] for own in directions)
            joined["mention_directions"] = torch.cat(
                [nn.functional.pad(own, (0, 0, 0, slots - own.shape[1])) for own in directions]
            )
        return cls(**joined)


def _noise(deviation: torch.Tensor, number: int | None, given: torch.Tensor | None) -> torch.Tensor:
    """(N, B, H), standard normal, for deviations (B, H): the given one, or `number` draws.

    Raises:
        ValueError: the given noise has another shape.
    """
    if given is None:
        return torch.randn((cast(int, number), *deviation.shape), device=deviation.device, dtype=deviation.dtype)
    if given.shape[1:] != deviation.shape:
        raise ValueError(
            f"sample_noise must be (N, B, H) with (B, H) = {tuple(deviation.shape)}, got {tuple(given.shape)}."
        )
    return given


# In `labels`: a post of none of the candidates, which takes no part in E9 and in the loss of the types.
NO_LABEL = -100


class MGVMoEModel(MGVMoEPreTrainedModel):
    """Backbones, shared experts and fusion: posts in, one fused vector per post out.

    Args:
        config: the configuration.
        text_model, vision_model: backbones that are already there; default: random ones by the configuration.
    """

    def __init__(
        self,
        config: MGVMoEConfig,
        text_model: PreTrainedModel | None = None,
        vision_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        hidden_size, mention_size = config.hidden_size, (config.max_mentions + 1) * config.hidden_size
        check_repeatable("text_config", config.text_config)
        check_repeatable("vision_config", config.vision_config)
        self.text_model = text_model or random_backbone(config.text_config)
        self.vision_model = vision_model or random_backbone(config.vision_config)
        # One configuration object each, so that `resize_token_embeddings` and the attention back end stay in step.
        self.text_model.config, self.vision_model.config = config.text_config, config.vision_config
        # Names and classes of the encoders' modules as they are now: what is added later, adapters, is not frozen.
        self._encoder_modules: dict[str, dict[str, type[nn.Module]]] = {
            encoder: {name: type(module) for name, module in getattr(self, encoder).named_modules()}
            for encoder in ("text_model", "vision_model")
        }
        self._freeze_encoders()
        self.vision_projection = (
            nn.Identity() if config.vision_width == hidden_size else nn.Linear(config.vision_width, hidden_size)
        )
        self.residual = config.expert_type == "residual"
        # How much the pixels of an image count beside its text: nothing before their projection has learned.
        self.image_gate = nn.Parameter(torch.zeros(1)) if self.residual else None
        self.experts: nn.Module
        if self.residual:
            self.experts = ResidualMixtureOfExperts(
                hidden_size, config.num_experts, config.expert_rank, config.expert_prior_std
            )
        elif config.num_experts:
            self.experts = VariationalMixtureOfExperts(
                hidden_size, config.num_experts, config.deterministic_experts, config
            )
        else:
            self.experts = NoExperts()
        # Residual experts take E7's weights from the configuration.
        if not self.residual:
            fusion = FUSIONS[config.fusion]
            self.add_module(fusion.layer_name, fusion.make_layer(mention_size, hidden_size))
        self.post_init()

    @property
    def fusion(self) -> Fusion:
        """E7's, with the layer that is there now; residual experts have none."""
        kind = FUSIONS[self.config.fusion]
        return kind(getattr(self, kind.layer_name))

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        frozen = {"text_model": self.config.freeze_text, "vision_model": self.config.freeze_vision}
        for encoder in (name for name, is_frozen in frozen.items() if is_frozen):
            own = self._encoder_modules[encoder]
            for name, module in getattr(self, encoder).named_modules():
                # Unlike the reference, no dropout inside frozen encoders: their outputs can be cached.
                if name in own and isinstance(module, own[name]):
                    module.training = False
        return self

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        mention_positions: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        text_noise: torch.Tensor | None = None,
        image_noise: torch.Tensor | None = None,
        return_losses: bool = False,
        return_variance: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        image_text_input_ids: torch.Tensor | None = None,
        image_text_attention_mask: torch.Tensor | None = None,
        mention_mask: torch.Tensor | None = None,
        post_states: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MGVMoEModelOutput:
        """Encode posts.

        Args:
            input_ids: (B, Lt), with markers around the mentions.
            attention_mask: (B, Lt); default: no padding.
            mention_positions: (B, S), positions of the opening markers; -1 for an absent second mention.
            pixel_values: (B, 3, height, width), or
            image_features: (B, Li, H'), the output of [`get_image_features`].
            image_mask: (B,), true for posts that have pixels; default: all, if there are pixels at all.
            image_index: (B,), for each post the row of `pixel_values` or `image_features` that is its image, where
                posts share images: these then have one row for each image, instead of one for each post.
            image_text_input_ids: (B, Lw), words for each post's image (caption, alternative text, words in the image),
                with or without pixels. Their states in the text encoder are tokens of the image, behind those of
                the pixels, in E1 to E12.
            image_text_attention_mask: (B, Lw), a row of zeros for a post without image text; default: no padding.
            text_noise: (B, Lt, H), image_noise: (B, Li, H), Lw included: take the place of the experts' noise (E3).
                With residual experts they are for the pooled states, (B, 1 + max_mentions, H) and (B, 2, H).
            mention_mask: (B, S, Lt), true for the tokens of each mention; residual experts need it.
            post_states: (B, max_mentions + 2, H), the output of [`get_post_states`], instead of `input_ids` and all
                that belongs to them; with residual experts only.
            return_losses: compute E4 and E5.
            return_variance: compute the variance of f; at inference only.
            output_attentions, output_hidden_states: of the backbones; the latter may list the states to keep.

        Raises:
            ValueError: an argument is missing or a shape does not fit.
        """
        refuse_unknown(kwargs)
        check_tensors(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mention_positions=mention_positions,
            pixel_values=pixel_values,
            image_features=image_features,
            image_mask=image_mask,
            image_index=image_index,
            image_text_input_ids=image_text_input_ids,
            image_text_attention_mask=image_text_attention_mask,
            mention_mask=mention_mask,
            post_states=post_states,
        )
        noises = (text_noise, image_noise)
        self._check_request(return_variance, noises, pixel_values, image_features)
        if post_states is not None:
            self._check_post_states(post_states, input_ids)
            image_states, image_mask, _ = self._image_states(
                post_states, pixel_values, image_features, image_mask, image_index, {}
            )
            return self._fuse_pooled(
                post_states, (image_states, image_mask, image_index), noises, return_losses, return_variance
            )
        if input_ids is None or mention_positions is None:
            raise ValueError("input_ids and mention_positions must be given.")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        self._check_tokens(input_ids, attention_mask, "")
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        # Only if asked for: not every backbone takes both arguments (MobileNetV2 has no attention).
        extras: dict[str, Any] = {"output_attentions": True} if output_attentions else {}
        if output_hidden_states:
            extras["output_hidden_states"] = output_hidden_states

        with self._text_gradient():
            text_output = self.text_model(input_ids, attention_mask=attention_mask, **extras)
        text_states = text_output.last_hidden_state
        text_mask = attention_mask.bool()
        mention_states = self._mention_states(text_states, text_mask, mention_positions)
        image_states, image_mask, vision_output = self._image_states(
            text_states, pixel_values, image_features, image_mask, image_index, extras
        )
        with self._text_gradient():
            image_text = self._image_text_states(text_states, image_text_input_ids, image_text_attention_mask)
        encoded: dict[str, Any] = {
            "text_states": text_states,
            "mention_states": mention_states,
            "hidden_states": text_output.get("hidden_states"),
            "attentions": text_output.get("attentions"),
            "vision_hidden_states": vision_output.get("hidden_states") if vision_output else None,
            "vision_attentions": vision_output.get("attentions") if vision_output else None,
        }
        pixels = (image_states, image_mask, image_index)
        if not self.residual:
            return self._fuse_tokens(encoded, text_mask, pixels, image_text, noises, return_losses, return_variance)
        if mention_mask is None:
            raise ValueError('mention_mask must be given with expert_type="residual".')
        check_mention_mask(mention_mask, mention_positions, attention_mask)
        pooled = self._pool(text_states, text_mask, mention_mask, image_text)
        output = self._fuse_pooled(pooled, pixels, noises, return_losses, return_variance)
        self._spread(output, self._image_masks(image_states, image_mask, image_text), text_mask, mention_mask)
        output.text_states, output.mention_states = encoded.pop("text_states"), encoded.pop("mention_states")
        for name, states in encoded.items():
            output[name] = states
        return output

    def _fuse_tokens(
        self,
        encoded: dict[str, Any],
        text_mask: torch.Tensor,
        pixels: tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None],
        image_text: Tokens | None,
        noises: tuple[torch.Tensor | None, torch.Tensor | None],
        return_losses: bool,
        return_variance: bool,
    ) -> MGVMoEModelOutput:
        """E1 to E3 of every token by Gaussian experts, and E7 by the fusion of the configuration.

        Args:
            encoded: fields of the output that come from the encoders, `text_states` and `mention_states` among them.
            text_mask: (B, Lt).
            pixels: their projected tokens (P, Li, H) or `None`, `image_mask` and `image_index` of `forward`.
            image_text: states (B, Lw, H) and mask (B, Lw), or `None`.
            noises, return_losses, return_variance: see `forward`.
        """
        text_states, mention_states = encoded["text_states"], encoded["mention_states"]
        image_states, _, image_index = pixels
        images, image_mask = _tokens_of_images(*pixels, image_text)
        modalities = [(text_states, text_mask)]
        if images:
            modalities.insert(0, images[0] if len(images) == 1 else _side_by_side(images))
        sampled = self.training or any(noise is not None for noise in noises)
        fused, weights, means, probs, mixtures = fuse_modalities(
            self.fusion,
            self.experts,
            mention_states,
            modalities,
            noises[::-1][-len(modalities) :],
            sampled,
            return_losses,
        )
        losses: dict[str, Any] = (
            self._losses(mixtures, [mask for _, mask in modalities], image_states is not None) if return_losses else {}
        )
        variance = None
        if return_variance:
            assert isinstance(self.experts, VariationalMixtureOfExperts)  # checked above
            shares = weights.split([*(mask.shape[1] for _, mask in images), text_states.shape[1]], dim=1)
            parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = [(text_states, shares[-1], None)]
            if image_states is not None:
                parts.append((image_states, shares[0], image_index))
            if image_text is not None:
                parts.append((image_text[0], shares[-2], None))
            variance = fused_variance(self.experts, parts)
        return MGVMoEModelOutput(
            fused_embeds=fused,
            fused_variance=variance,
            text_embeds=means[-1],
            image_embeds=means[0] if images else None,
            image_mask=image_mask,
            image_text_embeds=None
            if image_text is None
            else token_mean(at_least_float32(image_text[0]), image_text[1]),
            fusion_attentions=weights,
            text_router_probs=probs[-1],
            image_router_probs=probs[0] if images else None,
            **losses,
            **encoded,
        )

    def _check_request(
        self,
        return_variance: bool,
        noises: tuple[torch.Tensor | None, torch.Tensor | None],
        pixel_values: torch.Tensor | None,
        image_features: torch.Tensor | None,
    ) -> None:
        if pixel_values is not None and image_features is not None:
            raise ValueError("pixel_values and image_features exclude each other, got both.")
        quiet = not self.training and all(noise is None for noise in noises)
        if return_variance and (not quiet or isinstance(self.experts, NoExperts)):
            raise ValueError(
                "return_variance, num_samples: they need experts, evaluation mode and no text_noise or image_noise."
            )

    @staticmethod
    def _image_masks(
        image_states: torch.Tensor | None, image_mask: torch.Tensor, image_text: Tokens | None
    ) -> dict[int, torch.Tensor]:
        """Masks (B, L) of the tokens of pixels (0) and image text (1), of those that are there."""
        masks = {} if image_states is None else {0: image_mask[:, None].expand(-1, image_states.shape[1])}
        return masks if image_text is None else {**masks, 1: image_text[1]}

    def _text_gradient(self) -> Any:
        """Context manager: no gradient for a frozen text encoder, unless something in it trains, such as adapters."""
        trains = not self.config.freeze_text or any(one.requires_grad for one in self.text_model.parameters())
        return torch.set_grad_enabled(torch.is_grad_enabled() and trains)

    def _check_post_states(self, post_states: torch.Tensor, input_ids: torch.Tensor | None) -> None:
        if not self.residual or input_ids is not None:
            raise ValueError(
                'post_states need a model with expert_type="residual" and take the place of input_ids, got '
                f"expert_type={self.config.expert_type!r}" + ("." if input_ids is None else " and both.")
            )
        shape = (self.config.max_mentions + 2, self.config.hidden_size)
        if post_states.ndim != 3 or post_states.shape[1:] != shape:
            raise ValueError(f"post_states must be (B, {shape[0]}, {shape[1]}), got {tuple(post_states.shape)}.")

    def get_post_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        mention_mask: torch.Tensor,
        image_text_input_ids: torch.Tensor | None = None,
        image_text_attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pooled states that residual experts move; they may be cached while the text encoder is frozen.

        Args:
            input_ids, attention_mask, image_text_input_ids, image_text_attention_mask: see `forward`.
            mention_mask: (B, S, Lt).

        Returns:
            (B, max_mentions + 2, H): the mean of the text encoder's states over the post, over each mention and over
            the image text, all of length 1; zeros for an absent mention or image text.
        """
        self._check_tokens(input_ids, attention_mask, "")
        with self._text_gradient():
            states = self.text_model(input_ids, attention_mask=attention_mask).last_hidden_state
            image_text = self._image_text_states(states, image_text_input_ids, image_text_attention_mask)
        return self._pool(states, attention_mask.bool(), mention_mask, image_text)

    def _pool(
        self, states: torch.Tensor, mask: torch.Tensor, mention_mask: torch.Tensor, image_text: Tokens | None
    ) -> torch.Tensor:
        """[`get_post_states`] of the encoder's states."""
        states = at_least_float32(states)
        mentions = masked_token_mean(states, mention_mask)
        mentions = F.pad(mentions, (0, 0, 0, self.config.max_mentions - mentions.shape[1]))
        whole = token_mean(states, mask)[:, None]
        words = torch.zeros_like(whole)
        if image_text is not None:
            words = token_mean(at_least_float32(image_text[0]), image_text[1])[:, None]
        return F.normalize(torch.cat([whole, mentions, words], dim=1), dim=-1)

    def _fuse_pooled(
        self,
        post_states: torch.Tensor,
        pixels: tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None],
        noises: tuple[torch.Tensor | None, torch.Tensor | None],
        return_losses: bool,
        return_variance: bool,
    ) -> MGVMoEModelOutput:
        r"""E1 to E3 of pooled states by residual experts, and E7 with the weights of the configuration.

        .. math:: f = (1 - w)\,\hat z_{post} + w\,\hat z_{mention} + g\,\hat z_{pixels} + w_v\,\hat z_{image\ text}

        w is `mention_weight` for posts with one mention and 0 for pairs, g the trained `image_gate`, w_v
        `image_text_weight`; a summand of what a post lacks is 0.

        Args:
            post_states: output of [`get_post_states`].
            pixels: their projected tokens (P, Li, H) or `None`, `image_mask` and `image_index` of `forward`.
            noises: (B, 1 + max_mentions, H) and (B, 2, H), or `None`.
            return_losses, return_variance: see `forward`.
        """
        assert self.image_gate is not None and isinstance(self.experts, ResidualMixtureOfExperts)
        image_states, image_mask, image_index = pixels
        if (
            image_states is not None
            and not self.training
            and not torch.compiler.is_compiling()
            and not self.image_gate.any()
        ):
            logger.warning_once(
                "pixel_values: this model was not trained with pixels (its image_gate is 0), so they change no score; "
                "give words for the image, image_text."
            )
        text, words = post_states.split([self.config.max_mentions + 1, 1], dim=1)
        has_words = words.any(-1)
        text_mask = text.any(-1)
        modalities: list[Tokens] = [(text, text_mask)]
        with_image = image_states is not None or torch.compiler.is_compiling() or bool(has_words.any())
        if with_image:
            modalities.insert(0, self._pooled_images(words, image_states, image_mask, image_index))
        mixtures = [
            self.experts(states, mask, noise, return_losses)
            for (states, mask), noise in zip(modalities, noises[::-1][-len(modalities) :], strict=True)
        ]
        directions = [
            F.normalize(at_least_float32(mixture.hidden_states), dim=-1) * mask[..., None]
            for mixture, (_, mask) in zip(mixtures, modalities, strict=True)
        ]
        single = (text_mask[:, 1:].sum(1) == 1).to(post_states.dtype)
        mention = self.config.mention_weight * single
        weights = F.pad(torch.stack([1 - mention, mention], dim=1), (0, text.shape[1] - 2))
        if with_image:
            gates = torch.cat([self.image_gate, self.image_gate.new_tensor([self.config.image_text_weight])])
            weights = torch.cat([gates * modalities[0][1], weights], dim=1)
        fused = torch.einsum("br,brh->bh", weights, torch.cat(directions, dim=1))
        losses: dict[str, Any] = (
            self._losses(mixtures, [mask for _, mask in modalities], image_states is not None) if return_losses else {}
        )
        variance = None
        if return_variance:
            tokens = torch.cat([states for states, _ in modalities], dim=1)
            probs = torch.cat([mixture.router_probs for mixture in mixtures], dim=1)
            variance = torch.einsum("br,brh->bh", weights.square(), self.experts.token_variances(tokens, probs))
        image_embeds = token_mean(directions[0], modalities[0][1]) if with_image else None
        return MGVMoEModelOutput(
            fused_embeds=fused,
            fused_variance=variance,
            text_embeds=directions[-1][:, 0],
            mention_directions=directions[-1][:, 1:],
            image_embeds=image_embeds,
            image_mask=image_mask | has_words[:, 0],
            image_text_embeds=words[:, 0] if with_image else None,
            fusion_attentions=weights,
            text_router_probs=mixtures[-1].router_probs[:, :1],
            image_router_probs=mixtures[0].router_probs * modalities[0][1][..., None] if with_image else None,
            **losses,
        )

    @staticmethod
    def _pooled_images(
        words: torch.Tensor,
        image_states: torch.Tensor | None,
        image_mask: torch.Tensor,
        image_index: torch.Tensor | None,
    ) -> Tokens:
        """Directions (B, 2, H) of pixels and image text, zeros for absent ones, and their mask (B, 2)."""
        has_words = words.any(-1)
        if image_states is None:
            rows, has_pixels = torch.zeros_like(words), torch.zeros_like(has_words)
        else:
            means = F.normalize(at_least_float32(image_states).mean(1, keepdim=True), dim=-1)
            has_pixels = image_mask[:, None]
            rows = (means if image_index is None else means[image_index]) * has_pixels[..., None]
        return torch.cat([rows, words], dim=1), torch.cat([has_pixels, has_words], dim=1)

    def _spread(
        self,
        output: MGVMoEModelOutput,
        image_masks: Mapping[int, torch.Tensor],
        text_mask: torch.Tensor,
        mention_mask: torch.Tensor,
    ) -> None:
        """Expand the weights and router probabilities of pooled states to their tokens, in place.

        A pooled state is the mean of its tokens, so they share its weight alike; weights become absolute and sum to 1.

        Args:
            output: output of [`_fuse_pooled`]; its `fusion_attentions` and router probabilities become token-wise.
            image_masks: (B, L) of the tokens of pixels (0) and image text (1), of those that are there.
            text_mask: (B, Lt).
            mention_mask: (B, S, Lt).
        """

        def share(mask: torch.Tensor) -> torch.Tensor:
            return mask / mask.sum(-1, keepdim=True).clamp(min=1)

        weights, probs = output.fusion_attentions.abs(), output.image_router_probs
        whole, mention = weights[:, -1 - self.config.max_mentions, None], weights[:, -self.config.max_mentions, None]
        parts = [weights[:, row, None] * share(mask) for row, mask in image_masks.items()]
        total = torch.cat([*parts, whole * share(text_mask) + mention * share(mention_mask[:, 0])], dim=1)
        output.fusion_attentions = total / total.sum(1, keepdim=True)
        output.text_router_probs = output.text_router_probs.expand(-1, text_mask.shape[1], -1)
        if not image_masks:
            # Where a graph is compiled, rows of zeros stand for images that no post has.
            output.image_router_probs = None
        elif probs is not None:
            rows = [probs[:, row, None].expand(-1, mask.shape[1], -1) for row, mask in image_masks.items()]
            output.image_router_probs = torch.cat(rows, dim=1)

    def _losses(
        self, mixtures: Sequence[VariationalMixtureOutput], masks: Sequence[torch.Tensor], with_pixels: bool
    ) -> dict[str, torch.Tensor]:
        """KL and router entropy (E4, E5). Without pixels, adds 0 times every trained vision parameter, for DDP."""
        if not with_pixels and self.training:
            assert mixtures[0].kl_loss is not None, "it was asked for"
            mixtures[0].kl_loss = mixtures[0].kl_loss + self._zero_of_the_vision_side()
        return expert_losses(mixtures, masks)

    def get_candidate_states(
        self,
        candidate_input_ids: torch.Tensor,
        candidate_attention_mask: torch.Tensor | None = None,
        prefix: str = "candidate_",
    ) -> torch.Tensor:
        """Pooled states of label texts, which may be cached while the text encoder is frozen.

        Args:
            candidate_input_ids, candidate_attention_mask: (P, Lc).
            prefix: of the arguments' names in errors.

        Returns:
            (P, H), the mean of the text encoder's states over each text, of length 1.
        """
        given = {"input_ids": candidate_input_ids, "attention_mask": candidate_attention_mask}
        check_tensors(**{prefix + name: value for name, value in given.items()})
        if candidate_attention_mask is None:
            candidate_attention_mask = torch.ones_like(candidate_input_ids)
        self._check_tokens(candidate_input_ids, candidate_attention_mask, prefix)
        if torch.compiler.is_exporting():
            return self._pool_texts(candidate_input_ids, candidate_attention_mask)
        order = lexsort_rows(candidate_input_ids.masked_fill(~candidate_attention_mask.bool(), -1))
        return self._pool_texts(candidate_input_ids[order], candidate_attention_mask[order])[order.argsort()]

    def _pool_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        with self._text_gradient():
            states = self.text_model(input_ids, attention_mask=attention_mask).last_hidden_state
        return F.normalize(token_mean(at_least_float32(states), attention_mask.bool()), dim=-1)

    def move_candidates(
        self,
        states: torch.Tensor,
        index: torch.Tensor | None = None,
        return_losses: bool = False,
        prefix: str = "candidate_",
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Labels by residual experts.

        Args:
            states: (P, H), of [`get_candidate_states`].
            index: (P,), the label of each text, every label from 0 on present; `None` for one text a label.
            return_losses: compute E4 and E5.
            prefix: of the arguments' names in errors.

        Returns:
            (C, H), the mean of the directions of each label's texts, of length 1; and (3,), the sums of E4 and E5
            over the texts and their number, or `None`.
        """
        if index is not None:
            check_index(index, states.shape[0], f"{prefix}index")
            if self.training and self.config.sample_candidate_texts:
                states, index = states[one_of_each(index)], None
        # A score must not depend on the place of its label: see `lexsort_rows`.
        order = None if torch.compiler.is_exporting() else lexsort_rows(states[:, :4].detach())
        if order is not None:
            states, index = states[order], None if index is None else index[order]
        mixture = self.experts(states[None], return_losses=return_losses)
        embeds = label_mean(mixture.hidden_states[0], index)
        if order is not None and index is None:
            embeds = embeds[order.argsort()]
        sums = loss_sums(mixture, states.new_ones(1, len(states))) if return_losses else None
        return embeds, sums

    def get_candidate_embeds(
        self,
        candidate_input_ids: torch.Tensor,
        candidate_attention_mask: torch.Tensor | None = None,
        candidate_index: torch.Tensor | None = None,
        prefix: str = "candidate_",
    ) -> torch.Tensor:
        """E8: l_c, the mean over the real tokens of the text encoder's states for the words of each label.

        Args:
            candidate_input_ids: (C, Lc), or (P, Lc) where labels have several texts.
            candidate_attention_mask: (C, Lc) or (P, Lc).
            candidate_index: (P,), to which label from 0 to C - 1 each text belongs.
            prefix: of the arguments' names in errors.

        Returns:
            (C, H), the mean over a label's texts; with `score="similarity"` of their directions, of length 1, and with
            residual experts of what these make of the texts.
        """
        if self.residual:
            states = self.get_candidate_states(candidate_input_ids, candidate_attention_mask, prefix)
            return self.move_candidates(states, candidate_index, prefix=prefix)[0]
        given = {
            "input_ids": candidate_input_ids,
            "attention_mask": candidate_attention_mask,
            "index": candidate_index,
        }
        check_tensors(**{prefix + name: value for name, value in given.items()})
        if candidate_attention_mask is None:
            candidate_attention_mask = torch.ones_like(candidate_input_ids)
        self._check_tokens(candidate_input_ids, candidate_attention_mask, prefix)
        if candidate_index is not None:
            check_index(candidate_index, candidate_input_ids.shape[0], f"{prefix}index")
        if candidate_index is not None and self.training and self.config.sample_candidate_texts:
            drawn = one_of_each(candidate_index)
            candidate_input_ids, candidate_attention_mask = candidate_input_ids[drawn], candidate_attention_mask[drawn]
            candidate_index = None
        if torch.compiler.is_exporting():
            # Ordering goes through the tokens one by one, and an exported graph takes labels of any length.
            return self._embed_texts(candidate_input_ids, candidate_attention_mask, candidate_index)
        order = lexsort_rows(candidate_input_ids.masked_fill(~candidate_attention_mask.bool(), -1))
        index = None if candidate_index is None else candidate_index[order]
        embeds = self._embed_texts(candidate_input_ids[order], candidate_attention_mask[order], index)
        return embeds[order.argsort()] if index is None else embeds

    def _embed_texts(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, index: torch.Tensor | None
    ) -> torch.Tensor:
        """`get_candidate_embeds` in the order of the rows."""
        with self._text_gradient():
            states = self.text_model(input_ids, attention_mask=attention_mask).last_hidden_state
        return label_mean(token_mean(states, attention_mask), index, directions=self.config.score == "similarity")

    @property
    def max_text_length(self) -> int | None:
        """Most tokens that the text encoder has position embeddings for; `None` where it has no such table."""
        table = getattr(getattr(self.text_model, "embeddings", None), "position_embeddings", None)
        if not isinstance(table, nn.Embedding):
            return None
        # RoBERTa counts positions from the padding id on.
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)

    def _check_tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, name: str) -> None:
        check_tokens(input_ids, attention_mask, name, self.max_text_length, self.config.text_config.vocab_size)

    def _mention_states(
        self, text_states: torch.Tensor, text_mask: torch.Tensor, mention_positions: torch.Tensor
    ) -> torch.Tensor:
        """q of E7, (B, (max_mentions + 1) H), zeros where a position is -1."""
        size, slots = text_states.shape, self.config.max_mentions
        check_mention_positions(mention_positions, text_mask, slots)
        index = mention_positions.clamp(min=0)[..., None].expand(-1, -1, size[2])
        markers = text_states.gather(1, index) * (mention_positions >= 0)[..., None]
        markers = nn.functional.pad(markers, (0, 0, 0, slots - markers.shape[1]))
        return torch.cat([text_states[:, :1], markers], dim=1).flatten(1)

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The vision encoder's tokens, before any trained part: what may be cached as `image_features`.

        Args:
            pixel_values: (B, 3, height, width).

        Returns:
            (B, Li, H').
        """
        return self._encode_images(pixel_values)[0]

    def _encode_images(self, pixel_values: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, ModelOutput]:
        check_pixels(pixel_values)
        # A frozen tower has nothing to train but adapters.
        trains = not self.config.freeze_vision or any(one.requires_grad for one in self.vision_model.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            output = self.vision_model(pixel_values=pixel_values.to(self.vision_model.dtype), **kwargs)
        states = output.last_hidden_state
        # A feature map (B, H', h, w) becomes tokens, row by row.
        return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states, output

    def _image_states(
        self,
        text_states: torch.Tensor,
        pixel_values: torch.Tensor | None,
        image_features: torch.Tensor | None,
        image_mask: torch.Tensor | None,
        image_index: torch.Tensor | None,
        extras: dict[str, Any],
    ) -> tuple[torch.Tensor | None, torch.Tensor, ModelOutput | None]:
        """Projected tokens of the rows of images or `None`, the mask of posts with an image, the tower's output."""
        batch_size, source = text_states.shape[0], pixel_values if pixel_values is not None else image_features
        if image_mask is None:
            image_mask = torch.full((batch_size,), source is not None, device=text_states.device)
        image_mask = image_mask.bool()
        if image_index is not None:
            check_image_index(image_index, batch_size, source)
        rows = batch_size if source is None or image_index is not None else source.shape[0]
        if image_mask.shape != (batch_size,) or rows != batch_size:
            raise ValueError(
                f"image_mask and the images must have one row for each of the {batch_size} posts, got image_mask "
                f"{tuple(image_mask.shape)}" + ("." if source is None else f" and images {tuple(source.shape)}.")
            )
        if source is None:
            if not torch.compiler.is_compiling() and bool(image_mask.any()):
                raise ValueError(
                    "image_mask marks posts with an image, but neither pixel_values nor image_features came."
                )
            return None, image_mask, None
        output = None
        # Of each row of the images, whether any post has it.
        present = image_mask if image_index is None else image_mask.new_zeros(source.shape[0])
        if image_index is not None:
            present[image_index[image_mask]] = True
        if pixel_values is not None:
            source, output = self._encode_present(pixel_values, present, extras)
        elif source.ndim != 3 or source.shape[-1] != self.config.vision_width:
            raise ValueError(f"image_features must be (B, Li, {self.config.vision_width}), got {tuple(source.shape)}.")
        # Rows without an image may hold anything, also NaN, which a weight of 0 would let through.
        states = source.to(self.dtype)
        if not _surely_all_true(present):
            states = torch.where(present[:, None, None], states, 0)
        return self.vision_projection(states), image_mask, output

    def _image_text_states(
        self, text_states: torch.Tensor, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> Tokens | None:
        """The text encoder's states (B, Lw, H) of the image texts and their mask; `None` if no post has one.

        The encoder runs for the posts with an image text only: a row whose tokens are all masked would give NaN. At
        inference it runs once for posts with the same image text, as those of one post with several mentions.
        """
        if input_ids is None:
            if attention_mask is not None:
                raise ValueError("image_text_attention_mask came, but not image_text_input_ids, which it masks.")
            return None
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        limit, vocabulary = self.max_text_length, self.config.text_config.vocab_size
        check_tokens(input_ids, attention_mask, "image_text_", limit, vocabulary, may_be_empty=True)
        if input_ids.shape[0] != text_states.shape[0]:
            raise ValueError(
                f"image_text_input_ids must have one row for each of the {text_states.shape[0]} posts, "
                f"got {tuple(input_ids.shape)}."
            )
        mask = attention_mask.bool()
        present = mask.any(1)
        if torch.compiler.is_compiling():
            # One token of an empty row is read, and masked in what follows.
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            read = attention_mask.masked_fill(~present[:, None] & first, 1)
            states = self.text_model(input_ids, attention_mask=read).last_hidden_state
            return torch.where(present[:, None, None], states, 0), mask
        rows = present.nonzero().flatten()
        if not len(rows):
            return None
        ids, masks = input_ids[rows], attention_mask[rows].to(input_ids.dtype)
        place = None
        if not self.training:
            both, place = torch.cat([ids, masks], dim=1).unique(dim=0, return_inverse=True)
            ids, masks = both.split(ids.shape[1], dim=1)
        states = self.text_model(ids, attention_mask=masks).last_hidden_state
        states = states if place is None else states[place]
        if len(rows) < len(input_ids):
            states = states.new_zeros(len(input_ids), *states.shape[1:]).index_copy(0, rows, states)
        return states, mask

    def _encode_present(
        self, pixel_values: torch.Tensor, image_mask: torch.Tensor, extras: dict[str, Any]
    ) -> tuple[torch.Tensor, ModelOutput]:
        """The vision encoder's tokens (rows, Li, H'); zeros for rows that `image_mask` (rows,) says are no image."""
        check_pixels(pixel_values)
        if _surely_all_true(image_mask):
            return self._encode_images(pixel_values, **extras)
        number = image_mask.shape[0] if torch.compiler.is_compiling() or extras else int(image_mask.sum())
        if 0 < number < image_mask.shape[0]:
            present = image_mask.nonzero().flatten()
            states, output = self._encode_images(pixel_values[present])
            return states.new_zeros(image_mask.shape[0], *states.shape[1:]).index_copy(0, present, states), output
        # NaN in a row without an image would spoil the gradient of the encoder, even with a weight of 0 further up.
        row_mask = image_mask.view(-1, *[1] * (pixel_values.ndim - 1))
        return self._encode_images(torch.where(row_mask, pixel_values, 0), **extras)

    def _zero_of_the_vision_side(self) -> torch.Tensor | float:
        """0, with a gradient of 0 for every trained parameter that a batch without any image does not use.

        DDP waits in vain for parameters without a gradient, and of several processes one may have no image. Its own
        remedy, `find_unused_parameters`, searches the graph in every step. And thus a batch without images means the
        same to the optimizer whether its images are left out or masked, in one process or in several.
        """
        vision = [*self.vision_model.parameters(), *self.vision_projection.parameters()]
        vision += [] if self.image_gate is None else [self.image_gate]
        # One number of each is enough, and cannot overflow.
        return sum((parameter.flatten()[0] * 0.0 for parameter in vision if parameter.requires_grad), start=0.0)


class MGVMoEForZeroShotIE(MGVMoEPreTrainedModel):
    """MG-VMoE with a score for every candidate label, and its objectives: what `AutoModel` loads from the Hub."""

    _auto_class = "AutoModel"  # a saved model names its class, so that `AutoModel` finds it without this package
    # `Trainer` would go by the `**kwargs` of forward and believe that the loss is a mean over accumulated batches.
    accepts_loss_kwargs = False

    def __init__(self, config: MGVMoEConfig, **backbones: PreTrainedModel | None):
        super().__init__(config)
        self.mgvmoe = MGVMoEModel(config, **backbones)
        mention_size = (config.max_mentions + 2) * config.hidden_size
        self.dropout = nn.Dropout(config.projection_dropout)
        self.similarity: SimilarityScore | None = None
        if config.score == "similarity":
            # Posts are compared with labels in the text encoder's own space.
            gated = config.expert_type != "residual"
            if gated:
                self.mention_projection = nn.Linear(mention_size, config.hidden_size)
            self.similarity = SimilarityScore(
                config.similarity_scale, config.mention_weight, config.type_score_coef, config.image_text_weight, gated
            )
        else:
            self.mention_projection = nn.Linear(mention_size, config.projection_dim)
            self.candidate_projection = nn.Linear(config.hidden_size, config.projection_dim)
        self.perturbation = (
            nn.Parameter(torch.zeros(1, 2 * config.hidden_size)) if config.adversary == "learned" else None
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MGVMoEForZeroShotIE) and module.perturbation is not None:
            # At 0 neither the KL nor the norm has a direction, so the adversary would never move.
            init.normal_(module.perturbation, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Module:
        return self.mgvmoe.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.mgvmoe.set_input_embeddings(value)

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See [`MGVMoEModel.get_image_features`]."""
        return self.mgvmoe.get_image_features(pixel_values)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        mention_positions: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        candidate_input_ids: torch.Tensor | None = None,
        candidate_attention_mask: torch.Tensor | None = None,
        candidate_embeds: torch.Tensor | None = None,
        candidate_index: torch.Tensor | None = None,
        candidate_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        mention_mask: torch.Tensor | None = None,
        candidate_types: torch.Tensor | None = None,
        type_input_ids: torch.Tensor | None = None,
        type_attention_mask: torch.Tensor | None = None,
        type_index: torch.Tensor | None = None,
        type_embeds: torch.Tensor | None = None,
        text_noise: torch.Tensor | None = None,
        image_noise: torch.Tensor | None = None,
        num_samples: int | None = None,
        sample_noise: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        image_text_input_ids: torch.Tensor | None = None,
        image_text_attention_mask: torch.Tensor | None = None,
        post_states: torch.Tensor | None = None,
        candidate_states: torch.Tensor | None = None,
        type_states: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MGVMoEOutput:
        """Score every candidate label for every post, and compute E12 if `labels` are given.

        Args:
            input_ids, attention_mask, mention_positions, pixel_values, image_features, image_mask, image_index,
            image_text_input_ids, image_text_attention_mask, text_noise, image_noise, output_attentions,
            output_hidden_states: see [`MGVMoEModel.forward`].
            candidate_input_ids: (C, Lc), the words of the labels, each label once; or give `candidate_embeds`.
            candidate_embeds: (C, H) or (B, C, H), the output of [`get_candidate_embeds`].
            candidate_attention_mask: (C, Lc). What describes labels and types may also come once for each post,
                (B, ...), all rows the same: `Trainer` and Accelerate take a batch apart along the first axis.
            candidate_index: (P,), to which label each text belongs; see [`MGVMoEModel.get_candidate_embeds`].
            candidate_mask: (B, C), true for the candidates that a post has.
            labels: (B,), index of the right candidate; -100 for a post that has none of them, not under
                `torch.compile`.
            mention_mask: (B, S, Lt), true for the tokens of each mention. With `score="similarity"` it is needed.
            candidate_types: (C, 2, T), true for the types that a label allows for head and tail. Only with
                `score="similarity"`, and together with `type_input_ids` or `type_embeds`.
            type_input_ids: (T, Lc), the words of the types, with type_attention_mask and type_index.
            type_embeds: (T, H), the output of [`get_candidate_embeds`] for them.
            num_samples: N draws of the fused vector at inference, beside the mean that gives `logits`; see
                `objectives.py` for what is drawn and what comes out.
            sample_noise: (N, B, H), standard normal, takes the place of their noise.
            post_states: (B, max_mentions + 2, H), of [`MGVMoEModel.get_post_states`], instead of `input_ids` and all
                that belongs to them; residual experts only.
            candidate_states, type_states: (P, H), of [`MGVMoEModel.get_candidate_states`], instead of
                `candidate_input_ids` and `type_input_ids`; residual experts only.

        Raises:
            ValueError: an argument is missing or a shape does not fit.
        """
        refuse_unknown(kwargs)
        words = {
            "candidate_input_ids": candidate_input_ids,
            "candidate_attention_mask": candidate_attention_mask,
            "candidate_index": candidate_index,
            "candidate_states": candidate_states,
            "candidate_embeds": candidate_embeds,
            "candidate_types": candidate_types,
            "type_input_ids": type_input_ids,
            "type_attention_mask": type_attention_mask,
            "type_index": type_index,
            "type_states": type_states,
            "type_embeds": type_embeds,
        }
        check_tensors(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mention_mask=mention_mask,
            post_states=post_states,
            candidate_mask=candidate_mask,
            labels=labels,
            **words,
        )
        self._check_labels(words)
        self._check_posts(mention_mask is not None or post_states is not None, num_samples, sample_noise)
        if attention_mask is None and input_ids is not None:
            attention_mask = torch.ones_like(input_ids)
        posts_given = input_ids if post_states is None else post_states
        number = 0 if posts_given is None else posts_given.shape[0]
        words |= {name: one_for_all(words[name], name, axes, number) for name, axes in SHARED_AXES.items()}
        candidate_embeds, type_embeds, label_sums = self._embed_labels(words, labels is not None)
        candidate_types = words["candidate_types"]
        # Before the encoders, so that the exchange of the numbers of rows runs beside them.
        announced = self.start_row_exchange(labels)
        output = self.mgvmoe(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mention_positions=mention_positions,
            pixel_values=pixel_values,
            image_features=image_features,
            image_mask=image_mask,
            image_index=image_index,
            text_noise=text_noise,
            image_noise=image_noise,
            return_losses=labels is not None,
            return_variance=num_samples is not None or sample_noise is not None,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            image_text_input_ids=image_text_input_ids,
            image_text_attention_mask=image_text_attention_mask,
            mention_mask=mention_mask if self.mgvmoe.residual else None,
            post_states=post_states,
            return_dict=True,
        )
        if label_sums is not None:
            # The labels, which pass the same experts, are a third modality of E4 and E5.
            assert output.expert_loss_sums is not None, "it was asked for"
            output.expert_loss_sums = torch.cat([output.expert_loss_sums, label_sums[None]])
            output.kl_loss, output.router_entropy_loss = losses_of_sums(output.expert_loss_sums)
        posts = self.posts_of(output, attention_mask, mention_positions, mention_mask, num_samples, sample_noise)
        logits, fit = self._logits(
            posts.mention_embeds, posts, candidate_embeds, candidate_mask, candidate_types, type_embeds
        )
        statistics = {}
        if posts.sample_embeds is not None:
            samples = self.score_samples(posts, candidate_embeds, candidate_mask, candidate_types, type_embeds)
            statistics = {"sample_logits": samples, **predictive_statistics(samples)}
        terms: dict[str, torch.Tensor] = {}
        if labels is not None:
            type_log_probs = self._mention_fit(posts, candidate_embeds, candidate_mask, fit)
            # Inner products of whole vectors overflow in float16; the KL of E11 is a difference that bfloat16 loses.
            with torch.autocast(logits.device.type, enabled=False):
                terms = self.objectives(output, logits, labels, candidate_mask, type_log_probs, announced)
        return MGVMoEOutput(
            loss=self.total_loss(terms) if terms else None,
            logits=logits,
            **terms,
            **statistics,
            mention_embeds=posts.mention_embeds,
            candidate_embeds=candidate_embeds,
            text_embeds=output.text_embeds,
            image_embeds=output.image_embeds,
            fusion_attentions=output.fusion_attentions,
            text_router_probs=output.text_router_probs,
            image_router_probs=output.image_router_probs,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            vision_hidden_states=output.vision_hidden_states,
            vision_attentions=output.vision_attentions,
        )

    def get_candidate_embeds(
        self,
        candidate_input_ids: torch.Tensor,
        candidate_attention_mask: torch.Tensor | None = None,
        candidate_index: torch.Tensor | None = None,
        prefix: str = "candidate_",
    ) -> torch.Tensor:
        """See [`MGVMoEModel.get_candidate_embeds`]."""
        return self.mgvmoe.get_candidate_embeds(candidate_input_ids, candidate_attention_mask, candidate_index, prefix)

    def _embed_labels(
        self, words: Mapping[str, torch.Tensor | None], return_losses: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Labels (C, H), types (T, H) if there are any, and the sums (3,) of E4 and E5 behind residual experts."""
        embeds: dict[str, torch.Tensor | None] = {name: words[f"{name}_embeds"] for name in ("candidate", "type")}
        label_sums = []
        for name in ("candidate", "type"):
            if embeds[name] is None and (name == "candidate" or words["candidate_types"] is not None):
                embeds[name], sums = self._embed_words(words, name, return_losses)
                label_sums += [] if sums is None else [sums]
        candidates, types = cast(torch.Tensor, embeds["candidate"]), embeds["type"]
        if words["candidate_types"] is not None and types is not None:
            check_types(words["candidate_types"], candidates.shape[-2], types.shape[0])
        return candidates, types, torch.stack(label_sums).sum(0) if label_sums else None

    def _embed_words(
        self, words: Mapping[str, torch.Tensor | None], name: str, return_losses: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Labels or types (C, H) from tokens or pooled states, and the sums of [`MGVMoEModel.move_candidates`]."""
        input_ids, attention_mask, index, states = (
            words.get(f"{name}_{part}") for part in ("input_ids", "attention_mask", "index", "states")
        )
        if self.mgvmoe.residual:
            if states is None:
                states = self.mgvmoe.get_candidate_states(cast(torch.Tensor, input_ids), attention_mask, f"{name}_")
            return self.mgvmoe.move_candidates(states, index, return_losses, f"{name}_")
        # By this model's own method, which a wrapper that shards the weights knows.
        return self.get_candidate_embeds(cast(torch.Tensor, input_ids), attention_mask, index, f"{name}_"), None

    def encode_candidates(self, encoded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Labels, and types if there are any, as what `forward` and `score` take instead of their words.

        Args:
            encoded: output of `processor.encode_candidates`.
        """
        taken = {"candidate_embeds": self._embed_words(encoded, "candidate", False)[0]}
        if "candidate_types" in encoded:
            taken["type_embeds"] = self._embed_words(encoded, "type", False)[0]
            taken["candidate_types"] = encoded["candidate_types"]
        if "candidate_mask" in encoded:
            taken["candidate_mask"] = encoded["candidate_mask"]
        return taken

    def extract(
        self,
        posts: Iterable[Mapping[str, Any]],
        typing_labels: Sequence[str | Label] | None = None,
        relation_labels: Sequence[str | Label] | None = None,
        processor: Any = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Type every mention of whole posts and relate every ordered pair; see `extraction.extract`."""
        return extract(self, posts, typing_labels, relation_labels, processor, **options)

    def encode_posts(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        mention_positions: torch.Tensor | None = None,
        mention_mask: torch.Tensor | None = None,
        num_samples: int | None = None,
        sample_noise: torch.Tensor | None = None,
        **image_arguments: Any,
    ) -> PostEmbeds:
        """The posts' side of the scores, for labels that may change without a second pass of the encoders.

        ```python
        posts = model.encode_posts(**processor(text=..., mentions=..., images=..., return_tensors="pt"))
        labels = processor.encode_candidates(["boat", "bird"], return_tensors="pt")
        logits = model.score(posts, **model.encode_candidates(labels))
        ```

        Args:
            input_ids, attention_mask, mention_positions, mention_mask: see `forward`.
            num_samples, sample_noise: see `forward`.
            image_arguments: `pixel_values`, `image_features`, `image_mask`, `image_index`, `image_text_input_ids`,
                `image_text_attention_mask`: see [`MGVMoEModel.forward`].
        """
        refuse_unknown({name: value for name, value in image_arguments.items() if name not in IMAGE_ARGUMENTS})
        check_tensors(input_ids=input_ids, attention_mask=attention_mask, mention_mask=mention_mask)
        self._check_posts(mention_mask is not None, num_samples, sample_noise)
        if attention_mask is None and input_ids is not None:
            attention_mask = torch.ones_like(input_ids)
        output = self.mgvmoe(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mention_positions=mention_positions,
            return_variance=num_samples is not None or sample_noise is not None,
            mention_mask=mention_mask if self.mgvmoe.residual else None,
            return_dict=True,
            **image_arguments,
        )
        return self.posts_of(output, attention_mask, mention_positions, mention_mask, num_samples, sample_noise)

    def _check_labels(self, words: Mapping[str, torch.Tensor | None]) -> None:
        """Raise ValueError unless there is one source of labels, and one of types where labels have types."""
        sources = ("input_ids", "embeds", "states")
        given = sum(words[f"candidate_{source}"] is not None for source in sources)
        if given != 1:
            raise ValueError(
                "Exactly one of candidate_input_ids, candidate_embeds and candidate_states must be given, "
                f"got {('neither', 'one', 'both', 'all')[given]}."
            )
        if (words["candidate_types"] is None) != all(words[f"type_{source}"] is None for source in sources):
            raise ValueError("candidate_types and type_input_ids, type_embeds or type_states must be given together.")
        if not self.mgvmoe.residual and not (words["candidate_states"] is None and words["type_states"] is None):
            raise ValueError('candidate_states and type_states need a model with expert_type="residual".')
        if self.similarity is None and words["candidate_types"] is not None:
            raise ValueError('candidate_types need a model with score="similarity", got one with "projection".')

    def _check_posts(self, has_mentions: bool, num_samples: int | None, sample_noise: torch.Tensor | None) -> None:
        """Raise ValueError where posts lack their mentions, or draws are asked for that cannot be made."""
        if self.similarity is not None and not has_mentions:
            raise ValueError(
                'mention_mask must be given with score="similarity"; a processor with mention_style="prefix" makes it.'
            )
        if num_samples is None and sample_noise is None:
            return
        number: Any = num_samples
        if number is not None and (isinstance(number, bool) or not isinstance(number, Integral) or number < 1):
            raise ValueError(f"num_samples must be an integer of at least 1, got {num_samples!r}.")
        if num_samples is not None and sample_noise is not None and len(sample_noise) != num_samples:
            raise ValueError(f"sample_noise must have num_samples = {num_samples} draws, got {len(sample_noise)}.")
        if self.training:
            raise ValueError("num_samples asks for draws at inference; call model.eval() first.")

    def posts_of(
        self,
        output: MGVMoEModelOutput,
        attention_mask: torch.Tensor | None,
        mention_positions: torch.Tensor | None,
        mention_mask: torch.Tensor | None,
        num_samples: int | None = None,
        sample_noise: torch.Tensor | None = None,
    ) -> PostEmbeds:
        """The posts' side of E8 from the output of [`MGVMoEModel`], with draws if it has a variance."""
        fused, query = output.fused_embeds, output.mention_states
        if output.mention_directions is not None:
            deviation = None if output.fused_variance is None else output.fused_variance.sqrt()
            drawn = None if deviation is None else fused + deviation * _noise(deviation, num_samples, sample_noise)
            return PostEmbeds(
                mention_embeds=F.normalize(fused, dim=-1),
                mention_directions=output.mention_directions,
                sample_embeds=None if drawn is None else F.normalize(drawn, dim=-1),
            )
        assert attention_mask is not None and mention_positions is not None  # for the type checker: it was checked
        mention_embeds = stable_linear(self.mention_projection, self.dropout(torch.cat([fused, query], dim=-1)))
        samples = None
        if output.fused_variance is not None:
            deviation = output.fused_variance.sqrt()
            drawn = (fused + deviation * _noise(deviation, num_samples, sample_noise)).to(fused.dtype)
            samples = self.mention_projection(torch.cat([drawn, query.expand(len(drawn), *query.shape)], dim=-1))
        if self.similarity is None:
            return PostEmbeds(mention_embeds=mention_embeds, sample_embeds=samples)
        assert mention_mask is not None, "it was asked for"
        check_mention_mask(mention_mask, mention_positions, attention_mask)
        with torch.autocast(mention_embeds.device.type, enabled=False):
            post_embeds, mentions = self.similarity.embed_posts(
                output.text_states, attention_mask.bool(), mention_mask, output.image_text_embeds
            )
            return PostEmbeds(
                mention_embeds=self.similarity.with_residual(post_embeds, mention_embeds),
                mention_directions=mentions,
                sample_embeds=None if samples is None else self.similarity.with_residual(post_embeds, samples),
            )

    def score(
        self,
        mention_embeds: torch.Tensor | PostEmbeds,
        candidate_embeds: torch.Tensor,
        candidate_mask: torch.Tensor | None = None,
        candidate_types: torch.Tensor | None = None,
        type_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """E8: inner products of posts and projected labels; with `score="similarity"` of posts and labels, scaled.

        Args:
            mention_embeds: (..., B, D), or the posts as [`encode_posts`] gave them, which types need.
            candidate_embeds: (C, H), shared by the posts, or (B, C, H).
            candidate_mask: (B, C), true for the candidates that a post has; the others score -inf.
            candidate_types, type_embeds: see `forward`.

        Returns:
            (..., B, C).
        """
        posts = mention_embeds if isinstance(mention_embeds, PostEmbeds) else PostEmbeds(mention_embeds=mention_embeds)
        if (candidate_types is None) != (type_embeds is None):
            raise ValueError("candidate_types and type_embeds must be given together.")
        if candidate_types is not None and posts.mention_directions is None:
            raise ValueError(
                'candidate_types need a model with score="similarity", and posts as its encode_posts gives them.'
            )
        embeds = posts.mention_embeds
        return self._logits(embeds, posts, candidate_embeds, candidate_mask, candidate_types, type_embeds)[0]

    def score_samples(
        self,
        posts: PostEmbeds,
        candidate_embeds: torch.Tensor,
        candidate_mask: torch.Tensor | None = None,
        candidate_types: torch.Tensor | None = None,
        type_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[`score`] for each draw, (N, B, C); `posts` must have been encoded with `num_samples`."""
        if posts.sample_embeds is None:
            raise ValueError("posts: they have no draws; encode them with num_samples.")
        embeds = posts.sample_embeds
        return self._logits(embeds, posts, candidate_embeds, candidate_mask, candidate_types, type_embeds)[0]

    def _logits(
        self,
        embeds: torch.Tensor,
        posts: PostEmbeds,
        candidate_embeds: torch.Tensor,
        candidate_mask: torch.Tensor | None,
        candidate_types: torch.Tensor | None,
        type_embeds: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """E8 of `embeds` (..., B, D), the posts' own or draws of them, and the fit (B, C) of the types in it."""
        logits = self._products(embeds, candidate_embeds, candidate_mask)
        fit = self._type_compatibility(posts, candidate_types, type_embeds)
        return logits if fit is None else logits + self.config.type_score_coef * fit, fit

    def _type_compatibility(
        self, posts: PostEmbeds, candidate_types: torch.Tensor | None, type_embeds: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Log probability that the mentions have the types of each label, (B, C); `None` without types."""
        if candidate_types is None or type_embeds is None or posts.mention_directions is None:
            return None
        assert self.similarity is not None  # for the type checker: only its posts have directions of mentions
        check_types(candidate_types, candidate_types.shape[0], type_embeds.shape[0])
        mentions = posts.mention_directions
        with torch.autocast(mentions.device.type, enabled=False):
            return self.similarity.type_compatibility(
                self.similarity.type_log_probs(mentions, type_embeds), candidate_types, mentions != 0
            )

    def _mention_fit(
        self,
        posts: PostEmbeds,
        candidate_embeds: torch.Tensor,
        candidate_mask: torch.Tensor | None,
        fit: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Log probabilities (B, C) for the type loss: of both types for pairs, else of the label by the mention alone.

        A mention by itself should tell its label: whoever types it in a pair has no more. Only for the loss; the score
        of a post with one mention has the mention in it already.
        """
        if not self.mgvmoe.residual:
            return fit
        mentions = cast(torch.Tensor, posts.mention_directions)
        single = mentions.any(-1).sum(-1) == 1
        logits = self._products(mentions[:, 0], candidate_embeds, candidate_mask)
        own = at_least_float32(logits).log_softmax(-1)
        return torch.where(single[:, None], own, 0.0 if fit is None else fit.to(own.dtype))

    def _products(
        self, mention_embeds: torch.Tensor, candidate_embeds: torch.Tensor, candidate_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """(..., B, C), of posts (..., B, D) and labels."""
        batch_size, hidden_size = mention_embeds.shape[-2], self.config.hidden_size
        shape = tuple(candidate_embeds.shape)
        if shape[-1] != hidden_size or len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != batch_size):
            raise ValueError(
                f"candidate_embeds must be (C, {hidden_size}) or ({batch_size}, C, {hidden_size}), got {shape}."
            )
        device_type = mention_embeds.device.type
        # The differences of similarities that decide are below what half precision tells apart.
        in_half = self.similarity is None and torch.is_autocast_enabled(device_type)
        with torch.autocast(device_type, enabled=in_half):
            if torch.compiler.is_exporting():
                # Ordering goes through the numbers one by one, and an exported graph takes any number of labels.
                logits = self._inner_products(mention_embeds, candidate_embeds)
            else:
                # Embeddings that agree in their first four numbers without being equal do not happen.
                order = lexsort_rows(candidate_embeds[..., :4].detach())
                candidate_embeds = candidate_embeds.gather(-2, order[..., None].expand(shape))
                logits = self._inner_products(mention_embeds, candidate_embeds)
                logits = logits.gather(-1, order.argsort(-1).expand(logits.shape))
        if candidate_mask is None:
            return logits
        if candidate_mask.shape != logits.shape[-2:]:
            raise ValueError(
                f"candidate_mask must be (B, C) = {tuple(logits.shape[-2:])}, got {tuple(candidate_mask.shape)}."
            )
        return logits.masked_fill(~candidate_mask.bool(), float("-inf"))

    def _inner_products(self, mention_embeds: torch.Tensor, candidate_embeds: torch.Tensor) -> torch.Tensor:
        """[`_products`] in the order of the rows."""
        candidate_embeds = candidate_embeds.to(mention_embeds.dtype)
        if self.similarity is None:
            projected = stable_linear(self.candidate_projection, self.dropout(candidate_embeds))
        else:
            projected = self.similarity.scale * candidate_embeds
        if projected.ndim == 2:
            return mention_embeds @ projected.T
        return torch.einsum("...bd,bcd->...bc", mention_embeds, projected)

    def objectives(
        self,
        output: MGVMoEModelOutput,
        logits: torch.Tensor,
        labels: torch.Tensor,
        candidate_mask: torch.Tensor | None = None,
        type_compatibility: torch.Tensor | None = None,
        announced: Announcement | None = None,
    ) -> dict[str, torch.Tensor]:
        """Every term of E12 by name and unweighted.

        In training under several processes (`torch.distributed`) the terms are those of the posts of all processes, on
        every process, so that all of them must call this together. The mean over the processes of their gradients is
        the gradient of one process with all posts. Without gradient, or in evaluation mode, each process is by itself:
        processes may well evaluate different numbers of batches.

        Args:
            output: output of [`MGVMoEModel`], with losses.
            logits: (B, C).
            labels: (B,); `NO_LABEL` for posts without a class.
            candidate_mask: (B, C).
            type_compatibility: (B, C), of [`SimilarityScore`], if labels have types.
            announced: to the other processes, by [`start_row_exchange`], if that was done ahead of time.
        """
        has_image, kl_loss, router_entropy_loss = output.image_mask, output.kl_loss, output.router_entropy_loss
        assert kl_loss is not None and router_entropy_loss is not None, "the output lacks its losses"
        known = labels != NO_LABEL
        ranking, types = self._label_losses(logits, labels, known, candidate_mask, type_compatibility)
        text_embeds, image_embeds = output.text_embeds, output.image_embeds
        # A post without an image is a node of the graph whose image half is 0.
        image_embeds = torch.zeros_like(text_embeds) if image_embeds is None else image_embeds
        announced = announced or self.start_row_exchange(labels)
        if announced is not None:
            assert output.expert_loss_sums is not None, "the output lacks its losses"
            own_sums = output.expert_loss_sums.flatten()
            rows, number = len(own_sums), known.sum().to(own_sums)
            own_sums = torch.cat([own_sums, torch.stack([ranking * number, types * number, number])])
            flags = has_image.to(own_sums)
            text_embeds, image_embeds, flags, sums = gather_rows(
                announced, text_embeds, image_embeds, flags, own_sums[None]
            )
            has_image, sums = flags.bool(), sums.sum(0)
            ranking, types = (sums[rows : rows + 2] / sums[rows + 2].clamp(min=1)).unbind()
            kl_loss, router_entropy_loss = losses_of_sums(sums[:rows].view(-1, 3))
        nodes = torch.cat([image_embeds, text_embeds], dim=-1)
        return {
            "ranking_loss": ranking,
            "kl_loss": kl_loss,
            "router_entropy_loss": router_entropy_loss,
            "alignment_loss": info_nce(
                text_embeds[has_image], image_embeds[has_image], self.config.alignment_temperature
            ),
            "consistency_loss": self._consistency(nodes, announced),
            "type_loss": types,
        }

    def _label_losses(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        known: torch.Tensor,
        candidate_mask: torch.Tensor | None,
        type_compatibility: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """E9 and the loss of the types, means over the posts that have a label."""
        if not torch.compiler.is_compiling() and not bool(known.all()):
            rows = known.nonzero().flatten()
            if not len(rows):
                # With a gradient, for data parallel wrappers wait for one.
                zero = logits.sum() * 0.0
                return zero, zero
            mask = None if candidate_mask is None else candidate_mask[rows]
            fit = None if type_compatibility is None else type_compatibility[rows]
            return self._label_losses(logits[rows], labels[rows], known[rows], mask, fit)
        if self.config.objective == "ranking":
            ranking = ranking_loss(logits, labels, self.config.margin, candidate_mask)
        else:
            ranking = label_cross_entropy(logits, labels, candidate_mask)
        # The mentions should have the types of the right label: the mean over the posts of -log P(allowed types).
        types = (
            ranking.new_zeros(())
            if type_compatibility is None
            else -type_compatibility.gather(1, labels[:, None]).mean()
        )
        return ranking, types

    def start_row_exchange(self, labels: torch.Tensor | None) -> Announcement | None:
        """Tell the other processes of a batch that [`objectives`] will gather; None where it will not.

        Args:
            labels: (B,), of the batch.
        """
        if labels is None or not self.training or not torch.is_grad_enabled() or number_of_processes() == 1:
            return None
        # What `objectives` gathers: text and image embeddings and flags, a row a post, and one row of sums.
        return Announcement([len(labels)] * 3 + [1], labels.device)

    def total_loss(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        """E12: the sum of the terms, each times its coefficient `<term>_coef` of the configuration."""
        return sum(getattr(self.config, f"{name}_coef") * value for name, value in terms.items())

    def _consistency(self, nodes: torch.Tensor, announced: Announcement | None) -> torch.Tensor:
        """E10 and E11 over `nodes`, which are those of all processes if something was announced to these."""
        temperature = self.config.graph_temperature
        if self.perturbation is not None:
            return learned_adversary_loss(nodes, self.perturbation, temperature)
        if self.config.adversary == "none":
            return nodes.new_zeros(())
        # The direction from which the power iteration starts must be the same on every process. At evaluation, which
        # is repeatable, it is always the same.
        if announced is not None:
            generator = announced.generator()
        elif self.training:
            generator = random_generator(nodes.device)
        else:
            generator = torch.Generator(nodes.device).manual_seed(0)
        radius = self.config.adversary_radius
        if self.config.adversary == "random":
            perturbation = random_perturbation(nodes, radius, generator)
        else:
            perturbation = power_perturbation(nodes, radius, temperature, generator)
        return adversarial_consistency(nodes, perturbation, temperature)


__all__ = [
    "FUSIONS",
    "AdditiveFusion",
    "AdditiveFusionScore",
    "Fusion",
    "MGVMoEForZeroShotIE",
    "MGVMoEModel",
    "MGVMoEModelOutput",
    "MGVMoEOutput",
    "MGVMoEPreTrainedModel",
    "PostEmbeds",
    "QueryFusion",
    "SimilarityScore",
    "Tokens",
    "lexsort_rows",
    "check_image_index",
    "check_index",
    "check_mention_mask",
    "check_mention_positions",
    "check_pixels",
    "check_tensors",
    "check_tokens",
    "check_types",
    "experts_of_means",
    "fuse",
    "fuse_means",
    "fuse_modalities",
    "fused_variance",
    "label_mean",
    "masked_token_mean",
    "one_for_all",
    "one_of_each",
    "stable_linear",
    "refuse_unknown",
    "token_mean",
]
