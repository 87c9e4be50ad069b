"""Embeddings of labels and types, each encoded once and remembered; and whether a processor fits a model."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json", "tokenizer.json")


class CandidateEmbedder:
    """Texts of labels to vectors, with a memory of the last ones.

    Args:
        model: encodes; what it made before its weights changed must be forgotten with `clear`.
        processor: of the model.
        size: texts that are remembered.
        batch_size: labels that are encoded in one forward pass.
    """

    def __init__(self, model: Any, processor: Any, size: int = 100_000, batch_size: int = 256) -> None:
        if size < 1:
            raise ValueError(f"candidate_cache_size must be at least 1, got {size}.")
        self.model, self.processor, self.size, self.batch_size = model, processor, size, batch_size
        self.cache: OrderedDict[tuple[str, ...], torch.Tensor] = OrderedDict()

    def clear(self) -> None:
        """Forget all."""
        self.cache.clear()

    def __call__(self, texts: Sequence[tuple[str, ...]], labels: Sequence[str] | None = None) -> torch.Tensor:
        """(C, H), of C labels or types; each is known by all its texts.

        Args:
            texts: of each.
            labels: their names, for messages; default: their first texts.
        """
        names = dict(zip(texts, labels or [own[0] for own in texts], strict=True))
        # Other threads may shorten the cache at any moment: each step is one operation on it, and none may fail.
        known = ((text, self.cache.get(text)) for text in texts)
        found = {text: embeds for text, embeds in known if embeds is not None}
        missing = list(dict.fromkeys(text for text in texts if text not in found))
        # Vectors made with dropout would stay wrong for as long as they are kept.
        with in_evaluation(self.model):
            for start in range(0, len(missing), self.batch_size):
                chunk = missing[start : start + self.batch_size]
                own = [names[text] for text in chunk]
                encoded = self.processor.encode_texts(chunk, return_tensors="pt", labels=own)
                embeds = self.model.get_candidate_embeds(**encoded.to(self.model.device))
                found.update(zip(chunk, embeds.unbind(0), strict=True))
        with suppress(KeyError):
            for text in texts:
                self.cache[text] = found[text]
                self.cache.move_to_end(text)
            while len(self.cache) > self.size:
                self.cache.popitem(last=False)
        return torch.stack([found[text] for text in texts])


# Models that threads are reading, with how many and which modules were in training mode before the first of them.
_READ: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = WeakKeyDictionary()
_READ_LOCK = Lock()


@contextmanager
def in_evaluation(model: Any) -> Iterator[None]:
    """Run a model without dropout, noise and gradients; afterwards every module is in the mode in which it came.

    Threads may share the model: the last one to leave restores the modes. A model that is no module of torch, an ONNX
    export, has no modes.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    with _READ_LOCK:
        readers, training = _READ.get(model, (0, []))
        if not readers:
            training = [module for module in model.modules() if module.training]
            model.eval()
        _READ[model] = (readers + 1, training)
    try:
        with torch.no_grad():
            yield
    finally:
        with _READ_LOCK:
            readers, training = _READ.pop(model)
            if readers > 1:
                _READ[model] = (readers - 1, training)
            else:
                for module in training:
                    module.training = True


def check_processor(model: Any, processor: Any) -> None:
    """Raise ValueError if the model cannot read what the processor makes."""
    if not hasattr(processor, "encode_post"):
        raise ValueError(
            f"processor: an MGVMoEProcessor is needed (got {type(processor).__name__}). "
            f"{_why_no_processor(model.name_or_path)}Save one beside the model with "
            "processor.save_pretrained(folder), or pass processor=... to pipeline()."
        )
    vocab_size = model.config.text_config.vocab_size
    if processor.vocabulary_size > vocab_size:
        raise ValueError(
            f"model: its text encoder has {vocab_size} token embeddings, but the processor's tokenizer has "
            f"{processor.vocabulary_size} tokens, markers included. Call "
            "model.resize_token_embeddings(processor.vocabulary_size), and train."
        )
    limit = getattr(model, "mgvmoe", model).max_text_length
    if limit is not None and processor.longest > limit:
        raise ValueError(
            f"processor: posts may have {processor.longest} tokens, but the model's text encoder has "
            f"positions for {limit}. Set processor.max_length to at most {limit}."
        )
    if model.config.score == "similarity" and processor.mention_style != "prefix":
        raise ValueError(
            'processor: a model with score="similarity" needs one with mention_style="prefix", '
            f"got {processor.mention_style!r}."
        )


def _why_no_processor(source: str) -> str:
    """A sentence on what the model's folder lacks, or where to look; nothing for a model that was not loaded."""
    if not source:
        return ""
    missing = [name for name in PROCESSOR_FILES if not os.path.isfile(os.path.join(source, name))]
    if missing and os.path.isdir(source):
        return f"The folder {source!r} has no {', no '.join(missing)}. "
    return f"If {source!r} has one, AutoProcessor.from_pretrained on it says what is wrong. "


__all__ = ["CandidateEmbedder", "check_processor", "in_evaluation"]
