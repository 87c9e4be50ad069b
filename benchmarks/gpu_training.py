"""Training steps at ViT-B/16-384 and BERT-base size on one GPU, random weights, bf16: speed, memory, share of peak.

    python benchmarks/gpu_training.py --json benchmarks/results/gpu_training.json [--batch_sizes 16 32 64 128 256]

Every batch size that fits, with torch.compile off and on, with the vision tower frozen and trained. Inputs are random
numbers that lie on the card. `--device cpu --tiny` only shows that the script runs.
"""

import argparse
import contextlib
import json
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, ViTConfig

from modeling_mgvmoe import MGVMoEConfig, MGVMoEForZeroShotIE
from modeling_mgvmoe.evaluation.report import markdown_table

# Dense bf16 matrix peak in TFLOP/s, as NVIDIA's data sheets give it, by a part of the card's name.
PEAKS = {"H200": 989.4, "H100 PCIe": 756, "H100": 989.4, "A100": 312, "L40S": 362, "L4": 121, "A10G": 70}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def build(tiny, freeze_vision, device):
    """The model in training mode; K 8, D 768, a KL that leaves something of the post."""
    text = BertConfig(**SMALL, vocab_size=500) if tiny else BertConfig()
    vision = ViTConfig(**SMALL, image_size=32, patch_size=16) if tiny else ViTConfig(image_size=384)
    values = {"fusion": "query", "freeze_vision": freeze_vision, "kl_loss_coef": 1e-4, "graph_temperature": 768.0}
    config = MGVMoEConfig.paper("mre", projection_dim=768, text_config=text, vision_config=vision, **values)
    return MGVMoEForZeroShotIE(config).to(device).train()


def inputs_of(model, batch_size, text_length, candidates, device):
    """A full batch: every post with an image, no padding."""
    text, vision = model.config.text_config, model.config.vision_config
    lengths = {"input_ids": (batch_size, text_length), "candidate_input_ids": (candidates, 8)}
    tokens = {name: torch.randint(5, text.vocab_size, shape, device=device) for name, shape in lengths.items()}
    return {
        **tokens,
        "mention_positions": torch.tensor([[1, 3]], device=device).expand(batch_size, 2).contiguous(),
        "pixel_values": torch.randn(batch_size, 3, vision.image_size, vision.image_size, device=device),
        "labels": torch.randint(candidates, (batch_size,), device=device),
    }


# FLOPs of a step. A layer of a transformer multiplies each of n tokens with 4 H^2 + 2 H I weights (I the inner size)
# and, in attention, with n keys and n values of H numbers: 2 n (4 H^2 + 2 H I) + 4 n^2 H FLOPs forward. That is 22
# GFLOP a post for BERT-base on 128 tokens and 110 for ViT-B/16-384 on 577. The experts (K 8) multiply every token with
# 2 K H^2 weights: 2.4 for the text, 10.9 for the image. The way back costs twice the way forth, once where nothing
# in front is trained, nothing in a frozen tower: 3 x 22 + 110 + 3 x 2.4 + 2 x 10.9 = 206 GFLOP a post, 437 with a
# trained tower. 12 labels of 8 tokens add 49 to a step. What is reported is what the operators of one step multiply,
# by torch's counter, so that a shorter way to the same numbers does not look like a faster card. At batch 2 on a CPU,
# where it does not know attention (14 and 39 a post), it finds 219 and 427; the above gives 217 and 423.
def counted_flops(step):
    """Matrix FLOPs of one call, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def measure(arguments, batch_size, freeze_vision, compiled):
    """One row of results; raises what torch raises where the batch does not fit."""
    device, cuda = torch.device(arguments.device), arguments.device == "cuda"
    torch.manual_seed(0)
    model = build(arguments.tiny, freeze_vision, device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=cuda)
    batch = inputs_of(model, batch_size, 16 if arguments.tiny else 128, 12, device)
    called = torch.compile(model) if compiled else model

    def step(function=called):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = function(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    flops = counted_flops(lambda: step(model))
    for _ in range(arguments.warmup):
        step()
    synchronize = torch.cuda.synchronize if cuda else contextlib.nullcontext
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(arguments.steps):
        synchronize()
        started = time.perf_counter()
        step()
        synchronize()
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    return {
        "batch_size": batch_size, "freeze_vision": freeze_vision, "compiled": compiled, "seconds": median,
        "seconds_least": min(seconds), "seconds_greatest": max(seconds), "posts_per_second": batch_size / median,
        "gflop_per_post": flops / batch_size / 1e9, "tflops_per_second": flops / median / 1e12,
        "share_of_peak": flops / median / 1e12 / arguments.peak_tflops if arguments.peak_tflops else None,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }  # fmt: skip


def main():
    """All combinations, the larger batches last; a table and a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="file for the results")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="two layers of 32 numbers")
    parser.add_argument("--no_compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--peak_tflops", type=float, help="of the card in bf16; default: by its name")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("a GPU is needed, torch sees none; --device cpu --tiny shows that the script runs")
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    if arguments.peak_tflops is None:
        arguments.peak_tflops = next((peak for part, peak in PEAKS.items() if part in name), None)
    rows = []
    for freeze_vision in (True, False):
        for compiled in (False,) if arguments.no_compile else (False, True):
            for batch_size in sorted(arguments.batch_sizes):
                try:
                    rows.append(measure(arguments, batch_size, freeze_vision, compiled))
                except torch.OutOfMemoryError:
                    rows.append({"batch_size": batch_size, "freeze_vision": freeze_vision, "compiled": compiled,
                                 "error": "out of memory"})  # fmt: skip
                    break
                finally:
                    torch.compiler.reset()
                    if arguments.device == "cuda":
                        torch.cuda.empty_cache()
                print(json.dumps(rows[-1]), flush=True)
                with open(arguments.json, "w", encoding="utf-8") as file:
                    json.dump({"card": name, "peak_tflops": arguments.peak_tflops, "torch": torch.__version__,
                               "tiny": arguments.tiny, "rows": rows}, file, indent=1)  # fmt: skip
    heads = ["posts", "tower", "compiled", "posts/s", "GFLOP/post", "share of peak", "GiB"]
    table = []
    for row in (row for row in rows if "error" not in row):
        share, memory = row["share_of_peak"], row["memory_gib"]
        table.append([str(row["batch_size"]), "frozen" if row["freeze_vision"] else "trained", str(row["compiled"]),
                      f"{row['posts_per_second']:.1f}", f"{row['gflop_per_post']:.3g}",
                      "" if share is None else f"{share:.3f}", "" if memory is None else f"{memory:.1f}"])  # fmt: skip
    print(f"{name}\n{markdown_table(heads, table)}")


if __name__ == "__main__":
    main()
