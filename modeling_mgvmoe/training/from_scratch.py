"""Builds a processor and a model with random weights from a recipe, for data that needs no pretraining."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil

from ..configuration_mgvmoe import MGVMoEConfig
from ..modeling_mgvmoe import MGVMoEForZeroShotIE
from ..processing_mgvmoe import UNUSED_MARKERS, MGVMoEProcessor

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# A plane of Unicode for private use.
PRIVATE_LETTERS = 0xF0000


def train_tokenizer(texts: Iterable[str], vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer in BERT's manner, learned from the texts.

    Args:
        texts: sentences and labels of the training data.
        vocab_size: at most so many tokens, the special ones and `[unused1]` to `[unused4]` included.
        model_max_length: in tokens.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = [word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))]
    tokenizer = Tokenizer(models.WordPiece(_learn_word_pieces(words, vocab_size), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([*SPECIAL_TOKENS, *UNUSED_MARKERS])
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


def _learn_word_pieces(words: Sequence[str], vocab_size: int) -> dict[str, int]:
    """A WordPiece vocabulary, the same in every process for the same words.

    `WordPieceTrainer` numbers the "##" letters in the order of a hash map, which differs from run to run, and breaks
    ties by these numbers. Its relative for BPE sorts the letters. So letters inside of words become letters of their
    own, outside of any alphabet, and what is learned from them gets its "##" afterwards.
    """
    from tokenizers import Tokenizer, models, trainers

    letters = sorted({letter for word in words for letter in word})
    inside = {letter: chr(PRIVATE_LETTERS + number) for number, letter in enumerate(letters)}
    outside = {private: letter for letter, private in inside.items()}
    learner = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *UNUSED_MARKERS],
        initial_alphabet=letters,
        show_progress=False,
    )
    learner.train_from_iterator((word[0] + "".join(map(inside.__getitem__, word[1:])) for word in words), trainer)
    pieces = {}
    for piece, number in learner.get_vocab().items():
        spelled = "".join(outside.get(letter, letter) for letter in piece)
        pieces["##" + spelled if piece[0] in outside else spelled] = number
    return pieces


def processor_from_scratch(
    config: MGVMoEConfig,
    texts: Iterable[str],
    max_length: int,
    label_template: str = "{}",
    mention_style: str = "markers",
) -> MGVMoEProcessor:
    """A processor for `config`: its tokenizer learns from the texts, its pictures get the ViT's size and [-1, 1]."""
    tokenizer = train_tokenizer(texts, config.text_config.vocab_size, config.text_config.max_position_embeddings)
    size = config.vision_config.image_size
    image_processor = ViTImageProcessorPil(
        size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    return MGVMoEProcessor(
        image_processor,
        tokenizer,
        max_length=max_length,
        label_template=label_template,
        mention_style=mention_style,
    )


def model_from_scratch(
    model_config: Mapping[str, Any],
    texts: Iterable[str],
    max_length: int,
    label_template: str = "{}",
    mention_style: str = "markers",
) -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    """A model with random weights and its processor.

    Args:
        model_config: fields of [`MGVMoEConfig`]. The vocabulary shrinks to what the texts give.
        texts: to learn the tokenizer from.
        max_length: of a post, in tokens.
        label_template: what the text encoder reads for a label.
        mention_style: of the processor.

    Returns:
        The model and the processor.
    """
    config = MGVMoEConfig(**model_config)
    processor = processor_from_scratch(config, texts, max_length, label_template, mention_style)
    config.text_config.vocab_size = processor.vocabulary_size
    config.text_config.pad_token_id = processor.tokenizer.pad_token_id
    return MGVMoEForZeroShotIE(config), processor
