"""Speed and memory against one unit U, the forward pass of the bare encoders, in one run; a target for each row.

    python benchmarks/speed.py --json benchmarks/results/speed.json --data MNRE --model FOLDER --tokenizer NAME
    python benchmarks/speed.py --json FILE --only infer_fp32 labels_1000    # the other rows of FILE stay
    python benchmarks/speed.py --json FILE --summary

Each row is its own process, in which it takes turns with U, so that neighbours on the machine and the setting of
the memory are the same for both; reported are medians of seconds and of the quotients, after one repetition that does
not count, and the process's peak of resident memory. MNRE is the folder of its text files, FOLDER a trained model
(examples/train.py with the recipe mgvmoe_small.yaml), NAME a tokenizer of BERT's word pieces; the rows that need them
say so. `--threads` sets torch's threads. FILE is {key: {seconds, units, peak_gib, target, met, ...}}. Sizes of the
rows: speed_rows.py.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

import torch
import transformers
from speed_rows import ROWS, measure
from speed_rows import __doc__ as SIZES

from modeling_mgvmoe.evaluation.report import markdown_table


def in_a_process(key, flags):
    """What a row found, or why it found nothing."""
    command = [sys.executable, os.path.abspath(__file__), "--row", key, "--repetitions", str(flags.repetitions)]
    for name in ("data", "model", "tokenizer", "threads"):
        if getattr(flags, name) is not None:
            command += [f"--{name}", str(getattr(flags, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def finished(key, found, repetitions, gflops):
    """A row of the file."""
    row = ROWS[key]
    if "error" in found:
        return {"seconds": None, "units": None, "peak_gib": None, "target": row.target, "met": False, **found}
    seconds = statistics.median(found["seconds"]) if found["seconds"] else None
    unit = statistics.median(found["u"]) if "u" in found else None
    measured = found["peak_gib"] if key == "peak_train_fp32" else found.get("measured", seconds)
    met = None if row.target is None else measured <= row.target
    if key == "infer_best":
        met = met and found.get("agreement", 0) >= 0.99
    return {
        "seconds": seconds, "units": found.get("measured") if unit else None, "peak_gib": found["peak_gib"],
        "target": row.target, "met": met, "measured": measured, "unit": row.unit, "u": unit,
        "least": min(found["seconds"], default=None), "greatest": max(found["seconds"], default=None),
        "repetitions": repetitions, "threads": torch.get_num_threads(), "gflops": gflops,
        **{name: found[name] for name in ("note", "agreement") if name in found},
    }  # fmt: skip


def shown(key, row):
    """A line of the table."""
    if "error" in row:
        return [key, ROWS[key].title, *["-"] * 6, "NO", row["error"]]
    number = lambda value: "" if value is None else f"{value:.3g}"  # noqa: E731
    spread = "" if row["least"] is None else f"{number(row['least'])} to {number(row['greatest'])}"
    target = "reported" if row["target"] is None else f"<= {row['target']:.3g} {row['unit']}"
    verdict = "" if row["met"] is None else "yes" if row["met"] else "NO"
    measured = f"{number(row['measured'])} {row['unit']}"
    return [key, ROWS[key].title, number(row["seconds"]), spread, number(row["u"]), measured, target,
            f"{row['peak_gib']:.2f}", verdict, row.get("note", "")]  # fmt: skip


def table(rows):
    """What SPEED.md shows."""
    heads = [
        "key",
        "what",
        "seconds",
        "least to greatest",
        "U, seconds",
        "measured",
        "target",
        "peak GiB",
        "met",
        "note",
    ]
    return markdown_table(heads, [shown(key, row) for key, row in rows.items()])


def main():
    """All rows, a table, and the file after each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--only", nargs="+", choices=sorted(ROWS), metavar="KEY", help=", ".join(ROWS))
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--data", help="folder of MNRE's text files")
    parser.add_argument("--model", help="folder of a trained model, for the agreement of infer_best")
    parser.add_argument("--tokenizer", help="name or folder, for the lengths of train_real_bf16")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--summary", action="store_true", help="print the table of FILE and run nothing")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.repetitions < 1:
        parser.error(f"--repetitions must be at least 1, got {flags.repetitions}")
    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    if flags.row:
        measure(flags.row, flags)
        return
    if not flags.json:
        parser.error("--json is needed")
    keys, rows = flags.only or list(ROWS), {}
    if flags.summary:
        with open(flags.json, encoding="utf-8") as file:
            print(table(json.load(file)))
        return
    if flags.only and os.path.exists(flags.json):
        with open(flags.json, encoding="utf-8") as file:
            rows = json.load(file)
    ceiling = in_a_process("ceiling", flags)
    if "error" in ceiling:
        raise SystemExit(ceiling["error"])
    for key in keys:
        rows[key] = finished(key, in_a_process(key, flags), flags.repetitions, ceiling["gflops"])
        print(" ".join(shown(key, rows[key])), flush=True)
        with open(flags.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    print(f"\n{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, transformers "
          f"{transformers.__version__}\n\n{SIZES}\n{table(rows)}")  # fmt: skip


if __name__ == "__main__":
    main()
