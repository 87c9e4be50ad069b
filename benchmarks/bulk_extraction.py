"""Extraction from many posts: throughput, and memory that does not grow with their number.

    python benchmarks/bulk_extraction.py --json benchmarks/results/bulk_extraction.json
    python benchmarks/bulk_extraction.py --posts 2000 --kills 1
    python benchmarks/bulk_extraction.py --shipped --posts 2000

For each number of posts a world (examples/sketch_world.py) is written, one post in a hundred with a
image, and `examples/extract.py` run on it in its own process, with a tiny model of random weights on one
thread. Memory is that of the process, as the system counts it: the peak, and what was resident after each tenth of
the posts. With --kills the largest run is made once more, killed that often at random moments, and compared byte by
byte. With --shipped the weights that ship type every mention of the posts (`model.extract`, one process, no files), in
turn with their bare encoder's forward pass on the same token ids, sorted by length in batches of 64: medians of five.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch

from modeling_mgvmoe import MGVMoEForZeroShotIE, MGVMoEProcessor
from modeling_mgvmoe.configuration_mgvmoe import DEFAULTS_0_1
from modeling_mgvmoe.inference.model_folder import shipped_model
from modeling_mgvmoe.training.build import model_from_scratch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "examples"))
from sketch_world import make_world, world_posts, write_world  # noqa: E402 - an example, and no part of the package

MODEL = {
    **DEFAULTS_0_1,
    "text_config": {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "intermediate_size": 64, "max_position_embeddings": 64, "vocab_size": 300},
    "vision_config": {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                      "intermediate_size": 64, "image_size": 16, "patch_size": 8},
    "num_experts": 2,
    "projection_dim": 16,
}  # fmt: skip
MIB = 1 << 20


def save_model(folder, world):
    torch.manual_seed(0)
    texts = [*world.names, *world.typing_labels, *world.relation_labels]
    model, processor = model_from_scratch(MODEL, texts, max_length=48)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def start(flags):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "extract.py"), *flags],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def resident(pid):
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return next((int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS")), None)
    except FileNotFoundError:
        return None


def measure(flags, output, count, part_size):
    """Run to the end; seconds, peak and resident MiB by tenths of the parts."""
    process, began = start(flags), time.monotonic()
    tenths = {}
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        done = len(list((output / "posts").glob("rows-*"))) * part_size * 10 // count if output.exists() else 0
        if done and done not in tenths and (now := resident(process.pid)):
            tenths[done] = round(now)
        time.sleep(0.1)
    printed = process.stdout.read()
    assert os.waitstatus_to_exitcode(status) == 0, printed
    return time.monotonic() - began, usage.ru_maxrss / 1024, tenths, printed


def digest(output):
    """SHA-256 of the names and the bytes of all files of the tables."""
    whole = hashlib.sha256()
    for path in sorted(output.glob("*/rows-*.parquet")):
        whole.update(str(path.relative_to(output)).encode() + path.read_bytes())
    return whole.hexdigest()


def check(output, count):
    """Every post of the input is in the table once."""
    seen = 0
    for path in sorted((output / "posts").iterdir()):
        rows = pq.read_table(path, columns=["row", "id"])
        assert rows["row"].to_pylist() == list(range(seen, seen + len(rows))), path
        assert rows["id"].to_pylist() == [f"world-0-{row:07d}" for row in range(seen, seen + len(rows))], path
        seen += len(rows)
    assert seen == count, (seen, count)


def killed(flags, output, kills, parts, seed=0):
    """Run, killed again and again at random moments, and then to the end; the moments, in parts that were there."""
    draw, moments = random.Random(seed), []
    for goal in sorted(draw.uniform(0.05, 0.95) * parts for _ in range(kills)):
        process = start(flags)
        while process.poll() is None and len(list((output / "posts").glob("rows-*"))) < goal:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        moments.append(len(list((output / "posts").glob("rows-*"))))
    process = start(flags)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return moments


def run(count, folder, arguments):
    world = make_world(people=1500, acquaintances=8)
    began = time.monotonic()
    posts, labels = write_world(
        folder / "input", world, count, image_share=arguments.image_share, image_size=32, progress=True
    )
    writing = time.monotonic() - began
    save_model(folder / "model", world)
    output = folder / "graph"
    flags = ["--input", posts, "--labels", labels, "--model", str(folder / "model"), "--top_k", "3"]
    seconds, peak, tenths, printed = measure([*flags, "--output", str(output)], output, count, 1000)
    check(output, count)
    row = {
        "posts": count,
        "input MiB": round(os.path.getsize(posts) / MIB, 1),
        "output MiB": round(sum(path.stat().st_size for path in output.glob("*/rows-*")) / MIB, 1),
        "seconds": round(seconds, 1),
        "posts/s": round(count / seconds, 1),
        "peak MiB": round(peak),
        "resident MiB by tenths": tenths,
        "seconds to write the input": round(writing, 1),
    }
    print(printed)
    if arguments.kills and count == max(arguments.posts):
        again = folder / "killed"
        moments = killed([*flags, "--output", str(again)], again, arguments.kills, -(-count // 1000))
        row["killed after parts"] = moments
        row["same bytes after kills"] = digest(again) == digest(output)
    return row


def shipped(count, repetitions=5, batch_size=64):
    """Mentions a second of the weights that ship, and their time in units of the bare encoder's."""
    model = MGVMoEForZeroShotIE.from_pretrained(shipped_model()).eval()
    processor = MGVMoEProcessor.from_pretrained(shipped_model())
    world = make_world(people=1500, acquaintances=8)
    posts = list(world_posts(world, count, image_share=0))
    pairs = [(post["text"], span) for post in posts for span in post["mentions"]]
    encoded = processor(text=[text for text, _ in pairs], mentions=[span for _, span in pairs])
    batches = []
    order = sorted(range(len(pairs)), key=lambda row: sum(encoded["attention_mask"][row]))
    for start_row in range(0, len(order), batch_size):
        rows = order[start_row : start_row + batch_size]
        length = max(sum(encoded["attention_mask"][row]) for row in rows)
        batches.append({name: torch.tensor([encoded[name][row][:length] for row in rows])
                        for name in ("input_ids", "attention_mask")})  # fmt: skip

    def bare():
        for batch in batches:
            model.mgvmoe.text_model(**batch)

    def whole():
        model.extract(posts, list(world.typing_labels), processor=processor, batch_size=batch_size)

    seconds = {bare: [], whole: []}
    with torch.no_grad():
        for _ in range(repetitions + 1):
            for work, own in seconds.items():
                began = time.perf_counter()
                work()
                own.append(time.perf_counter() - began)
    # The first one warms up.
    ratio = statistics.median(one / unit for one, unit in zip(seconds[whole][1:], seconds[bare][1:], strict=True))
    median = statistics.median(seconds[whole][1:])
    speed = round(len(pairs) / median, 1)
    return {"mentions": len(pairs), "mentions/s": speed, "times the bare encoder": round(ratio, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--image_share", type=float, default=0.01)
    parser.add_argument("--kills", type=int, default=0, help="of the largest run, made once more (default none)")
    parser.add_argument("--shipped", action="store_true", help="measure the weights that ship, and nothing else")
    parser.add_argument("--folder", help="to work in (default: a temporary one)")
    parser.add_argument("--json", help="where to write the rows")
    arguments = parser.parse_args()
    if arguments.shipped:
        print(json.dumps(shipped(arguments.posts[0])))
        return
    rows = []
    for count in arguments.posts:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            rows.append(run(count, Path(folder), arguments))
        print(json.dumps(rows[-1], indent=1), flush=True)
        if arguments.json:
            with open(arguments.json, "w", encoding="utf-8") as file:
                json.dump({"model": MODEL, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
