"""Does a score depend on which mention is the head? A relation against its inverse, each pair also turned round.

    python benchmarks/direction.py --data DIR --format fewrel --split-seeds 0 1 2 --json FILE

Posts of relations that have an inverse in `configuration/labels/` and whose ends may be of one type, so that types
cannot tell head from tail. Candidates are the relation and its inverse, and each pair is asked about twice, once
turned round, where the inverse is right: balanced accuracy, chance .5. Each `--split-seeds` draws half of these
relations to train on (with all others that have an inverse), the other half is unseen; of a seen relation a quarter of
the texts is held out. Labels have roles, which the model reads as types: `head_role` and `tail_role` of the label
file, "father or mother" and "son or daughter" for "parent of"; with `--roles name` what follows from the names alone,
"parent of the other" and "child of the other".

Rows are {format, split, train_seed, model, roles, relations, relation, n, balanced_accuracy, seconds}; `relations` is
"seen", "unseen", or "all" for what is not trained here: the encoder alone and `--model`. Their means are printed.
"""

import argparse
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from comparison import fewer_posts
from release import untrained
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from modeling_mgvmoe.data.crossre import crossre_files, read_crossre
from modeling_mgvmoe.data.encoding import encode_splits
from modeling_mgvmoe.data.fewrel import fewrel_files, read_fewrel
from modeling_mgvmoe.data.label_sets import LabelInfo, read_label_set
from modeling_mgvmoe.data.mnre import mnre_files, read_mnre
from modeling_mgvmoe.data.zero_shot_data import ZeroShotData
from modeling_mgvmoe.evaluation.report import markdown_table
from modeling_mgvmoe.inference.predict import predict_labels
from modeling_mgvmoe.modeling_mgvmoe import MGVMoEForZeroShotIE
from modeling_mgvmoe.processing_mgvmoe import MGVMoEProcessor
from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.loop import train

LABELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "configuration", "labels")
FORMATS = ("mnre", "fewrel", "crossre")
# The parts of FewRel whose relations have words of their own, and the label file of each.
FEWREL = {"wiki": "fewrel", "nyt": "fewrel", "semeval": "semeval"}
# The whole of a post says nothing of which mention is first.
DIRECTED = {"mention_weight": 0.0, "type_score_coef": 2.0, "type_loss_coef": 0.0}

ROLES = ("words", "name")

Posts = dict[LabelInfo, list[dict[str, Any]]]


def read_posts(format_: str, folder: str) -> tuple[Posts, set[str]]:
    """Posts by relation, of relations that have an inverse and are not symmetric; and the names of those judged.

    Of two relations that are each other's inverse, as SemEval's have them, there is one, with the posts of both.
    """
    if format_ == "fewrel":
        parts = [(labels, read_fewrel(fewrel_files(folder, name))[0]) for name, labels in FEWREL.items()]
    elif format_ == "mnre":
        parts = [("mnre", read_mnre(mnre_files(folder))[0])]
    else:
        parts = [("crossre", read_crossre(crossre_files(folder), on_bad_span="skip")["relation"][0])]
    found: Posts = {}
    judged = set()
    for labels, posts in parts:
        label_set = read_label_set(os.path.join(LABELS, f"{labels}.json"))
        for post in posts:
            info = label_set.classes.get(post["label"])
            if info is None or not info.inverse or info.inverse == info.name or post["label"] in label_set.left_out:
                continue
            twin = next((one for one in found if (one.name, one.inverse) == (info.inverse, info.name)), None)
            if twin is not None:
                post, info = {**post, "mentions": post["mentions"][::-1]}, twin
            found.setdefault(info, []).append(post)
            if not info.head_types or set(info.head_types) & set(info.tail_types):
                judged.add(info.name)
    return found, judged


def both_ways(info: LabelInfo, posts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each post with the relation, and turned round with the inverse; the two compete with nothing else."""
    group = {"dataset": info.name}
    return [
        {**post, **group, "id": f"{post['id']}{end}", "label": label, "mentions": list(post["mentions"])[::step]}
        for post in posts
        for end, label, step in (("", info.name, 1), ("-turned", info.inverse, -1))
    ]


def roles_of(info: LabelInfo, kind: str = "words") -> dict[str, tuple[str, ...]]:
    """Texts of the roles of head and tail, each under the name that the relation has when read from that end.

    Raises:
        ValueError: the relation has no roles in words.
    """
    if kind == "name":
        return {name: (f"{name} the other",) for name in (info.name, info.inverse)}
    if not info.head_role:
        raise ValueError(f"head_role: the relation {info.name!r} has none; --roles name takes what its name says")
    return {info.name: info.head_role, info.inverse: info.tail_role}


def directed_data(
    parts: Mapping[str, Mapping[LabelInfo, Sequence[Mapping[str, Any]]]], kind: str = "words"
) -> ZeroShotData:
    """Posts of each split, both ways round; labels have roles for types.

    Args:
        parts: for "train", "validation" and "test" the posts of each relation.
        kind: of the roles, of [`ROLES`].
    """
    relations = {info: None for own in parts.values() for info in own}
    roles = {name: texts for info in relations for name, texts in roles_of(info, kind).items()}
    types = {info.name: ((info.name,), (info.inverse,)) for info in relations}
    types |= {info.inverse: ((info.inverse,), (info.name,)) for info in relations}
    return ZeroShotData(
        posts={split: [post for info, posts in own.items() for post in both_ways(info, posts)]
               for split, own in parts.items()},
        labels={split: {info.name: (info.name, info.inverse) for info in own} for split, own in parts.items()},
        label_types=types,
        type_descriptions=roles,
        unseen=False,
    )  # fmt: skip


def divide(posts: Sequence[dict[str, Any]], per_relation: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Posts to train on and posts held out, by a hash of the text: no text is in both."""
    chosen = [dict(post) for post in fewer_posts(posts, per_relation)]
    held = [int(hashlib.sha256(post["text"].encode()).hexdigest(), 16) % 4 == 0 for post in chosen]
    return ([post for post, out in zip(chosen, held, strict=True) if not out],
            [post for post, out in zip(chosen, held, strict=True) if out])  # fmt: skip


def measured(
    model: MGVMoEForZeroShotIE,
    processor: MGVMoEProcessor,
    posts: Mapping[LabelInfo, Sequence[dict[str, Any]]],
    roles: str = "words",
) -> dict[str, tuple[float, int]]:
    """Balanced accuracy and number of pairs of each relation."""
    tested = {info: own for info, own in posts.items() if own}
    data = directed_data({"train": {}, "validation": {}, "test": tested}, roles)
    if not data.posts["test"]:
        return {}
    encoded, collators = encode_splits(data, processor, ("test",), with_types=True)
    answers = predict_labels(model.eval(), encoded["test"], collators["test"])
    right: dict[str, dict[str, list[bool]]] = {}
    for post, answer in zip(encoded["test"], answers, strict=True):
        right.setdefault(post["task"], {}).setdefault(post["label"], []).append(answer == post["label"])
    return {
        name: (statistics.mean(statistics.mean(own) for own in ways.values()), max(map(len, ways.values())))
        for name, ways in right.items()
    }


def trained(data: ZeroShotData, flags: argparse.Namespace, seed: int) -> tuple[MGVMoEForZeroShotIE, MGVMoEProcessor]:
    """Residual experts over the frozen encoder that learned the direction of some relations."""
    model, processor = untrained(seed, flags.text_model, **DIRECTED, expert_rank=flags.expert_rank)
    with tempfile.TemporaryDirectory() as folder:
        train(model, processor, data, TrainingArguments(
            output_dir=folder, seed=seed, max_train_steps=flags.steps, per_device_train_batch_size=64,
            learning_rate=1e-3, weight_decay=0.01, max_grad_norm=0.0, eval_steps=flags.steps, keep_best=False,
            mixed_precision="no"))  # fmt: skip
    return model, processor


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means over relations, splits and seeds, by model and kind of relation."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["format"], row["model"], row["roles"], row["relations"]), []).append(row)
    lines = []
    for key, own in groups.items():
        mean = statistics.mean(row["balanced_accuracy"] for row in own)
        lines.append([*key, str(len({row["relation"] for row in own})), f"{mean:.3f}"])
    return markdown_table(["format", "model", "roles", "relations", "number of them", "balanced accuracy"], lines)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, write FILE and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--split-seeds", type=int, nargs="*", default=[0], help="(default 0); none: train nothing")
    parser.add_argument("--train-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", required=True, metavar="FILE")
    parser.add_argument("--model", metavar="DIR", help="a saved folder, measured as it is beside the others")
    parser.add_argument("--text_model", help="default: all-MiniLM-L6-v2, from an installed package or the Hub")
    parser.add_argument("--posts_per_relation", type=int, default=600)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--expert_rank", type=int, default=48)
    parser.add_argument("--roles", choices=ROLES, default="words", help="(default words)")
    parser.add_argument("--num_threads", type=int, default=2)
    flags = parser.parse_args(argv)
    disable_progress_bar()
    set_verbosity_error()
    torch.set_num_threads(flags.num_threads)
    posts, judged = read_posts(flags.format, flags.data)
    parts = {info: divide(own, flags.posts_per_relation) for info, own in posts.items()}
    rows: list[dict[str, Any]] = []

    def add(model: Any, name: str, kind: str, chosen: Posts, started: float, **more: Any) -> None:
        seconds = round(time.time() - started, 1)
        for relation, (accuracy, number) in measured(*model, chosen, flags.roles).items():
            rows.append({"format": flags.format, "split": None, "train_seed": None, **more, "model": name,
                         "roles": flags.roles, "relations": kind, "relation": relation, "n": number,
                         "balanced_accuracy": accuracy, "seconds": seconds})  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)

    everything = {info: held for info, (_, held) in parts.items() if info.name in judged}
    add(untrained(0, flags.text_model, **DIRECTED), "untrained", "all", everything, time.time())
    if flags.model:
        own = MGVMoEForZeroShotIE.from_pretrained(flags.model), MGVMoEProcessor.from_pretrained(flags.model)
        add(own, flags.model, "all", everything, time.time())
    for split in flags.split_seeds:
        names = sorted(judged)
        random.Random(split).shuffle(names)
        unseen = set(names[: len(names) // 2])
        learned = {info: own for info, (own, _) in parts.items() if info.name not in unseen and own}
        watched = {info: held[:2] for info, (_, held) in parts.items() if info in learned and held}
        for seed in flags.train_seeds:
            started = time.time()
            data = directed_data({"train": learned, "validation": watched, "test": {}}, flags.roles)
            model = trained(data, flags, seed)
            for kind in ("seen", "unseen"):
                chosen = {info: [*held] if kind == "seen" else [*own, *held] for info, (own, held) in parts.items()
                          if info.name in judged and (info.name in unseen) == (kind == "unseen")}  # fmt: skip
                add(model, "residual experts", kind, chosen, started, split=split, train_seed=seed)
    with open(flags.json, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
