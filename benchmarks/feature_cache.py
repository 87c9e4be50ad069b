"""Resident memory and speed of training batches read from a large cache of image features.

    python benchmarks/feature_cache.py --json FILE [--folder /tmp/feature-cache] [--images 9000] [--batches 300]

Generates a cache of ViT-B/16-384 size (577 x 768 numbers an image; 9,000 images are 7.4 GiB), then, in a fresh
process, opens it with all its checks and collates random batches through the reader that training uses. Reported are
the process's peak resident memory (VmHWM), what was there after the imports, and the throughput. The cache goes.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np

from modeling_mgvmoe.data.feature_cache import DTYPE, FORMAT, VERSION, write_header, write_shard


def generate(folder, images, tokens, width, shard_size):
    """A cache in the real format. Every row is one random block, turned by another number of places."""
    os.makedirs(folder)
    block = np.random.default_rng(0).standard_normal(tokens * width, dtype=np.float32).astype(DTYPE)
    for number, first in enumerate(range(0, images, shard_size)):
        rows = range(first, min(first + shard_size, images))
        write_shard(folder, number, np.stack([np.roll(block, 7919 * row).reshape(tokens, width) for row in rows]))
    entries = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(".npy.json"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                entries.append(json.load(file))
            os.remove(os.path.join(folder, name))
    header = {"format": FORMAT, "version": VERSION, "tower": "random numbers", "preprocessing": {}, "batch_size": 1,
              "shard_size": shard_size, "tokens": tokens, "width": width, "shards": entries, "summary": {},
              "pictures": [hashlib.sha256(str(row).encode()).hexdigest() for row in range(images)]}  # fmt: skip
    write_header(folder, header)
    return block


def status(name):
    """A line of /proc/self/status in MiB."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":")) / 1024


def read(folder, batches, batch_size, seed):
    """Collate random batches, in this process; returns a row of results."""
    import torch

    from modeling_mgvmoe.data.encoding import PostCollator
    from modeling_mgvmoe.data.feature_cache import ImageFeatureCache
    from modeling_mgvmoe.training.build import model_from_scratch

    torch.set_num_threads(1)
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = {"text_config": {"model_type": "bert", **tiny}, "vision_config": {"model_type": "vit", **tiny}}
    _, processor = model_from_scratch(config, ["a post", "a label"], 16)
    imported = status("VmRSS")
    started = time.perf_counter()
    cache = ImageFeatureCache(folder)
    opened = time.perf_counter() - started
    collator = PostCollator(processor, {"typing": ["a label"]}, feature_cache=cache)
    post = {**processor.encode_post("a post", (2, 6)), "id": "0", "label": "a label", "task": "typing"}
    rng = random.Random(seed)
    started = time.perf_counter()
    highest = {"RssAnon": 0.0, "RssFile": 0.0, "VmRSS": 0.0}
    seen = set()
    for _ in range(batches):
        rows = [rng.randrange(len(cache)) for _ in range(batch_size)]
        seen.update(rows)
        batch = collator([{**post, "image_row": row} for row in rows])
        assert batch["image_features"].shape == (batch_size, cache.tokens, cache.width)
        highest = {name: max(value, status(name)) for name, value in highest.items()}
    seconds = time.perf_counter() - started
    size = cache.tokens * cache.width * DTYPE.itemsize
    return {"images": len(cache), "cache_gib": len(cache) * size / 2**30, "bytes_per_image": size,
            "distinct_images_read": len(seen), "batches": batches, "batch_size": batch_size,
            "seconds_to_open_and_verify": opened, "images_per_second": batches * batch_size / seconds,
            "mib_per_second": batches * batch_size * size / 2**20 / seconds, "rss_after_imports_mib": imported,
            "peak_rss_mib": status("VmHWM"),
            "peak_while_reading_mib": highest}  # fmt: skip


def main():
    """Generate, read in a fresh process, remove."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="file for the results")
    parser.add_argument("--folder", default="/tmp/feature-cache", help="where the cache is made; must not exist")
    parser.add_argument("--images", type=int, default=9000)
    parser.add_argument("--tokens", type=int, default=577)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--shard_size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=600)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--read_only", action="store_true", help=argparse.SUPPRESS)  # the fresh process
    arguments = parser.parse_args()
    if arguments.read_only:
        row = read(arguments.folder, arguments.batches, arguments.batch_size, arguments.seed)
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(row, file, indent=1)
        return
    needed = arguments.images * arguments.tokens * arguments.width * DTYPE.itemsize
    if os.path.exists(arguments.folder):
        raise SystemExit(f"--folder: {arguments.folder} must not exist yet")
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(arguments.folder))).free
    if free < 1.2 * needed:
        raise SystemExit(f"--folder: {1.2 * needed / 2**30:.1f} GiB of disk are needed, got {free / 2**30:.1f}")
    try:
        started = time.perf_counter()
        generate(arguments.folder, arguments.images, arguments.tokens, arguments.width, arguments.shard_size)
        print(f"generated {needed / 2**30:.2f} GiB in {time.perf_counter() - started:.0f} s", flush=True)
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--read_only"], check=True)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    with open(arguments.json, encoding="utf-8") as file:
        print(file.read())


if __name__ == "__main__":
    main()
