"""Posts and a stand-in for a model, shared by the tests of graphs."""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from modeling_mgvmoe.graph.post_files import PostFiles
from modeling_mgvmoe.graph.runner import BulkArguments, extract_in_bulk

TYPES = ("boat", "bird", "cake")
RELATIONS = ("greets", "chases")
LABELS = {"labels": {"typing": list(TYPES), "relation": list(RELATIONS), "options": {}}}
NAMES = ("Kelo", "Mura", "Dunvik", "Torvek", "Quin")


def png(seed=0):
    """A small image as the bytes of a file."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (6, 5, 3), dtype=torch.uint8, generator=generator)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "png")
    return file.getvalue()


def some_posts(count, drawings=True):
    """Posts of two mentions, every third of three, every fifth with an image."""
    posts = []
    for number in range(count):
        names = [NAMES[(number * step + step) % 5] for step in (1, 2, 3)[: 2 + (number % 3 == 0)]]
        text, spans = f"post {number}:", []
        for name in names:
            spans.append([len(text) + 1, len(text) + 1 + len(name)])
            text += f" {name}"
        image = {"bytes": png(number), "path": None} if drawings and number % 5 == 0 else None
        posts.append({"id": f"p{number}", "text": text, "image": image, "mentions": spans})
    return posts


def write_posts(path, posts, row_group_size=7):
    """A Parquet file of posts."""
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("mentions", pa.list_(pa.list_(pa.int32()))),
        ]
    )
    pq.write_table(pa.Table.from_pylist(posts, schema=schema), path, row_group_size=row_group_size)
    return str(path)


def _share(*words):
    """A number in [0, 1) of its own for any words."""
    return int.from_bytes(hashlib.sha256("/".join(words).encode()).digest()[:4], "little") / 2**32


def _ranking(labels, *words):
    weights = np.array([0.1 + _share(label, *words) for label in labels])
    scores = sorted(zip(labels, (weights / weights.sum()).tolist(), strict=True), key=lambda pair: -pair[1])
    ranked = [{"label": label, "score": score} for label, score in scores]
    return {**ranked[0], "scores": ranked}


def stand_in(posts):
    """What a model's `extract` would give: labels and scores that hang on the words alone."""
    answers = []
    for post in posts:
        if "nonsense" in post["text"]:
            raise ValueError("the text is nonsense")
        texts = [post["text"][start:end] for start, end in post["mentions"]]
        mentions = [
            {"start": start, "end": end, "text": text, **_ranking(TYPES, text, post["text"])}
            for (start, end), text in zip(post["mentions"], texts, strict=True)
        ]
        for mention in mentions:
            if mention["score"] < 0.4:
                mention["label"] = None
        relations = [
            {"head": head, "tail": tail, **_ranking(RELATIONS, texts[head], texts[tail], post["text"])}
            for head in range(len(texts))
            for tail in range(len(texts))
            if head != tail
        ]
        kept = [relation for relation in relations if relation["score"] > 0.55]
        answers.append({"id": post["id"], "text": post["text"], "mentions": mentions, "relations": kept})
    return answers


def extract_all(paths, output, extractor=stand_in, identity=LABELS, features=None, **arguments):
    """Extract with the stand-in."""
    paths = [paths] if isinstance(paths, str) else list(paths)
    arguments = {"batch_size": 4, "part_size": 10, **arguments}
    return extract_in_bulk(
        PostFiles(paths),
        extractor,
        BulkArguments(output=str(output), **arguments),
        identity,
        image_features=features,
        feature_size=None if features is None else 3,
    )


def contents(folder):
    """Every file of a graph that is its result, as bytes, by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("todo-")
    }


def colours(drawings):
    """Features of images that are plain to see: mean red, green and blue."""
    return np.stack([np.asarray(drawing, dtype=np.float32).mean((0, 1)) for drawing in drawings])
