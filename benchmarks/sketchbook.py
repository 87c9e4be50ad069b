"""Unseen-class accuracy on the sketchbook over several seeds, for one or more variants of the recipe.

    python benchmarks/sketchbook.py --seeds 0 1 2 3 4 --json benchmarks/results/sketchbook.json
    python benchmarks/sketchbook.py --variants '{"fusion": "additive"}' '{"adversary": "power"}' --json FILE

A seed sets the classes held out, the posts, the initial weights and the order. Rows that FILE holds already are kept
and not run again, so an interrupted run resumes where it stopped.
"""

import argparse
import json
import os
import statistics
import tempfile
import time

import torch
from transformers.utils.logging import disable_progress_bar

from modeling_mgvmoe import MGVMoEForZeroShotIE
from modeling_mgvmoe.data.zero_shot_data import sketchbook_data
from modeling_mgvmoe.evaluation.report import markdown_table
from modeling_mgvmoe.inference.predict import CONDITIONS, evaluate_conditions
from modeling_mgvmoe.training.arguments import parse_arguments
from modeling_mgvmoe.training.build import build_model
from modeling_mgvmoe.training.loop import train

RECIPE = os.path.join(os.path.dirname(__file__), "..", "configuration", "recipes", "sketchbook.yaml")


def run(seed, variant, flags):
    """Train and evaluate once; returns a row of results."""
    with tempfile.TemporaryDirectory() as folder:
        model_arguments, data_arguments, arguments = parse_arguments(
            ["--config", RECIPE, "--seed", str(seed), "--dataset_seed", str(seed), "--output_dir", folder, *flags]
        )
        torch.set_num_threads(arguments.num_threads or torch.get_num_threads())
        model_arguments.model_config |= variant
        data = sketchbook_data(seed, data_arguments.posts_per_class, data_arguments.eval_posts_per_class)
        model, processor = build_model(model_arguments, data, seed)
        started = time.time()
        best = train(model, processor, data, arguments)["best"]
        seconds = time.time() - started
        model = MGVMoEForZeroShotIE.from_pretrained(os.path.join(folder, "model"))
        test = evaluate_conditions(model, processor, data.posts["test"], data.labels["test"])
    return {"variant": variant, "seed": seed, "steps": arguments.max_train_steps, "best_step": best["step"],
            "seconds": round(seconds, 1), "validation": best["validation"], "test": test}  # fmt: skip


def summary(rows):
    """Mean and standard deviation over the seeds, a line per variant."""
    lines = []
    for variant in {json.dumps(row["variant"]): None for row in rows}:
        own = [row for row in rows if json.dumps(row["variant"]) == variant]
        cells = []
        for task in ("typing", "relation"):
            for condition in CONDITIONS:
                values = [row["test"][condition][task]["accuracy"] for row in own]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
        lines.append([variant, str(len(own)), *cells])
    heads = [f"{task}: {condition}" for task in ("typing", "relation") for condition in CONDITIONS]
    return markdown_table(["variant", "seeds", *heads], lines)


def main():
    """Run what is missing in the file, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", type=json.loads, nargs="+", default=[{}], help="JSON: fields of MGVMoEConfig")
    parser.add_argument("--json", required=True, help="file of rows, gone on with if it exists")
    arguments, flags = parser.parse_known_args()
    disable_progress_bar()
    rows = []
    if os.path.exists(arguments.json):
        with open(arguments.json, encoding="utf-8") as file:
            rows = json.load(file)
    done = {(json.dumps(row["variant"]), row["seed"]) for row in rows}
    for variant in arguments.variants:
        for seed in arguments.seeds:
            if (json.dumps(variant), seed) in done:
                continue
            rows.append(run(seed, variant, flags))
            with open(arguments.json + ".part", "w", encoding="utf-8") as file:
                json.dump(rows, file, indent=1)
            os.replace(arguments.json + ".part", arguments.json)
            print(summary(rows), flush=True)
    print(summary(rows))


if __name__ == "__main__":
    main()
