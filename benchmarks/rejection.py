"""None of these on MNRE: how well posts without a relation are told from posts of unseen relations.

    for s in 0 1 2; do python examples/prepare_data.py mnre --data MNRE --split mnre:seed-$s \
        --seen-test-share 0.1 --output_dir runs/mnre$s; done
    python benchmarks/rejection.py --json FILE --dataset 'runs/mnre{seed}' --similarity_model NAME --seeds 0 1 2 \
        --models 'plain=runs/plain{seed}/model'

Models are trained by examples/train.py with the recipe mgvmoe_small.yaml. Half of the posts without a class, by a
hash of the id, fit the thresholds together with the posts of validation relations; the other half and the posts of the
unseen test relations are tested on. A row for each seed, model and measure: "probability", the
greatest probability; "logit", the greatest logit; "energy", the logarithm of the sum of the exponentials of the
logits. Of the label similarity, which nothing is trained for, "logit" is 20 times the greatest cosine.
"""

import argparse
import json
import statistics
import sys

import numpy as np
from transformers.utils.logging import disable_progress_bar

from modeling_mgvmoe.data.encoding import TypesOfLabels
from modeling_mgvmoe.data.evaluation_data import load_evaluation_data, without_images
from modeling_mgvmoe.evaluation.protocols import halves_by_id
from modeling_mgvmoe.evaluation.report import markdown_table
from modeling_mgvmoe.evaluation.runs import load_model
from modeling_mgvmoe.evaluation.similarity import SimilarityScorer, embed_with_encoder
from modeling_mgvmoe.inference.metrics import (
    confidence,
    fit_rejection_threshold,
    macro_f1,
    rejection_auroc,
    rejection_scores,
)
from modeling_mgvmoe.inference.predict import ModelScorer

NUMBERS = ("auroc", "f1", "precision", "recall", "accuracy")


def measures(logits):
    """How much each post speaks for some candidate, in three ways."""
    best = logits.max(-1)
    energy = best + np.log(np.exp(logits - best[:, None]).sum(-1))
    return {**{name: confidence(logits, name) for name in ("probability", "logit")}, "energy": energy}


def rows_of(scorer, data, shared):
    """A row for each measure."""
    fitting, testing = halves_by_id(data.posts["none"])
    parts = {"fit": (data.posts["validation"], fitting), "test": (data.posts["test"], testing)}
    labels = {"fit": data.labels["validation"]["relation"], "test": data.labels["test"]["relation"]}
    found, known = {}, {}
    for part, kinds in parts.items():
        logits = [scorer(posts, labels[part]) for posts in kinds]
        found[part] = measures(np.concatenate(logits))
        known[part] = np.repeat([True, False], [len(one) for one in logits])
        if part == "test":
            answers = [labels[part][column] for column in logits[0].argmax(-1)]
    references = [post["label"] for post in without_images(data.posts["test"])]
    shared = {**shared, "known macro-F1": macro_f1(answers, references, labels["test"])}
    rows = []
    for measure, values in found["test"].items():
        threshold = fit_rejection_threshold(found["fit"][measure], known["fit"])
        scores = rejection_scores(values, known["test"], threshold)
        auroc = rejection_auroc(values, known["test"])
        rows.append({**shared, "measure": measure, "auroc": auroc, **scores, "threshold": threshold})
    return rows


def measure_seed(flags, seed):
    """Rows of one split: similarity and every model."""
    data = load_evaluation_data(flags.dataset.replace("{seed}", str(seed)), ("none",))
    embed = embed_with_encoder(flags.similarity_model)
    rows = []
    for name, texts in (("label names", None), ("label descriptions", data.label_descriptions)):
        rows += rows_of(SimilarityScorer(embed, texts), data, {"seed": seed, "model": f"similarity of {name}"})
    for name, folder in flags.models.items():
        model, processor = load_model(folder.replace("{seed}", str(seed)), "cpu")
        types = TypesOfLabels(data.label_types, data.type_descriptions)
        scorer = ModelScorer(model, processor, data.label_descriptions, types=types, progress=True)
        rows += rows_of(scorer, data, {"seed": seed, "model": name})
    return rows


def table(rows):
    """Means over the seeds, and the AUROC of each."""
    seeds = sorted({row["seed"] for row in rows})
    lines = []
    for model, measure in dict.fromkeys((row["model"], row["measure"]) for row in rows):
        own = {row["seed"]: row for row in rows if (row["model"], row["measure"]) == (model, measure)}
        means = [f"{statistics.mean(row[name] for row in own.values()):.3f}" for name in (*NUMBERS, "known macro-F1")]
        lines.append([model, measure, *means, *[f"{own[seed]['auroc']:.3f}" for seed in seeds if seed in own]])
    heads = ["model", "rejected by", "AUROC", *NUMBERS[1:], "macro-F1 of known", *[f"AUROC, seed {s}" for s in seeds]]
    return markdown_table(heads, lines)


def main(argv=None):
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="file for the rows")
    parser.add_argument("--dataset", help="a prepared folder with posts without a class")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--similarity_model", help="name or folder of an untrained text encoder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--summary", action="store_true", help="print the table of FILE and run nothing")
    flags = parser.parse_args(argv)
    if flags.summary:
        with open(flags.json, encoding="utf-8") as file:
            rows = json.load(file)
        print(table(rows))
        return rows
    if not flags.dataset or not flags.similarity_model or not all("=" in pair for pair in flags.models):
        parser.error("--dataset, --similarity_model and --models NAME=FOLDER ...: needed")
    flags.models = dict(pair.split("=", 1) for pair in flags.models)
    disable_progress_bar()
    rows = [row for seed in flags.seeds for row in measure_seed(flags, seed)]
    with open(flags.json, "w", encoding="utf-8") as file:
        json.dump(rows, file, indent=1)
    print(table(rows))
    return rows


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
