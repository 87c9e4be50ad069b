"""Builds a processor and a model with random weights from a recipe, for data that needs no pretraining."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil

from ..configuration_mgvmoe import MGVMoEConfig
from ..modeling_mgvmoe import MGVMoEForZeroShotIE
from ..processing_mgvmoe import UNUSED_MARKERS, MGVMoEProcessor

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(texts: Iterable[str], vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer in BERT's manner, learned from the texts.

    Args:
        texts: sentences and labels of the training data.
        vocab_size: at most so many tokens, the special ones and `[unused1]` to `[unused4]` included.
        model_max_length: in tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL_TOKENS, *UNUSED_MARKERS], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=model_max_length,
    )


def processor_from_scratch(
    config: MGVMoEConfig, texts: Iterable[str], max_length: int, label_template: str = "{}"
) -> MGVMoEProcessor:
    """A processor for `config`: its tokenizer learns from the texts, its pictures get the ViT's size and [-1, 1]."""
    tokenizer = train_tokenizer(texts, config.text_config.vocab_size, config.text_config.max_position_embeddings)
    size = config.vision_config.image_size
    image_processor = ViTImageProcessorPil(
        size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    return MGVMoEProcessor(image_processor, tokenizer, max_length=max_length, label_template=label_template)


def model_from_scratch(
    model_config: Mapping[str, Any], texts: Iterable[str], max_length: int, label_template: str = "{}"
) -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    """A model with random weights and its processor.

    Args:
        model_config: fields of [`MGVMoEConfig`]. The vocabulary shrinks to what the texts give.
        texts: to learn the tokenizer from.
        max_length: of a post, in tokens.
        label_template: what the text encoder reads for a label.

    Returns:
        The model and the processor.
    """
    config = MGVMoEConfig(**model_config)
    processor = processor_from_scratch(config, texts, max_length, label_template)
    config.text_config.vocab_size = processor.vocabulary_size
    config.text_config.pad_token_id = processor.tokenizer.pad_token_id
    return MGVMoEForZeroShotIE(config), processor
