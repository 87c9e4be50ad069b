"""Train the weights that ship, `mgvmoe-small`: residual experts over a frozen all-MiniLM-L6-v2.

    python benchmarks/release.py --crossner DIR --fewrel DIR --output configuration/models/mgvmoe-small
    python benchmarks/release.py --check configuration/models/mgvmoe-small --mnre DIR --twitter DIR --json FILE
    python benchmarks/release.py --crossner DIR --fewrel DIR --mnre DIR --twitter DIR --output FOLDER

The first line trains. DIR are the folders of CrossNER (a folder for each domain) and of FewRel's files: both are MIT,
so that the weights may be passed on; no tweet is read. The same command on the same kind of machine gives the same
bits. The second line measures a folder, or with `untrained` the encoder alone, on datasets of tweets: the 7 test
relations of MNRE by split seed, and 44 types of Twitter10000, with and without the images' captions, each with all its
classes unseen. The third line trains on the tweets, too, with the images' captions, for those who have the data: each
dataset by itself. What such weights are worth on a dataset that they did not see says `quality.py --task
leave_one_out`.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from pools import DOMAINS, LABELS, read_pools, seen_data
from transformers import AutoTokenizer, ViTConfig, ViTImageProcessorPil, ViTModel, set_seed
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from modeling_mgvmoe.data.encoding import PostCollator, TypesOfLabels, encode_posts
from modeling_mgvmoe.data.feature_cache import cache_post_states
from modeling_mgvmoe.data.label_sets import read_label_set
from modeling_mgvmoe.data.mnre import mnre_data, mnre_files, read_mnre
from modeling_mgvmoe.data.schema import task_of
from modeling_mgvmoe.data.splits import SPLITS
from modeling_mgvmoe.data.zero_shot_data import ZeroShotData, combine_data
from modeling_mgvmoe.evaluation.report import markdown_table
from modeling_mgvmoe.inference.metrics import expected_calibration_error, fit_calibration
from modeling_mgvmoe.inference.predict import outputs_in_batches, score_predictions
from modeling_mgvmoe.loading import find_text_base
from modeling_mgvmoe.modeling_mgvmoe import MGVMoEForZeroShotIE
from modeling_mgvmoe.processing_mgvmoe import MGVMoEProcessor
from modeling_mgvmoe.sample_graph import propagate_labels
from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.loop import train

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.join(HERE, "..", "modeling_mgvmoe")
BASE = {
    "name": "sentence-transformers/all-MiniLM-L6-v2",
    "revision": "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
}
MODEL = {
    "expert_type": "residual",
    "num_experts": 8,
    "expert_rank": 16,
    "expert_prior_std": 0.1,
    "score": "similarity",
    "mention_weight": 0.7,
    "type_score_coef": 2.0,
    "type_loss_coef": 0.5,
    "objective": "cross_entropy",
    "sample_candidate_texts": False,
    "kl_loss_coef": 1.0,
    "router_entropy_loss_coef": 0.0,
    "alignment_loss_coef": 0.0,
    "consistency_loss_coef": 0.0,
    "adversary": "none",
    "freeze_text": True,
    "text_base": BASE,
}

FROZEN = {"learning_rate": 1e-3, "max_grad_norm": 0.0, "mixed_precision": "no"}
# The encoder's rates and layers are those of the recipe mgvmoe_small.yaml.
FINE_TUNED = {"learning_rate": 2e-5, "head_learning_rate": 1e-3, "freeze_text_layers": 3, "warmup_ratio": 0.1}


def training_data(folders: Mapping[str, str], posts_per_class: int, by_dataset: bool = False) -> ZeroShotData:
    """All classes of some datasets; nothing is held out, for other datasets judge.

    Args:
        folders: by name of `pools.READERS`; what ships has CrossNER's and FewRel's.
        posts_per_class: the most that are taken of a class.
        by_dataset: each domain of CrossNER by itself, and each dataset drawn alike; else a mention competes among the
            types of all domains, and each class is drawn alike. What ships is an average of both (LOG.md).
    """
    pools = read_pools(folders)
    if by_dataset:
        return combine_data({name: seen_data(pool, posts_per_class) for name, pool in pools.items()})
    domains = [pools.pop(f"crossner_{domain}") for domain in DOMAINS]
    types = domains[0][0], [post for _, posts in domains for post in posts]
    return by_task([seen_data(pool, posts_per_class) for pool in (types, *pools.values())])


def by_task(parts: Iterable[ZeroShotData]) -> ZeroShotData:
    """Datasets that share no task, as one: every class of a task is a candidate."""
    parts = list(parts)
    posts = {split: [post for data in parts for post in data.posts[split]] for split in SPLITS}
    names = {task: own for data in parts for task, own in data.labels["train"].items()}
    words = ("label_descriptions", "label_types", "type_descriptions")
    merged = {name: {key: value for data in parts for key, value in getattr(data, name).items()} for name in words}
    return ZeroShotData(posts=posts, labels=dict.fromkeys(SPLITS, names), unseen=False, **merged)


def blind_tower(folder: str) -> str:
    """A vision encoder of a few KB with random weights: these weights read images as words only."""
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16,
                       image_size=8, patch_size=8)  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def untrained(
    seed: int = 0, text_model: str | None = None, **changes: object
) -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    """The frozen encoder with experts that move nothing yet, and its processor; `changes` of the configuration."""
    set_seed(seed)
    text, revision = (text_model, None) if text_model else find_text_base(BASE)
    with tempfile.TemporaryDirectory() as folder:
        model = MGVMoEForZeroShotIE.from_text_vision_pretrained(
            text, blind_tower(folder), text_kwargs={"revision": revision} if revision else None, **{**MODEL, **changes}
        )
    tokenizer = AutoTokenizer.from_pretrained(text, **({"revision": revision} if revision else {}))
    images = ViTImageProcessorPil(size={"height": 8, "width": 8}, do_convert_rgb=True)
    return model, MGVMoEProcessor(images, tokenizer, max_length=96, mention_style="prefix")


def save(model: MGVMoEForZeroShotIE, processor: MGVMoEProcessor, output: str) -> None:
    """The trained parts, and links to the code, so that the folder runs alone in a clone."""
    # No folder of this machine in what ships.
    model.config.text_config._name_or_path, model.config.vision_config._name_or_path = BASE["name"], ""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, trained_only=model.config.freeze_text)
        processor.save_pretrained(folder)
        os.makedirs(output, exist_ok=True)
        for name in sorted(os.listdir(folder)):
            target = os.path.join(output, name)
            if os.path.lexists(target):
                os.remove(target)
            if name.endswith(".py"):
                os.symlink(os.path.relpath(os.path.join(PACKAGE, name), output), target)
            else:
                shutil.copyfile(os.path.join(folder, name), target)


def trained(flags: argparse.Namespace, data: ZeroShotData) -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    """The model after `flags.steps` on the data, from the weights of `flags.seed`."""
    print({task: len(names) for task, names in data.labels["train"].items()}, len(data.posts["train"]), "posts")
    model, processor = untrained(flags.seed, flags.text_model, freeze_text=not flags.fine_tune)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=os.path.join(folder, "run"),
            seed=flags.seed,
            max_train_steps=flags.steps,
            per_device_train_batch_size=flags.batch_size,
            weight_decay=0.01,
            eval_steps=flags.steps,
            keep_best=False,
            **(FINE_TUNED if flags.fine_tune else FROZEN),
        )
        train(model, processor, data, arguments)
    return model.eval(), processor


@torch.no_grad()
def average(model: MGVMoEForZeroShotIE, other: MGVMoEForZeroShotIE, share: float) -> None:
    """Mix into a model's trained weights, which keep `share`, those of another that began with the same weights."""
    for own, others in zip(model.parameters(), other.parameters(), strict=True):
        if own.requires_grad:
            own.lerp_(others, 1 - share)


def release(flags: argparse.Namespace) -> None:
    """Train both forms of the data, average them and save."""
    started = time.time()
    torch.set_num_threads(flags.num_threads)
    names = {"crossner": flags.crossner, "fewrel": flags.fewrel, "mnre": flags.mnre, "twitter10000": flags.twitter}
    folders = {name: folder for name, folder in names.items() if folder is not None}
    # Tweets have tasks that others have, too, and must not share a list with them.
    share = flags.one_list_share if len(folders) == 2 else 0.0
    data = {by_dataset: training_data(folders, flags.posts_per_class, by_dataset)
            for by_dataset, own in ((False, share), (True, 1 - share)) if own}  # fmt: skip
    (model, processor), *more = [trained(flags, own) for own in data.values()]
    for other, _ in more:
        average(model, other, share)
    model.config.score_calibration = calibration_of(model, processor, next(iter(data.values())))
    save(model, processor, flags.output)
    print(f"{flags.output}: {time.time() - started:.0f} s with reading the posts")


def scored(
    model: MGVMoEForZeroShotIE, processor: MGVMoEProcessor, data: ZeroShotData, split: str
) -> tuple[list[dict], torch.Tensor, torch.Tensor, Sequence[str]]:
    """The posts of a split, encoded; their logits (posts, labels), their nodes, and the labels of the columns."""
    types = TypesOfLabels(data.label_types, data.type_descriptions)
    collator = PostCollator(processor, data.labels[split], data.label_descriptions, types=types)
    posts = encode_posts(data.posts[split], processor)
    cache_post_states(model, posts, collator)
    logits, nodes = [None] * len(posts), [None] * len(posts)
    for rows, output in outputs_in_batches(model, posts, collator):
        for row, own, node in zip(rows, output.logits, output.mention_embeds, strict=True):
            logits[row], nodes[row] = own, node
    return posts, torch.stack(logits).double(), torch.stack(nodes), collator.candidate_labels


def measured(model: MGVMoEForZeroShotIE, processor: MGVMoEProcessor, data: ZeroShotData, split: str) -> dict:
    """Scores on the classes of a split, by graph at test time."""
    posts, logits, nodes, labels = scored(model, processor, data, split)
    probs = logits.softmax(-1)
    found = {"none": probs, "20 neighbors": propagate_labels(probs, nodes)}
    scores = {}
    for graph, values in found.items():
        predictions = [labels[column] for column in values.argmax(-1).tolist()]
        (scores[graph],) = score_predictions(posts, predictions, data.labels[split]).values()
    calibration = (model.config.score_calibration or {}).get(*data.labels[split])
    if calibration is not None:
        best, is_right = random_lists(logits, [labels.index(post["label"]) for post in posts])
        probabilities = 1 / (1 + np.exp(-(calibration[0] * best + calibration[1])))
        error = expected_calibration_error(probabilities, is_right)
        kept = probabilities >= 0.5
        scores["none"] |= {
            "calibration_error": error, "mean_calibrated": probabilities.mean(), "right": is_right.mean(),
            "answered_at_half": kept.mean(), "right_at_half": is_right[kept].mean(),
        }  # fmt: skip
    return scores


REPORTED = ("macro_f1", "accuracy", "n", "chance", "majority", "calibration_error", "mean_calibrated", "right",
            "answered_at_half", "right_at_half")  # fmt: skip


def random_lists(
    logits: torch.Tensor, right: Sequence[int], lists: int = 2, sizes: Sequence[int] = (3, 4, 6, 8, 10)
) -> tuple[np.ndarray, np.ndarray]:
    """Answers to lists of labels, half of them with the right one: the best logit of each, and whether it is right.

    Args:
        logits: (posts, labels); a label's does not depend on the others.
        right: column of the right label of each post.
        lists: for each post.
        sizes: of the lists; one is drawn for each.
    """
    draw, best, is_right = random.Random(0), [], []
    for row, column in zip(logits.tolist(), right, strict=True):
        others = [place for place in range(len(row)) if place != column]
        for _ in range(lists):
            own = draw.sample(others, min(draw.choice(sizes), len(others)))
            if draw.random() < 0.5:
                own[0] = column
            answer = max(own, key=row.__getitem__)
            best.append(row[answer])
            is_right.append(answer == column)
    return np.array(best), np.array(is_right)


def calibration_of(
    model: MGVMoEForZeroShotIE, processor: MGVMoEProcessor, data: ZeroShotData, posts_per_list: int = 1500
) -> dict[str, list[float]]:
    """`score_calibration` of a model, fitted on random lists of the classes that it was trained on."""
    answers: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for name, labels in data.labels["train"].items():
        own = [post for post in data.posts["train"] if (post.get("dataset") or task_of(post)) == name]
        posts = random.Random(0).sample(own, min(posts_per_list, len(own)))
        part = replace(data, posts={**data.posts, "test": posts}, labels={**data.labels, "test": {name: labels}})
        encoded, logits, _, columns = scored(model, processor, part, "test")
        found = random_lists(logits, [columns.index(post["label"]) for post in encoded])
        answers.setdefault(name.rpartition("/")[2], []).append(found)
    return {
        task: [round(number, 4) for number in fit_calibration(*map(np.concatenate, zip(*found, strict=True)))]
        for task, found in answers.items()
    }


def check(flags: argparse.Namespace) -> None:
    """Measure, write FILE and print its table."""
    torch.set_num_threads(flags.num_threads)
    if flags.check == "untrained":
        model, processor = untrained(0, flags.text_model)
    else:
        model = MGVMoEForZeroShotIE.from_pretrained(flags.check)
        processor = MGVMoEProcessor.from_pretrained(flags.check)
    rows = []

    def add(dataset: str, data: ZeroShotData, split: str, **more: object) -> None:
        for graph, scores in measured(model.eval(), processor, data, split).items():
            kept = {name: scores[name] for name in REPORTED if name in scores}
            rows.append({"model": flags.check, "dataset": dataset, "split": split, **more, "graph": graph, **kept})
            print(rows[-1], file=sys.stderr, flush=True)

    if flags.mnre:
        posts, _ = read_mnre(mnre_files(flags.mnre))
        label_set = read_label_set(os.path.join(LABELS, "mnre.json"))
        looked_at, tested, everything = set(), {}, {}
        for seed in flags.split_seeds:
            data, _ = mnre_data(posts, seed, label_set=label_set)
            for split in flags.splits:
                add("mnre", data, split, seed=seed, image_text="none")
            looked_at |= set(data.labels["validation"]["relation"])
            tested |= dict.fromkeys(data.labels["test"]["relation"])
            everything |= {post["id"]: post for post in data.posts["test"]}
        # Relations of a test that are validation relations of no seed: nothing was chosen on these.
        blind = tuple(name for name in tested if name not in looked_at)
        kept = [post for post in everything.values() if post["label"] in blind]
        # Some of them are training relations of the last seed, which plays no part here: nothing is trained.
        labels = {**data.labels, "test": {"relation": blind}}
        data = replace(data, posts={**data.posts, "test": kept}, labels=labels, unseen=False)
        add("mnre, never validated", data, "test", image_text="none")
    if flags.twitter:
        label_set, kept = read_pools({"twitter10000": flags.twitter})["twitter10000"]
        kept = label_set.in_words(kept)
        names = tuple(dict.fromkeys(post["label"] for post in kept))
        empty = dict.fromkeys(("train", "validation"), {"typing": ()})
        data = ZeroShotData(
            posts={"train": [], "validation": [], "test": kept},
            labels={**empty, "test": {"typing": names}},
            label_descriptions=label_set.texts(),
        )
        bare = replace(data, posts={**data.posts, "test": [{**post, "image_text": None} for post in kept]})
        add("twitter10000", bare, "test", image_text="none")
        add("twitter10000", data, "test", image_text="own")
    if flags.json:
        with open(flags.json, "w", encoding="utf-8") as file:
            file.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    names = ("dataset", "split", "seed", "image_text", "graph", "n", "macro_f1", "accuracy", "majority")
    cells = [[f"{row[name]:.3f}" if isinstance(row.get(name), float) else str(row.get(name, "")) for name in names]
             for row in rows]  # fmt: skip
    print(markdown_table(list(names), cells))


def main(argv: list[str] | None = None) -> None:
    """Train or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crossner", metavar="DIR")
    parser.add_argument("--fewrel", metavar="DIR")
    parser.add_argument("--output", metavar="DIR")
    parser.add_argument("--check", metavar="DIR", help='a saved folder, or "untrained"')
    parser.add_argument("--mnre", metavar="DIR")
    parser.add_argument("--twitter", metavar="DIR")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--split-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--splits", nargs="+", default=["test"], choices=["validation", "test"])
    parser.add_argument("--text_model", help=f"default: {BASE['name']}, from an installed package or the Hub")
    parser.add_argument("--posts_per_class", type=int, default=300)
    parser.add_argument(
        "--one_list_share", type=float, default=0.3, help="of the average, the weights that saw all types as one list"
    )
    parser.add_argument("--fine_tune", action="store_true", help="the encoder, too (LOG.md); whole weights are saved")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_threads", type=int, default=2)
    flags = parser.parse_args(argv)
    disable_progress_bar()
    set_verbosity_error()
    if flags.check is not None:
        check(flags)
        return
    missing = [f"--{name}" for name in ("crossner", "fewrel", "output") if getattr(flags, name) is None]
    if missing:
        parser.error(f"{', '.join(missing)}: needed to train")
    release(flags)


if __name__ == "__main__":
    main()
