"""Small tokenizers of every kind, and a processor's settings to try them with."""

import json

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import BertTokenizer, DebertaV2Tokenizer, PreTrainedTokenizerFast, RobertaTokenizer

CORPUS = [
    "Lionel Messi (Argentina) plays in New York, the rain in Spain; New York is big.",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    "York (York) New (New)",
    "0 1 2 3 4 5 6 7 8 9 [ ] ( ) < > / , . ; : ! ? ' - #",
] * 3


BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "[unused2]", "[unused3]", "[unused4]"]


def bert(unused=True):
    letters = [chr(number) for number in [*range(97, 123), *range(48, 58)]]
    words = [*BERT_SPECIALS[: 9 if unused else 5], *"[]()<>/,.;:!?'-#", *letters]
    words = [*words, *("##" + letter for letter in letters), "new", "york", "rain", "man", "love", "today"]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)}, do_lower_case=True)


def roberta(**options):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=specials, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    model = json.loads(backend.to_str())["model"]
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], **options)


def modernbert():
    """Byte-level BPE whose markers are added tokens that are NOT marked as special."""
    backend = roberta().backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", cls_token="<s>", sep_token="</s>"
    )
    tokenizer.add_tokens([AddedToken(f"[unused{number}]", special=False) for number in range(1, 5)])
    return tokenizer


def deberta():
    """Unigram with word signs, whose vocabulary itself holds "[SEP]" (sentencepiece control symbols)."""
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    words = [
        "\u2581New",
        "\u2581York",
        "York",
        "\u2581in",
        "\u2581love",
        "\u2581(",
        "\u2581)",
        "(",
        ")",
        ",",
        "\u2581",
    ]
    pieces = [(piece, 0.0) for piece in specials] + [(piece, -3.0) for piece in words]
    pieces += [(chr(number), -8.0) for number in range(33, 127) if chr(number) not in words]
    return DebertaV2Tokenizer(vocab=pieces, unk_id=3)


TOKENIZERS = {"bert": bert, "roberta": roberta, "modernbert": modernbert, "deberta": deberta}


SETTINGS = {"max_length": 32, "hypothesis_template": "it is {}"}


SAMPLE = {"text": "in (New York) rain", "mentions": [(4, 12), (14, 18)], "candidate_labels": ["York", "rain"]}
