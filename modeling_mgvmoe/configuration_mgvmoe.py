"""Configuration of MG-VMoE: two backbones and the values of every equation between them."""

import math
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

import transformers
from transformers.utils.versions import require_version

from .loading import check_backbone_sizes, reading, vision_width

NEEDED, HINT = "transformers>=5.16", "MG-VMoE needs it: pip install -U transformers"
try:
    from huggingface_hub.dataclasses import strict
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
except ImportError as error:
    # Loaded from the Hub there was no installer to see to it. The bound is that of setup.cfg.
    raise ImportError(f"{NEEDED} is needed, found {transformers.__version__}. {HINT}") from error
require_version(NEEDED, HINT)

# The pipeline is listed in every saved config, so that `pipeline(model=folder, trust_remote_code=True)` finds it.
CUSTOM_PIPELINES = {
    "zero-shot-multimodal-ie": {
        "impl": "pipeline_mgvmoe.ZeroShotMultimodalIEPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}
# Found where their task is named. Were they listed, transformers would not know which pipeline is meant by default.
MORE_PIPELINES = {
    "multimodal-graph-extraction": {
        "impl": "pipeline_mgvmoe.MultimodalGraphExtractionPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}


# What is more than anybody needs would only take all memory.
MOST = {"num_experts": 65_536, "expert_rank": 65_536, "projection_dim": 1_048_576, "max_mentions": 1024}
EXPERTS_IMPLEMENTATIONS = ("auto", "chunked", "eager")
# Options of version 0.1 that are gone, and the value at which they did nothing: folders saved by it still load.
DELETED: dict[str, Any] = {
    "graph_memory": 0,
    "graph_neighbours": None,
    "none_loss_coef": 0.0,
    "num_experts_per_tok": None,
    "spatial_merge_size": 1,
}


# Where version 0.1 had other defaults, which were the paper's. A saved file holds every field: one without a field was
# saved before the field was there, or is a preset, and is read with these.
DEFAULTS_0_1: dict[str, Any] = {
    "expert_type": "gaussian",
    "score": "projection",
    "mention_weight": 0.5,
    "type_score_coef": 1.0,
    "objective": "ranking",
    "adversary": "learned",
    "router_entropy_loss_coef": 1.0,
    "alignment_loss_coef": 1.0,
    "consistency_loss_coef": 1.0,
    "type_loss_coef": 1.0,
    "freeze_text": False,
}
# The paper's two settings, as its reference implementation has them, beside `DEFAULTS_0_1`.
PAPER: dict[str, dict[str, Any]] = {
    "met": {"projection_dim": 768, "max_mentions": 1},
    "mre": {"projection_dim": 256, "max_mentions": 2},
}
PAPER_BACKBONES: dict[str, dict[str, Any]] = {
    "text_config": {
        "model_type": "bert",
        "vocab_size": 28996,
        "hidden_act": "gelu_new",
        "attention_probs_dropout_prob": 0.0,
    },
    "vision_config": {"model_type": "vit", "image_size": 384, "patch_size": 16, "layer_norm_eps": 1e-6},
}


class _Pipelines(dict[str, Any]):
    """The listed pipelines, and on demand one of `MORE_PIPELINES`."""

    def __contains__(self, task: object) -> bool:
        return super().__contains__(task) or task in MORE_PIPELINES

    def __missing__(self, task: str) -> dict[str, Any]:
        # A copy: transformers writes into it.
        return dict(MORE_PIPELINES[task])


def _backbone_config(name: str, value: Any, default_type: str) -> PreTrainedConfig:
    """The configuration of an encoder from what was given for it: a configuration, its fields, or nothing."""
    if isinstance(value, PreTrainedConfig):
        return value
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name!r} must be a dict or a configuration of transformers, got {value!r:.80}.")
    fields = {} if value is None else dict(value)
    model_type = fields.get("model_type", default_type)
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ValueError(f"{name}: model_type must be one that transformers knows, got {model_type!r}.")
    return CONFIG_MAPPING[model_type](**fields)


def _check_others(dtype: Any, fields: Mapping[str, Any]) -> None:
    """Raise ValueError for what transformers reads of a file without a look."""
    dtype = fields.get("torch_dtype") if dtype is None else dtype
    if isinstance(dtype, str):
        import torch  # only here: a configuration alone must not cost its import

        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"dtype must be the name of a type of torch, got {dtype!r}.")
    listed = fields.get("custom_pipelines")
    if listed and not (isinstance(listed, Mapping) and all(isinstance(entry, Mapping) for entry in listed.values())):
        raise ValueError(f"custom_pipelines must hold an object for each task, got {listed!r:.80}.")
    quantization = fields.get("quantization_config")
    if isinstance(quantization, (str, int, float, list)):
        raise ValueError(f"quantization_config must be an object, got {quantization!r:.80}.")


def check_experts_implementation(value: Any, expert_type: str) -> None:
    """Raise ValueError for a form in which experts of this type do not run; `None` stands for "auto"."""
    known = ("auto", "eager") if expert_type == "residual" else EXPERTS_IMPLEMENTATIONS
    if value is not None and value not in known:
        raise ValueError(
            f"experts_implementation must be one of {known} with expert_type={expert_type!r}, got {value!r:.80}."
        )


def _drop_deleted(fields: dict[str, Any]) -> None:
    """Remove the options in `DELETED` from the fields; ValueError for one that a saved model really used."""
    for name, off in DELETED.items():
        value = fields.pop(name, off)
        # False is no 0 here, and 1.0 no 1: neither was a value that 0.1 took for these.
        if value != off or isinstance(value, bool) != isinstance(off, bool):
            raise ValueError(f"{name} must be {off!r}: this option of version 0.1 was deleted, got {value!r}.")


@strict
class MGVMoEConfig(PreTrainedConfig):
    r"""Configuration of [`MGVMoEModel`] and [`MGVMoEForZeroShotIE`].

    The defaults are the setting that works best by our measurements, that of the weights that ship: residual experts
    with the similarity score over a frozen sentence encoder, trained by cross-entropy. [`MGVMoEConfig.paper`] gives
    the paper's two settings. Files of more presets are in `configuration/models/`.

    Args:
        text_config (`dict` or `PreTrainedConfig`):
            Any text encoder that `AutoModel` knows. Default: BERT-base.
        vision_config (`dict` or `PreTrainedConfig`):
            Any vision encoder that `AutoModel` knows and whose `last_hidden_state` is (B, L, H') or (B, H', h, w).
            The configuration of a whole text-image model (CLIP, SigLIP) is unwrapped to its vision part.
            Default: ViT-B/16.
        vision_hidden_size (`int`, *optional*):
            Width H' of the vision encoder's states, only needed where `vision_config` does not tell it.
        num_experts (`int`, defaults to 8):
            K, the number of Gaussian experts shared by text and image (E1, E2). 0 leaves every token as it is, for
            comparison.
        deterministic_experts (`bool`, defaults to `False`):
            Experts without variances: no noise in training, no bottleneck. For comparison.
        expert_type (`"gaussian"` or `"residual"`, defaults to `"residual"`):
            E2. `"gaussian"` experts are the paper's: they replace every token, and the bottleneck pulls to N(0, I).
            `"residual"` experts have a low rank and move the text encoder's pooled states of post, mentions, image,
            labels and types; the bottleneck pulls to where the encoder left them (E2' in `variational_experts.py`).
            They need `score="similarity"`.
        experts_implementation (`"auto"`, `"chunked"` or `"eager"`, defaults to `"auto"`):
            Which form of the Gaussian experts runs; all give the same up to rounding. Also an argument of
            `from_pretrained` and of `set_experts_implementation`; like `attn_implementation` it is not saved, and a
            dict gives backbones with experts theirs. `"chunked"` computes expert by expert over chunks of tokens, with
            a backward pass of its own, and at evaluation multiplies no token by an expert. It does not call the
            experts' layers, and raises an error where something hooks into them or replaces them. `"eager"` calls
            them and writes all outputs out, K times the memory. `"auto"` is `"chunked"`, but `"eager"` under
            `torch.compile`, and where hooks, adapters (PEFT), offloading or quantised weights are in the experts, so
            that none is passed over. Residual experts have one form, `"eager"`.
        expert_rank (`int`, defaults to 16):
            r, the rank of a residual expert.
        expert_prior_std (`float`, defaults to 0.1):
            Standard deviation of the residual experts' prior, in units of states of length 1. 0: no noise and no
            bottleneck, for comparison.
        projection_dim (`int`, defaults to 768):
            D, the size of the space in which posts and candidate labels are compared (E8).
        max_mentions (`int`, defaults to 2):
            Greatest number S of marked mentions of a post: 1 for typing only, 2 for relations too. One checkpoint
            serves both: the slot of an absent mention holds zeros.
        fusion (`"additive"` or `"query"`, defaults to `"additive"`):
            E7. `"additive"` is the paper's, whose weights cannot depend on the mention; `"query"` is scaled
            dot-product attention with the mention as the query.
        score (`"projection"` or `"similarity"`, defaults to `"similarity"`):
            E8. `"projection"` is the paper's: two linear layers to `projection_dim`. `"similarity"` starts from the
            pretrained text encoder's own similarity of posts and labels, adds what the experts make of a post through
            a gate that opens from 0, and knows types of heads and tails (see `modeling_mgvmoe.py`);
            `projection_dim` then plays no part, and the processor needs `mention_style="prefix"`.
        similarity_scale (`float`, defaults to 20.0):
            What cosines are multiplied with to become logits.
        mention_weight (`float`, defaults to 0.7):
            Share of the mention itself, against the whole post, in the direction of a post with one mention.
        image_text_weight (`float`, defaults to 0.1):
            With `score="similarity"`, the weight of the direction of a post's image text (caption, alternative text)
            in the direction of the post. 0 keeps it to the experts and the fusion. A post without one is not changed.
        type_score_coef (`float`, defaults to 2.0):
            Weight in a score of the log probability that head and tail have types which the label allows.
        sample_candidate_texts (`bool`, defaults to `False`):
            Where labels have several texts: in training read one of each, drawn anew in every step, which is as many
            times cheaper; in evaluation always all.
        objective (`"ranking"` or `"cross_entropy"`, defaults to `"cross_entropy"`):
            E9, or cross-entropy over a post's candidates in its place.
        adversary (`"learned"`, `"power"`, `"random"` or `"none"`, defaults to `"none"`):
            Where E11's perturbation comes from: one learned vector trained by gradient reversal; one step of power
            iteration per batch; a random direction, for comparison; or no perturbation and no E11.
        adversary_radius (`float`, defaults to 1.0):
            L2 norm of the perturbation of `adversary="power"`, in units of the mean norm of the nodes.
        alignment_temperature (`float`, defaults to 1.0):
            Divides the inner products of E6. 1 is the paper's.
        graph_temperature (`float`, defaults to 1.0):
            Divides the node products of E10. 1 is the paper's, at which both softmaxes saturate at real sizes.
        margin (`float`, defaults to 1.0):
            Margin of the ranking loss, in units of the logits (E9).
        projection_dropout (`float`, defaults to 0.1):
            Dropout before each projection of E8.
        ranking_loss_coef, kl_loss_coef (`float`, default 1.0):
            Coefficients of E9 and E4 in the total loss E12.
        router_entropy_loss_coef, alignment_loss_coef, consistency_loss_coef (`float`, default 0.0):
            Coefficients of E5, E6 and E11 in the total loss E12.
        type_loss_coef (`float`, defaults to 0.5):
            Coefficient of the types' loss in the total loss E12.
        freeze_vision (`bool`, defaults to `True`):
            Keep the vision encoder's own weights as they are: evaluation mode, no gradient. Adapters that are added
            to it later (PEFT) train, dropout included. Set it to `False` to train the tower itself.
        freeze_text (`bool`, defaults to `True`):
            Keep the text encoder as it is: evaluation mode, no gradient. With residual experts its pooled states may
            then be cached (`get_post_states`, `get_candidate_states`), and an epoch takes seconds.
        text_base (`dict`, *optional*):
            The pretrained text encoder that a folder saved with `trained_only=True` leaves out: `{"name": Hub name or
            folder, "revision": commit or None}`. `from_pretrained` fetches it.
        score_calibration (`dict`, *optional*):
            For "typing" and "relation" a pair (a, b): sigmoid(a z + b), z the logit of the best label, is the
            probability that this label is right, also where no label of the list is; what
            `reject_by="calibrated"` compares with the threshold. [`inference.metrics.fit_calibration`] fits one.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights of everything after the backbones.

    Raises:
        A `huggingface_hub` strict-dataclass error that names the field, the rule and the value.
    """

    model_type = "mgvmoe"
    _auto_class = "AutoConfig"
    # What `Trainer` need not gather for metrics: everything but the logits.
    keys_to_ignore_at_inference = [
        "ranking_loss",
        "kl_loss",
        "router_entropy_loss",
        "alignment_loss",
        "consistency_loss",
        "type_loss",
        "sample_logits",
        "mean_probs",
        "std_probs",
        "mutual_information",
        "mention_embeds",
        "candidate_embeds",
        "text_embeds",
        "image_embeds",
        "fusion_attentions",
        "text_router_probs",
        "image_router_probs",
    ]
    # Made in `__post_init__`: what newer transformers have for it (`sub_configs_defaults`), older ones do not know.
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}

    # A dict, a configuration or None, checked in `__post_init__`, which makes a configuration of it.
    text_config: Any = None
    vision_config: Any = None
    vision_hidden_size: int | None = None
    num_experts: int = 8
    deterministic_experts: bool = False
    expert_type: Literal["gaussian", "residual"] = "residual"
    expert_rank: int = 16
    expert_prior_std: float | int = 0.1
    projection_dim: int = 768
    max_mentions: int = 2
    fusion: Literal["additive", "query"] = "additive"
    score: Literal["projection", "similarity"] = "similarity"
    similarity_scale: float | int = 20.0
    mention_weight: float | int = 0.7
    image_text_weight: float | int = 0.1
    type_score_coef: float | int = 2.0
    sample_candidate_texts: bool = False
    objective: Literal["ranking", "cross_entropy"] = "cross_entropy"
    adversary: Literal["learned", "power", "random", "none"] = "none"
    adversary_radius: float | int = 1.0
    alignment_temperature: float | int = 1.0
    graph_temperature: float | int = 1.0
    margin: float | int = 1.0
    projection_dropout: float | int = 0.1
    ranking_loss_coef: float | int = 1.0
    kl_loss_coef: float | int = 1.0
    router_entropy_loss_coef: float | int = 0.0
    alignment_loss_coef: float | int = 0.0
    consistency_loss_coef: float | int = 0.0
    type_loss_coef: float | int = 0.5
    freeze_vision: bool = True
    freeze_text: bool = True
    text_base: dict[str, Any] | None = None
    score_calibration: dict[str, Any] | None = None
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        _check_others(self.dtype, kwargs)
        _drop_deleted(kwargs)
        self.text_config = _backbone_config("text_config", self.text_config, "bert")
        self.vision_config = _backbone_config("vision_config", self.vision_config, "vit")
        # The base class sets the attention back end of the sub-configurations to None. A backbone that is already
        # there shares its configuration object, and without a back end it silently gets a wrong padding mask.
        backbones = {name: getattr(self, name) for name in ("text_config", "vision_config")}
        chosen = {
            name: config._attn_implementation
            for name, config in backbones.items()
            if isinstance(config, PreTrainedConfig) and config._attn_implementation is not None
        }
        if chosen:
            kwargs.setdefault("attn_implementation", chosen)
        super().__post_init__(**kwargs)
        if not hasattr(self.vision_config, "hidden_size") and hasattr(self.vision_config, "vision_config"):
            # A whole CLIP or SigLIP configuration is accepted silently by AutoConfig and fails much later.
            self.vision_config = self.vision_config.vision_config
        listed = getattr(self, "custom_pipelines", None) or CUSTOM_PIPELINES
        self.custom_pipelines = _Pipelines({task: dict(entry) for task, entry in listed.items()})

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """`PretrainedConfig.get_config_dict`, with an error that names a missing, damaged or foreign file.

        Raises:
            OSError: there is no such file, or it is damaged.
            ValueError: it is of another type of model.
        """
        source = pretrained_model_name_or_path
        with reading(source, "config"):
            content, others = super().get_config_dict(source, **kwargs)
        if not content:
            raise OSError(f"config: {os.fspath(source)!r} holds no config.json, or one without fields.")
        if (kind := content.get("model_type")) != cls.model_type:
            raise ValueError(f"config: {os.fspath(source)!r} must be of model_type {cls.model_type!r}, got {kind!r}.")
        return content, others

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """`PretrainedConfig.from_dict`; fields that version 0.1 did not write get its defaults (`DEFAULTS_0_1`).

        Raises:
            ValueError: the message names the field, the rule and the value.
        """
        try:
            return super().from_dict({**DEFAULTS_0_1, **config_dict}, **kwargs)
        except StrictDataclassError as error:  # no ValueError, as who loads a folder expects
            raise ValueError(f"config: {' '.join(str(error).split())}") from error

    @classmethod
    def paper(cls, task: str, **fields: Any) -> "MGVMoEConfig":
        """The paper's own setting, with its backbones: BERT-base, cased, and ViT-B/16 at 384 pixels.

        Args:
            task: "met", entity typing, or "mre", relations.
            fields: fields that differ from the preset.

        Raises:
            TypeError: there is no such field.
            ValueError: the task is neither.
        """
        if task not in PAPER:
            raise ValueError(f"task must be one of {', '.join(PAPER)}, got {task!r}.")
        if unknown := sorted(set(fields) - set(cls.__dataclass_fields__)):
            raise TypeError(f"paper got {unknown}, which {cls.__name__} does not have.")
        return cls(**{**DEFAULTS_0_1, **PAPER_BACKBONES, **PAPER[task], **fields})

    @property
    def _experts_implementation(self) -> str | None:
        return self._experts_implementation_internal

    @_experts_implementation.setter
    def _experts_implementation(self, value: str | dict[str, Any] | None) -> None:
        # The name says nothing to a backbone that has experts, too.
        values = value if isinstance(value, dict) else {"": value}
        check_experts_implementation(values.get(""), self.expert_type)
        inherited: Any = PreTrainedConfig._experts_implementation
        inherited.fset(self, values)

    @property
    def hidden_size(self) -> int:
        """H, the width of the text encoder and of everything after the backbones."""
        return self.text_config.hidden_size

    @property
    def vision_width(self) -> int:
        """H', the width of the vision encoder's states.

        Raises:
            ValueError: neither `vision_hidden_size` nor the vision encoder's configuration tells it.
        """
        return vision_width(self.vision_config) if self.vision_hidden_size is None else self.vision_hidden_size

    def validate_sizes(self) -> None:
        if self.num_experts < 0:
            raise ValueError(f"num_experts must not be negative, got {self.num_experts}.")
        for name in ("projection_dim", "max_mentions", "expert_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most:,}, got {getattr(self, name)}.")
        if self.vision_hidden_size is not None and self.vision_hidden_size < 1:
            raise ValueError(f"vision_hidden_size must be at least 1, got {self.vision_hidden_size}.")

    def validate_text_base(self) -> None:
        base = self.text_base
        if base is None:
            return
        if not isinstance(base.get("name"), str) or not set(base) <= {"name", "revision"}:
            raise ValueError(f'text_base must be {{"name": ..., "revision": ...}}, got {base!r:.80}.')
        if not isinstance(base.get("revision"), str | None):
            raise ValueError(f"text_base: revision must be a string or None, got {base['revision']!r:.80}.")

    def validate_score_calibration(self) -> None:
        for task, pair in (self.score_calibration or {}).items():
            numbers = pair if isinstance(pair, list | tuple) else ()
            finite = all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
            if task not in ("typing", "relation") or len(numbers) != 2 or not finite or numbers[0] <= 0:
                raise ValueError(
                    'score_calibration must hold for "typing" or "relation" a pair of numbers, a slope above 0 and '
                    f"an intercept, got {task!r}: {pair!r:.80}."
                )

    def validate_experts(self) -> None:
        if self.expert_type == "residual" and (self.score != "similarity" or self.num_experts == 0):
            raise ValueError(
                'expert_type: "residual" needs score="similarity" and at least one of num_experts, got '
                f"score={self.score!r} and num_experts={self.num_experts}."
            )
        if self.expert_type == "residual" and self.deterministic_experts:
            raise ValueError('deterministic_experts must be False with expert_type="residual"; see expert_prior_std.')

    def validate_backbones(self) -> None:
        for name in ("text_config", "vision_config"):
            check_backbone_sizes(name, getattr(self, name))

    def validate_finite_numbers(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and math.isinf(value):
                raise ValueError(f"{name} must be finite, got {value}.")

    def validate_positive_numbers(self) -> None:
        for name in ("adversary_radius", "alignment_temperature", "graph_temperature", "similarity_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)}.")

    def validate_coefficients(self) -> None:
        for name in (
            "margin",
            "initializer_range",
            "type_score_coef",
            "expert_prior_std",
            "image_text_weight",
            *(f"{term}_coef" for term in LOSS_TERMS),
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not 0 <= self.mention_weight <= 1:
            raise ValueError(f"mention_weight must be between 0 and 1, got {self.mention_weight}.")
        if not 0 <= self.projection_dropout < 1:
            raise ValueError(f"projection_dropout must be at least 0 and below 1, got {self.projection_dropout}.")

    @property
    def loss_terms(self) -> dict[str, str]:
        """The terms of E12 that a model computes: fields of its output, by the names to report them under."""
        return {f"{self.objective}_loss" if term == "ranking_loss" else term: term for term in LOSS_TERMS}


# Every term of E12, a field of the model's output, has a coefficient.
LOSS_TERMS = tuple(
    field.name.removesuffix("_coef") for field in fields(MGVMoEConfig) if field.name.endswith("_loss_coef")
)

__all__ = ["LOSS_TERMS", "MGVMoEConfig"]
