"""Model, processor and data of a run, from its arguments."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from ..data.zero_shot_data import ZeroShotData, read_data, sketchbook_data
from ..evaluation.loading import check_folder, check_model_folder
from .arguments import DataArguments, ModelArguments

if TYPE_CHECKING:
    from ..data.feature_cache_reader import ImageFeatureCache
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


def load_feature_cache(arguments: DataArguments, progress: bool = False) -> ImageFeatureCache | None:
    """The cache that the arguments name, every file of it checked, or `None`."""
    if arguments.image_feature_cache is None:
        return None
    from ..data.feature_cache_reader import ImageFeatureCache

    return ImageFeatureCache(arguments.image_feature_cache, progress=progress)


def load_data(arguments: DataArguments) -> ZeroShotData:
    """The built-in sketchbook, a prepared folder, or rows of your own; how these were divided is printed.

    Raises:
        ValueError: there are no training posts, or what [`read_data`] raises.
    """
    if arguments.dataset == "sketchbook":
        return sketchbook_data(arguments.dataset_seed, arguments.posts_per_class, arguments.eval_posts_per_class)
    data = read_data(arguments.dataset)
    if not len(data.posts["train"]):
        raise ValueError(f"dataset: training posts are needed, got none in {arguments.dataset!r}")
    if data.note and os.environ.get("RANK", "0") == "0":  # before the processes know each other
        print(data.note, flush=True)
    return replace(data, label_descriptions={}) if arguments.label_words == "name" else data


def check_sources(arguments: ModelArguments) -> None:
    """Refuse a model that cannot be had, before much is read.

    Raises:
        FileNotFoundError: a folder is not there or holds no model.
        ValueError: the recipe needs encoders and got none.
    """
    encoders = (arguments.text_model_name_or_path, arguments.vision_model_name_or_path)
    if arguments.model_name_or_path is None and None in encoders:
        missing = [name for name in ("text_config", "vision_config") if name not in arguments.model_config]
        if missing:
            # Left out they would be BERT-base and ViT-B with random weights, which nobody means.
            raise ValueError(
                "this model needs encoders: --text_model_name_or_path and --vision_model_name_or_path, such as "
                "sentence-transformers/all-MiniLM-L6-v2 and google/vit-base-patch16-384; for a model from nothing, "
                f"model_config needs {' and '.join(missing)}."
            )
    if arguments.model_name_or_path is not None:
        check_model_folder(arguments.model_name_or_path, "model_name_or_path")
    for name in ("text_model_name_or_path", "vision_model_name_or_path"):
        if getattr(arguments, name) is not None:
            check_folder(name, getattr(arguments, name))


def build_model(
    arguments: ModelArguments, data: ZeroShotData, seed: int = 0
) -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    """A saved model, two pretrained encoders put together, or a model from nothing, with its processor.

    Args:
        arguments: which.
        data: a model from nothing learns its tokenizer from the training texts.
        seed: of random weights.
    """
    from transformers import AutoImageProcessor, AutoTokenizer, set_seed

    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor
    from .from_scratch import model_from_scratch

    check_sources(arguments)
    set_seed(seed)
    if arguments.model_config.get("score") == "similarity" and arguments.mention_style != "prefix":
        raise ValueError(
            f'mention_style must be "prefix" for a model with score="similarity", got {arguments.mention_style!r}.'
        )
    if arguments.model_name_or_path is not None:
        source = arguments.model_name_or_path
        processor = MGVMoEProcessor.from_pretrained(source)
        processor.max_length = arguments.max_length or processor.max_length
        processor.label_template = arguments.label_template or processor.label_template
        processor.mention_style = arguments.mention_style or processor.mention_style
        return MGVMoEForZeroShotIE.from_pretrained(source), processor
    max_length, label_template = arguments.max_length or 128, arguments.label_template or "{}"
    mention_style = arguments.mention_style or "markers"
    if arguments.text_model_name_or_path is None or arguments.vision_model_name_or_path is None:
        return model_from_scratch(
            arguments.model_config, data.training_texts(), max_length, label_template, mention_style
        )
    processor = MGVMoEProcessor(
        AutoImageProcessor.from_pretrained(arguments.vision_model_name_or_path),
        AutoTokenizer.from_pretrained(arguments.text_model_name_or_path),
        max_length=max_length,
        label_template=label_template,
        mention_style=mention_style,
    )
    with warnings.catch_warnings():
        # It is about to be trained.
        warnings.filterwarnings("ignore", "from_text_vision_pretrained: .* random until the model is trained")
        model = MGVMoEForZeroShotIE.from_text_vision_pretrained(
            arguments.text_model_name_or_path, arguments.vision_model_name_or_path, **arguments.model_config
        )
    if processor.vocabulary_size > model.config.text_config.vocab_size:
        model.resize_token_embeddings(processor.vocabulary_size)
    return model, processor
