"""Model, processor and data of a run, from its arguments."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil

from ..configuration_mgvmoe import MGVMoEConfig
from ..data.zero_shot_data import ZeroShotData, combine_data, read_data, sketchbook_data
from ..inference.model_folder import check_folder, check_model_folder
from ..modeling_mgvmoe import MGVMoEForZeroShotIE
from ..processing_mgvmoe import UNUSED_MARKERS, MGVMoEProcessor
from .arguments import DataArguments, ModelArguments

if TYPE_CHECKING:
    from ..data.feature_cache import ImageFeatureCache


SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# A plane of Unicode for private use.
PRIVATE_LETTERS = 0xF0000


def train_tokenizer(texts: Iterable[str], vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer in BERT's manner, learned from the texts.

    Args:
        texts: sentences and labels of the training data.
        vocab_size: at most this many tokens, the special ones and `[unused1]` to `[unused4]` included.
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
    hypothesis_template: str = "{}",
    mention_style: str = "markers",
) -> MGVMoEProcessor:
    """A processor for `config`: its tokenizer learns from the texts, its images get the ViT's size and [-1, 1]."""
    tokenizer = train_tokenizer(texts, config.text_config.vocab_size, config.text_config.max_position_embeddings)
    size = config.vision_config.image_size
    image_processor = ViTImageProcessorPil(
        size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    return MGVMoEProcessor(
        image_processor,
        tokenizer,
        max_length=max_length,
        hypothesis_template=hypothesis_template,
        mention_style=mention_style,
    )


def default_mention_style(score: str) -> str:
    """The `mention_style` that a model's score needs."""
    return "prefix" if score == "similarity" else "markers"


def model_from_scratch(
    model_config: Mapping[str, Any],
    texts: Iterable[str],
    max_length: int,
    hypothesis_template: str = "{}",
    mention_style: str | None = None,
) -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    """A model with random weights and its processor.

    Args:
        model_config: fields of [`MGVMoEConfig`]. The vocabulary shrinks to what the texts give.
        texts: to learn the tokenizer from.
        max_length: of a post, in tokens.
        hypothesis_template: what the text encoder reads for a label.
        mention_style: of the processor; default: what the score needs.

    Returns:
        The model and the processor.
    """
    config = MGVMoEConfig(**model_config)
    style = mention_style or default_mention_style(config.score)
    processor = processor_from_scratch(config, texts, max_length, hypothesis_template, style)
    config.text_config.vocab_size = processor.vocabulary_size
    config.text_config.pad_token_id = processor.tokenizer.pad_token_id
    return MGVMoEForZeroShotIE(config), processor


def load_feature_cache(arguments: DataArguments, progress: bool = False) -> ImageFeatureCache | None:
    """The cache that the arguments name, every file of it checked, or `None`."""
    if arguments.image_feature_cache is None:
        return None
    from ..data.feature_cache import ImageFeatureCache

    return ImageFeatureCache(arguments.image_feature_cache, progress=progress)


def load_data(arguments: DataArguments) -> ZeroShotData:
    """The built-in sketchbook, a prepared folder, rows of your own, or several; how rows were divided is printed.

    Raises:
        ValueError: there are no training posts, or what [`read_data`] raises.
    """
    names = [name.strip() for name in arguments.dataset.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"dataset: names must be distinct and not empty, got {arguments.dataset!r}")
    found = {name: _load_one(name, arguments) for name in names}
    data = found[names[0]] if len(names) == 1 else combine_data(found)
    if data.note and os.environ.get("RANK", "0") == "0":  # before the processes know each other
        print(data.note, flush=True)
    return replace(data, label_descriptions={}) if arguments.label_words == "name" else data


def _load_one(name: str, arguments: DataArguments) -> ZeroShotData:
    if name == "sketchbook":
        return sketchbook_data(arguments.dataset_seed, arguments.posts_per_class, arguments.eval_posts_per_class)
    data = read_data(name)
    if not len(data.posts["train"]):
        raise ValueError(f"dataset: training posts are needed, got none in {name!r}")
    return data


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
    from transformers import set_seed

    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor

    check_sources(arguments)
    set_seed(seed)
    score = arguments.model_config.get("score", MGVMoEConfig.score)
    mention_style = arguments.mention_style or default_mention_style(score)
    if arguments.model_name_or_path is None and score == "similarity" and mention_style != "prefix":
        raise ValueError(f'mention_style must be "prefix" for a model with score="similarity", got {mention_style!r}.')
    if arguments.model_name_or_path is not None:
        source = arguments.model_name_or_path
        processor = MGVMoEProcessor.from_pretrained(source)
        processor.max_length = arguments.max_length or processor.max_length
        processor.hypothesis_template = arguments.hypothesis_template or processor.hypothesis_template
        processor.mention_style = arguments.mention_style or processor.mention_style
        # Whatever precision it was saved in: steps smaller than half precision can hold would be lost.
        return MGVMoEForZeroShotIE.from_pretrained(source, dtype=torch.float32), processor
    max_length, hypothesis_template = arguments.max_length or 128, arguments.hypothesis_template or "{}"
    if arguments.text_model_name_or_path is None or arguments.vision_model_name_or_path is None:
        return model_from_scratch(
            arguments.model_config, data.training_texts(), max_length, hypothesis_template, mention_style
        )
    processor = MGVMoEProcessor.from_text_vision_pretrained(
        arguments.text_model_name_or_path,
        arguments.vision_model_name_or_path,
        max_length=max_length,
        hypothesis_template=hypothesis_template,
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
