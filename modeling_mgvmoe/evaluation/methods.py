"""The methods that are compared: baselines, MG-VMoE, and MG-VMoE without or with another form of each of its parts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["majority", "similarity", "baseline", "mgvmoe"]
# What a method reads for a label: its name; one sentence; its name and all sentences.
Words = Literal["name", "description", "all"]


@dataclass(frozen=True)
class Method:
    """One row of the comparison.

    Attributes:
        name: as it is asked for.
        what: in one line.
        kind: how it is made.
        words: what it reads for a label.
        mention_style: how it is shown the mentions; `None`: as the recipe says.
        baseline: module and class in `evaluation/baselines/`, for baselines.
        model_config: fields of MGVMoEConfig that differ from the recipe, for MG-VMoE.
        types: whether it is told the types of heads and tails.
    """

    name: str
    what: str
    kind: Kind
    words: Words = "all"
    mention_style: str | None = None
    baseline: tuple[str, str] | None = None
    model_config: Mapping[str, Any] = field(default_factory=dict)
    types: bool = True

    @property
    def trained(self) -> bool:
        """Whether it depends on the seed of a training."""
        return self.kind in ("baseline", "mgvmoe")


def _ours(name: str, what: str, **model_config: Any) -> Method:
    return Method(name, what, "mgvmoe", model_config=model_config)


BASELINES = (
    Method("majority", "always the most frequent class of the test", "majority"),
    Method("similarity", "nearest label name, nothing trained", "similarity", words="name"),
    Method("similarity_description", "nearest description, nothing trained", "similarity", words="description"),
    Method("similarity_all", "nearest mean of name and all sentences, nothing trained", "similarity"),
    Method("prototype", "markers and label name, dot product, ranking loss", "baseline", "name", "markers",
           ("prototype", "Prototype")),
    Method("attribute_regression", "ZS-BERT: regression onto the description's vector", "baseline", "description",
           "markers", ("attribute_regression", "AttributeRegression")),
    Method("concatenation", "text and picture side by side, no experts, ranking loss", "baseline", "description",
           "markers", ("concatenation", "Concatenation")),
    Method("cross_encoder", "post and description in one pass", "baseline", "description", "prefix",
           ("cross_encoder", "CrossEncoder")),
    Method("similarity_tuned", "similarity to the description, fine-tuned", "baseline", "description", "prefix",
           ("similarity_tuned", "SimilarityTuned")),
    Method("similarity_tuned_all", "the same with name and all sentences of a label", "baseline", "all", "prefix",
           ("similarity_tuned", "SimilarityTuned")),
)  # fmt: skip

MGVMOE = _ours("mgvmoe", "MG-VMoE with everything on")

# Each differs from `mgvmoe` in one thing.
ABLATIONS = (
    _ours("no_experts", "tokens as they are in place of experts", num_experts=0),
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
