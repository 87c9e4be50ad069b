"""Posts, collator and metrics for transformers' `Trainer`.

    parts = trainer_parts(data, processor, model.config)
    trainer = Trainer(
        model,
        TrainingArguments("runs/trainer", remove_unused_columns=False, metric_for_best_model="macro_f1", ...),
        train_dataset=parts.posts["train"],
        eval_dataset=parts.posts["validation"],
        data_collator=parts.collator,
        compute_metrics=parts.compute_metrics,
        processing_class=processor,
    )

`remove_unused_columns=False` leaves the posts whole, which the collator needs. `processing_class` puts the processor
into every checkpoint, so that each is a folder for `pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.encoding import SplitCollator, encode_splits
from ..data.zero_shot_data import SPLITS
from ..inference.predict import make_compute_metrics

if TYPE_CHECKING:
    from transformers import EvalPrediction

    from ..configuration_mgvmoe import MGVMoEConfig
    from ..data.feature_cache import ImageFeatureCache
    from ..data.zero_shot_data import ZeroShotData
    from ..processing_mgvmoe import MGVMoEProcessor


@dataclass(frozen=True)
class TrainerParts:
    """Arguments of `Trainer`.

    Attributes:
        posts: for each split a dataset.
        collator: `data_collator`, for all of them.
        compute_metrics: see [`make_compute_metrics`].
    """

    posts: Mapping[str, Sequence[Mapping[str, Any]]]
    collator: SplitCollator
    compute_metrics: Callable[[EvalPrediction], dict[str, float]]


def trainer_parts(
    data: ZeroShotData,
    processor: MGVMoEProcessor,
    config: MGVMoEConfig,
    splits: Sequence[str] = SPLITS,
    feature_cache: ImageFeatureCache | None = None,
    progress: bool = False,
) -> TrainerParts:
    """Encode the posts and make what goes with them.

    Args:
        data: posts and classes.
        processor: encodes them.
        config: of the model: with `score="similarity"` it gets the types of heads and tails.
        splits: which.
        feature_cache: of the model's frozen vision tower, read instead of running it.
        progress: show a bar for each split.
    """
    encoded, collators = encode_splits(data, processor, splits, config.score == "similarity", feature_cache, progress)
    return TrainerParts(encoded, SplitCollator(collators), make_compute_metrics(collators))
