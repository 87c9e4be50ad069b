"""Two processes of one thread against one process of one thread, the same work per process: posts a second.

    python benchmarks/scaling.py --json benchmarks/results/scaling.json [--repetitions 5] [--steps 100]

Both train with examples/train.py and the sketchbook recipe, the two under torchrun with batches of the same size
each. They take turns with two processes of the first kind that run at the same time and know nothing of each other,
whose efficiency is the bound that the machine itself sets. Throughput is that of the run's own log, validation and
start left out: a repetition's is the median over the entries of the log but the first. Efficiency is that of two
processes over twice that of one, per repetition. The machine must be idle and have two cores: what else runs takes
from the two processes and not from the one. Any other flag is one of examples/train.py.
"""

import argparse
import contextlib
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
    with started(processes, steps, flags) as wait:
        return wait()


def independent(steps, flags):
    """Posts a second of two processes together that know nothing of each other: what the machine has."""
    with started(1, steps, flags) as first, started(1, steps, flags) as second:
        return first() + second()


@contextlib.contextmanager
def started(processes, steps, flags):
    """A training run that has been started; what it yields waits for it and returns its posts a second."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *(launcher if processes > 1 else []), os.path.join(ROOT, "examples", "train.py")]
        command += ["--config", os.path.join(ROOT, "configuration", "recipes", "sketchbook.yaml")]
        command += ["--max_train_steps", str(steps), "--eval_steps", str(steps), "--logging_steps", str(steps // 10)]
        command += ["--posts_per_class", "10", "--eval_posts_per_class", "1", "--num_threads", "1"]
        command += [*flags, "--output_dir", folder]
        path = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": path}
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:

            def wait():
                _, errors = run.communicate()
                if run.returncode:
                    raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode()[-3000:]}")
                with open(os.path.join(folder, "log.jsonl"), encoding="utf-8") as file:
                    entries = [json.loads(line) for line in file]
                # The first one holds the start of the loader and the first allocations.
                return statistics.median(entry["train/posts_per_second"] for entry in entries[1:])

            try:
                yield wait
            finally:
                run.kill()


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
        runs = {
            "one": lambda: throughput(1, arguments.steps, flags),
            "two": lambda: throughput(2, arguments.steps, flags),
            "two_independent": lambda: independent(arguments.steps, flags),
        }
        found = {name: runs[name]() for name in (list(runs) if repetition % 2 == 0 else reversed(runs))}
        shares = {"efficiency": found["two"], "bound": found["two_independent"]}
        rows.append(
            {**found, **{name: value / (2 * found["one"]) for name, value in shares.items()}, "load_before": load}
        )
        print(", ".join(f"{name} {value:.3g}" for name, value in rows[-1].items()), flush=True)
    summary = {name: spread([row[name] for row in rows]) for name in rows[0] if name != "load_before"}
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    with open(arguments.json, "w", encoding="utf-8") as file:
        result = {"steps": arguments.steps, "flags": flags, **machine, "summary": summary, "repetitions": rows}
        json.dump(result, file, indent=1)
    median, least, greatest = summary["efficiency"].values()
    verdict = "at least" if median >= TARGET else "BELOW"
    print(f"efficiency {median:.3f} ({least:.3f} to {greatest:.3f}), {verdict} {TARGET}; bound of the machine "
          f"{summary['bound']['median']:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
