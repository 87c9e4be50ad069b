"""Speed and memory against one unit U, the forward pass of the bare encoders, in one run; a target for each row.

    python benchmarks/speed.py --json benchmarks/results/speed.json --data MNRE --model FOLDER --tokenizer NAME
    python benchmarks/speed.py --json FILE --only infer_fp32 labels_1000    # the other rows of FILE stay

U is measured again before every row and after the last, and a row is divided by the mean of the two beside it, for
other work on the machine comes and goes; rows of inference take turns with it. Each measurement is a process of its
own: medians over the repetitions after one that does not count, and the process's peak of resident memory. MNRE is
the folder of its text files, FOLDER a trained model (examples/train.py with the recipe mgvmoe_small.yaml), NAME a
tokenizer of BERT's word pieces; the rows that need them say so. `--threads` sets torch's threads. FILE is {key:
{seconds, units, peak_gib, target, met}}. Sizes of the rows: speed_rows.py.
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


def finished(key, found, unit):
    """A row of the file."""
    row = ROWS[key]
    if "error" in found:
        return {"seconds": None, "units": None, "peak_gib": None, "target": row.target, "met": False, **found}
    unit = statistics.median(found["u"]) if "u" in found else unit
    seconds = statistics.median(found["seconds"]) if found["seconds"] else None
    units = seconds / unit if seconds is not None else None
    measured = found.get("measured", units if row.unit == "U" else seconds)
    if key == "peak_train_fp32":
        measured = found["peak_gib"]
    met = None if row.target is None else measured <= row.target
    if key == "infer_best":
        met = met and found.get("agreement", 0) >= 0.99
    return {
        "seconds": seconds, "units": units, "peak_gib": found["peak_gib"], "target": row.target, "met": met,
        "measured": measured, "unit": row.unit, "least": min(found["seconds"], default=None),
        "greatest": max(found["seconds"], default=None), "u": unit,
        **{name: found[name] for name in ("note", "agreement") if name in found},
    }  # fmt: skip


def shown(key, row):
    """A line of the table."""
    if "error" in row:
        return [key, ROWS[key].title, *["-"] * 5, "NO", row["error"]]
    number = lambda value: "" if value is None else f"{value:.3g}"  # noqa: E731
    spread = "" if row["least"] is None else f"{number(row['least'])} to {number(row['greatest'])}"
    target = "reported" if row["target"] is None else f"<= {row['target']:.3g} {row['unit']}"
    verdict = "" if row["met"] is None else "yes" if row["met"] else "NO"
    return [key, ROWS[key].title, number(row["seconds"]), spread, f"{number(row['measured'])} {row['unit']}", target,
            f"{row['peak_gib']:.2f}", verdict, row.get("note", "")]  # fmt: skip


def main():
    """All rows, a table, and the file after each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--only", nargs="+", choices=sorted(ROWS), metavar="KEY", help=", ".join(ROWS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--data", help="folder of MNRE's text files")
    parser.add_argument("--model", help="folder of a trained model, for the agreement of infer_best")
    parser.add_argument("--tokenizer", help="name or folder, for the lengths of train_real_bf16")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
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
    if flags.only and os.path.exists(flags.json):
        with open(flags.json, encoding="utf-8") as file:
            rows = json.load(file)
    ceiling = in_a_process("ceiling", flags)["gflops"]
    units = [statistics.median(in_a_process("U", flags)["seconds"])]
    for key in keys:
        found = in_a_process(key, flags)
        units.append(statistics.median(in_a_process("U", flags)["seconds"]))
        rows[key] = finished(key, found, (units[-2] + units[-1]) / 2)
        print(" ".join(shown(key, rows[key])), flush=True)
        with open(flags.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {torch.get_num_threads()} threads"
    print(f"\n{machine}, torch {torch.__version__}, transformers {transformers.__version__}; U {min(units):.2f} to "
          f"{max(units):.2f} s; products of matrices: float32 {ceiling['float32']:.0f}, bfloat16 "
          f"{ceiling['bfloat16']:.0f} GFLOP/s\n\n{SIZES}")  # fmt: skip
    heads = ["key", "what", "seconds", "least to greatest", "measured", "target", "peak GiB", "met", "note"]
    print(markdown_table(heads, [shown(key, row) for key, row in rows.items()]))


if __name__ == "__main__":
    main()
