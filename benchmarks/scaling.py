"""Two processes of one thread against one process of one thread, the same work per process: posts a second.

    python benchmarks/scaling.py --json benchmarks/results/scaling.json [--repetitions 5] [--steps 100]

Both train with examples/train.py and the sketchbook recipe, the two under torchrun with batches of the same size each.
They take turns. Throughput is that of the run's own log, validation and start left out: a repetition's is the median
over the entries of the log but the first. Efficiency is that of two processes over twice that of one, per repetition.
The machine must be idle and have two cores: what else runs takes from the two processes and not from the one. Any
other flag is one of examples/train.py.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile

import torch

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
TARGET = 0.85


def throughput(processes, steps, flags):
    """Posts a second of all processes together."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *(launcher if processes > 1 else []), os.path.join(ROOT, "examples", "train.py")]
        command += ["--config", os.path.join(ROOT, "configuration", "recipes", "sketchbook.yaml")]
        command += ["--max_train_steps", str(steps), "--eval_steps", str(steps), "--logging_steps", str(steps // 10)]
        command += ["--posts_per_class", "10", "--eval_posts_per_class", "1", "--num_threads", "1"]
        command += [*flags, "--output_dir", folder]
        path = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        with open(os.path.join(folder, "log.jsonl"), encoding="utf-8") as file:
            entries = [json.loads(line) for line in file]
    # The first one holds the start of the loader and the first allocations.
    return statistics.median(entry["train/posts_per_second"] for entry in entries[1:])


def spread(values):
    """Median, least and greatest."""
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def main():
    """Run in turns, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="file for the results")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="of each run; at least 20")
    arguments, flags = parser.parse_known_args()
    if arguments.repetitions < 1 or arguments.steps < 20:
        parser.error(f"--repetitions must be at least 1, --steps 20, got {arguments.repetitions}, {arguments.steps}")
    rows = []
    for repetition in range(arguments.repetitions):
        load = os.getloadavg()[0]
        # Whoever is first may find the machine cooler or a cache colder.
        order = (1, 2) if repetition % 2 == 0 else (2, 1)
        found = {processes: throughput(processes, arguments.steps, flags) for processes in order}
        rows.append({"one": found[1], "two": found[2], "efficiency": found[2] / (2 * found[1]), "load_before": load})
        print(f"one {found[1]:.0f}, two {found[2]:.0f} posts/s, efficiency {rows[-1]['efficiency']:.3f}", flush=True)
    summary = {name: spread([row[name] for row in rows]) for name in ("one", "two", "efficiency")}
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    with open(arguments.json, "w", encoding="utf-8") as file:
        result = {"steps": arguments.steps, "flags": flags, **machine, "summary": summary, "repetitions": rows}
        json.dump(result, file, indent=1)
    median, least, greatest = summary["efficiency"].values()
    verdict = "at least" if median >= TARGET else "BELOW"
    print(f"efficiency {median:.3f} ({least:.3f} to {greatest:.3f}), {verdict} {TARGET}")


if __name__ == "__main__":
    main()
