"""The model at full size, random inputs for it, and seconds in units of U, its bare encoders' forward pass."""

import contextlib
import statistics
import time

import torch
from transformers import BertConfig, ViTConfig

from modeling_mgvmoe import MGVMoEConfig, MGVMoEForZeroShotIE

BATCH, TOKENS, VOCABULARY, LABEL_TOKENS = 4, 128, 28996, 6


def full_model(**values):
    """The model at full size with random weights, in evaluation mode."""
    torch.manual_seed(0)
    config = MGVMoEConfig.paper(
        "mre",
        text_config=BertConfig(vocab_size=VOCABULARY, attention_probs_dropout_prob=0.0),
        vision_config=ViTConfig(image_size=384),
        **values,
    )
    return MGVMoEForZeroShotIE(config).eval()


def tokens(rows, length=TOKENS):
    """Random token ids."""
    return torch.randint(5, VOCABULARY, (rows, length))


def posts(batch=BATCH, length=TOKENS):
    """Random posts, without images."""
    return {
        "input_ids": tokens(batch, length),
        "mention_positions": torch.tensor([[1, 9]]).expand(batch, 2).contiguous(),
    }


def pixels(batch=BATCH):
    """Random images."""
    return torch.randn(batch, 3, 384, 384)


def timed(function, repetitions):
    """Seconds of each call but the first."""
    function()
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


def bfloat16(on=True):
    """bf16 autocast."""
    return torch.autocast("cpu", torch.bfloat16) if on else contextlib.nullcontext()


def in_units(model, function, repetitions):
    """Seconds of the function, in turn with those of U: the bare encoders of transformers, which are the model's own.

    One process and one setting of its memory for both, and neighbours on the machine are the same for both.
    """
    text, vision, ids, images = model.mgvmoe.text_model, model.mgvmoe.vision_model, tokens(BATCH), pixels()

    @torch.no_grad()
    def bare():
        training = text.training
        text.eval()
        text(ids)
        vision(images)
        text.train(training)

    pairs = [[timed(call, 1)["seconds"][0] for call in (function, bare)] for _ in range(repetitions)]
    own, units = zip(*pairs, strict=True)
    return {"seconds": own, "u": units, "measured": statistics.median(a / b for a, b in pairs)}
