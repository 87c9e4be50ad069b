"""How time and memory grow: with experts, labels, image tokens, text length, batch, and mentions of one post.

    python benchmarks/growth.py --json benchmarks/results/growth.json --figure benchmarks/results/growth.png

Inference without gradients and training steps of the experts and what is behind the encoders, at H 768 with encoders
of one layer, so that what grows is not hidden behind what does not; each size in turn, medians. The exponent is the
slope of log seconds over log size between the two largest sizes: 1 is linear. `--repetitions`, `--tiny` for a look.
"""

import argparse
import json
import math
import platform
import statistics

import matplotlib
import torch
from full_size import LABEL_TOKENS, VOCABULARY, timed, tokens
from transformers import BertConfig, ViTConfig

from modeling_mgvmoe import MGVMoEConfig, MGVMoEForZeroShotIE
from modeling_mgvmoe.evaluation.report import markdown_table
from modeling_mgvmoe.training.launch import keep_freed_memory

# What may grow at most how fast: the exponent that the mathematics asks.
SIZES = {
    "experts, inference": ([1, 4, 16, 64], 1),
    "experts, training": ([1, 4, 16, 64], 1),
    "labels, encoded": ([1, 100, 10_000, 100_000], 1),
    "image tokens": ([64, 256, 1024, 4096], 1),
    "text tokens": ([32, 128, 512], 2),
    "posts": ([1, 4, 16, 64], 1),
    "mentions of one post": ([1, 4, 16, 64], 1),
}


def model_with(tiny, experts=8):
    """Encoders of one layer, the rest at full size."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4} if tiny else {}
    text = BertConfig(**sizes, num_hidden_layers=1, vocab_size=VOCABULARY, attention_probs_dropout_prob=0.0)
    vision = ViTConfig(**sizes, num_hidden_layers=1, image_size=224)
    values = {"text_config": text, "vision_config": vision, "num_experts": experts}
    return MGVMoEForZeroShotIE(MGVMoEConfig.paper("mre", **values)).eval()


def batch_of(model, posts=4, text=64, image=256, labels=4):
    """Random posts with image features."""
    width = model.config.hidden_size
    return {
        "input_ids": tokens(posts, text),
        "mention_positions": torch.tensor([[1, 9]]).expand(posts, 2).contiguous(),
        "image_features": torch.randn(posts, image, width),
        "candidate_embeds": torch.randn(labels, width),
    }


def call_of(what, size, tiny):
    """The call whose time is taken."""
    model = model_with(tiny, size if what.startswith("experts") else 8)
    if what == "experts, training":
        batch = batch_of(model)
        del batch["candidate_embeds"]
        batch |= {"candidate_input_ids": tokens(4, LABEL_TOKENS), "labels": torch.arange(4)}
        model.train()

        def step():
            model(**batch).loss.backward()
            model.zero_grad()

        return step
    names = {"labels, encoded": "labels", "image tokens": "image", "text tokens": "text", "posts": "posts"}
    if what == "mentions of one post":
        batch = batch_of(model, posts=size)
        del batch["image_features"]
        side = model.config.vision_config.image_size
        batch |= {"pixel_values": torch.randn(1, 3, side, side), "image_index": torch.zeros(size, dtype=torch.long)}
    else:
        batch = batch_of(model, **({names[what]: size} if what in names else {}))
    return lambda: model(**batch)


def measure(what, flags):
    """Seconds and tensor memory by size."""
    sizes, _ = SIZES[what]
    rows = []
    for size in sizes[:2] if flags.tiny else sizes:
        call = call_of(what, size, flags.tiny)
        with torch.set_grad_enabled(what == "experts, training"):
            seconds = statistics.median(timed(call, flags.repetitions)["seconds"])
            with torch.profiler.profile(profile_memory=True) as profiler:
                call()
        rows.append({"size": size, "seconds": seconds, "peak_mib": peak(profiler) / 2**20})
    return rows


def peak(profiler):
    """Most bytes of tensors at one time, over those that were there before."""
    most = now = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def draw(found, path):
    """Seconds over size, relative to the smallest, on logarithmic axes."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axis, name, label in zip(axes, ("seconds", "peak_mib"), ("time", "memory of tensors"), strict=True):
        for what, rows in found.items():
            sizes = [row["size"] / rows[0]["size"] for row in rows]
            axis.loglog(sizes, [row[name] / rows[0][name] for row in rows], marker="o", label=what)
        axis.loglog([1, 100], [1, 100], color="grey", linestyle=":", label="linear")
        axis.set(xlabel="size, times the smallest", ylabel=f"{label}, times that of the smallest", title=label)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main():
    """All of them, a table, a file and a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True)
    parser.add_argument("--figure", required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="small numbers that only show that the script runs")
    flags = parser.parse_args()
    keep_freed_memory()
    found, lines = {}, []
    for what, (_, allowed) in SIZES.items():
        rows = found[what] = measure(what, flags)
        slope = [
            math.log(rows[-1][name] / rows[-2][name]) / math.log(rows[-1]["size"] / rows[-2]["size"])
            for name in ("seconds", "peak_mib")
        ]
        cells = [" ".join(f"{row['size']:,}: {row[name]:.3g}" for row in rows) for name in ("seconds", "peak_mib")]
        lines.append([what, cells[0], f"{slope[0]:.2f}", cells[1], f"{slope[1]:.2f}", f"{allowed}"])
        print(lines[-1], flush=True)
        with open(flags.json, "w", encoding="utf-8") as file:
            json.dump(
                {"machine": platform.machine(), "threads": torch.get_num_threads(), "rows": found}, file, indent=1
            )
    draw(found, flags.figure)
    print(markdown_table(["size", "seconds", "exponent", "MiB", "exponent", "at most"], lines))


if __name__ == "__main__":
    main()
