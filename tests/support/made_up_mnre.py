"""Posts in the form of MNRE's files, and a tiny text encoder that knows their words."""

import json
from pathlib import Path

import torch
from transformers import BertModel

from modeling_mgvmoe.training.build import train_tokenizer

from .tiny import tiny_text_config

LABELS = Path(__file__).parents[2] / "configuration" / "labels" / "mnre.json"
NAMES = ["Kelo", "Mura", "Torvek", "Tordra", "Molbru", "Quinlun"]


def write_mnre(folder):
    """Files in the form of MNRE whose relations are the label set's own; head and tail are made-up names."""
    folder.mkdir()
    raw = json.loads(LABELS.read_text(encoding="utf-8"))["classes"]
    lines = []
    for number, relation in enumerate(list(raw)[:9] * 4):
        head, tail = NAMES[number % 6], NAMES[(number + 1) % 6]
        words = [head, *raw[relation]["name"].split(), tail]
        lines.append(str({"token": words, "h": {"name": head, "pos": [0, 1]},
                          "t": {"name": tail, "pos": [len(words) - 1, len(words)]}, "img_id": "x.jpg",
                          "relation": relation}))  # fmt: skip
    for name in ("train", "val", "test"):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def save_encoder(folder):
    """A tiny text encoder with its tokenizer, in a folder."""
    tokenizer = train_tokenizer([" ".join(NAMES), "met lives in plays for person location award event song"], 99, 48)
    torch.manual_seed(0)
    model = BertModel(tiny_text_config(vocab_size=len(tokenizer), max_position_embeddings=96), add_pooling_layer=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
