"""An evaluation over seeds from what the command line says: everything behind `examples/evaluate.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.atomic_io import write_whole
from ..data.environment import machine, versions
from ..data.evaluation_data import EvaluationData, check_files, load_evaluation_data
from ..inference.metrics import TaskResult
from ..inference.model_folder import (
    check_device,
    check_dtype,
    check_folder,
    check_model_folder,
    check_output_folder,
    load_model,
)
from .protocols import PROTOCOLS, Scorer, check_unseen, evaluate_protocol
from .report import draw_confusion, protocol_report, result_as_json, seed_table, summary

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


OURS = "MG-VMoE"
PLACEHOLDER = "{seed}"


@dataclass(frozen=True)
class EvaluationArguments:
    """Arguments of an evaluation.

    Attributes:
        model: folder or Hub name of a model with its processor; "{seed}" in it is each seed.
        dataset: "sketchbook", whose seed is each seed, a prepared folder, or rows of your own; "{seed}" in it is each
            seed.
        protocol: "unseen", "seen", "generalised" or "open".
        seeds: one or more.
        output_dir: for the files; made if need be.
        similarity_model: text encoder of the label similarity, or a model of this package; "{seed}" in it is each
            seed. `None`: the text encoder of the model evaluated, which has been trained with it.
        batch_size: in posts; changes nothing but speed.
        device: "cpu", "cuda", ...; `None`: a GPU if there is one.
        max_posts: this many posts of each kind, for a quick look.
        num_neighbors: of label propagation over the posts that are scored together, see [`ModelScorer`]; 0: none.
        revision, dtype, trust_remote_code: of the model, as in [`load_model`].
        command: as typed, for the report.
        progress: show progress bars.
    """

    model: str
    dataset: str
    protocol: str = "unseen"
    seeds: tuple[int, ...] = (0,)
    output_dir: str = "runs/evaluation"
    similarity_model: str | None = None
    batch_size: int = 64
    device: str | None = None
    max_posts: int | None = None
    num_neighbors: int = 0
    revision: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    command: str = ""
    progress: bool = True

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {self.protocol!r}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be one or more different numbers, got {list(self.seeds)}")
        if self.batch_size < 1 or (self.max_posts is not None and self.max_posts < 1):
            raise ValueError(
                f"batch_size and max_posts must be at least 1, got {self.batch_size} and {self.max_posts}"
            )
        if self.num_neighbors < 0:
            raise ValueError(f"num_neighbors must not be negative, got {self.num_neighbors}")
        several = len(self.seeds) > 1
        if several and self.dataset != "sketchbook" and PLACEHOLDER not in self.model + self.dataset:
            raise ValueError(
                f"seeds: with several seeds, model or dataset must hold {PLACEHOLDER!r}, else all seeds are the same "
                f"run, got model {self.model!r} and dataset {self.dataset!r}"
            )
        if self.device is not None:
            check_device(self.device)
        check_dtype(self.dtype)
        check_output_folder("output_dir", self.output_dir)
        for seed in self.seeds:
            if self.similarity_model is not None:
                check_folder("similarity_model", _of_seed(self.similarity_model, seed))
            check_files(_of_seed(self.dataset, seed), PROTOCOLS[self.protocol])
            check_model_folder(_of_seed(self.model, seed))


def similarity_scorers(
    arguments: EvaluationArguments,
    seed: int,
    model: MGVMoEForZeroShotIE,
    processor: MGVMoEProcessor,
    data: EvaluationData,
) -> dict[str, Scorer]:
    """Label similarity by names and, where the data has them, by descriptions; the keys say whose encoder it is."""
    from transformers import AutoConfig

    from .similarity import SimilarityScorer, embed_with_encoder, embed_with_model

    if arguments.similarity_model is None:
        embed, whose = embed_with_model(model, processor), "the model's own text encoder"
    else:
        name = _of_seed(arguments.similarity_model, seed)
        # The end of a path or a name on the Hub, "{seed}" included: the same for all seeds.
        whose = "/".join(os.path.normpath(arguments.similarity_model).split(os.sep)[-2:])
        if AutoConfig.from_pretrained(name).model_type == "mgvmoe":
            embed = embed_with_model(*load_model(name, str(model.device)))
        else:
            embed = embed_with_encoder(name, model.device)
    descriptions: dict[str, Mapping[str, str | Sequence[str]] | None] = {"label-name similarity": None}
    if data.label_descriptions:
        descriptions["label-description similarity"] = data.label_descriptions
    return {
        f"{kind} ({whose})": SimilarityScorer(
            embed, sentences, processor.hypothesis_template, arguments.batch_size, arguments.progress
        )
        for kind, sentences in descriptions.items()
    }


def run_evaluation(arguments: EvaluationArguments) -> dict[str, dict[int, TaskResult]]:
    """Evaluate every seed, print a table per task, and write JSON, images and the report.

    Files in `output_dir`, all beginning with the protocol: `.json`, `.md`, and per task and seed `-confusion.png`.

    Returns:
        By task, then seed.
    """
    import torch

    from ..data.encoding import TypesOfLabels
    from ..inference.predict import ModelScorer

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    os.makedirs(arguments.output_dir, exist_ok=True)
    results: dict[str, dict[int, TaskResult]] = {}
    sampled, notes = False, []
    for seed in arguments.seeds:
        data = load_evaluation_data(
            _of_seed(arguments.dataset, seed), PROTOCOLS[arguments.protocol], seed, arguments.max_posts
        )
        sampled = sampled or data.sampled
        if data.note:
            print(data.note, flush=True)
            notes.append(data.note)
        check_unseen(arguments.protocol, data)  # before the model is loaded
        model, processor = load_model(
            _of_seed(arguments.model, seed),
            device,
            arguments.revision,
            arguments.dtype,
            arguments.trust_remote_code,
        )
        scorers = similarity_scorers(arguments, seed, model, processor, data)
        scorers[OURS] = ModelScorer(
            model,
            processor,
            data.label_descriptions,
            arguments.batch_size,
            arguments.progress,
            TypesOfLabels(data.label_types, data.type_descriptions),
            arguments.num_neighbors,
        )
        for task, result in evaluate_protocol(arguments.protocol, scorers, data).items():
            results.setdefault(task, {})[seed] = result
    for task, own in results.items():
        print(f"\n{arguments.protocol}, {task}:\n{seed_table(own)}", flush=True)
    write_files(arguments, results, _facts(arguments, device), [*dict.fromkeys(notes), *_notes(arguments, sampled)])
    return results


def write_files(
    arguments: EvaluationArguments,
    results: Mapping[str, Mapping[int, TaskResult]],
    facts: Mapping[str, str],
    notes: Sequence[str],
) -> None:
    """Write the files of [`run_evaluation`]."""
    images = {}
    for task, own in results.items():
        for seed, result in own.items():
            name = f"{arguments.protocol}-{task}-seed{seed}-confusion.png"
            title = f"{arguments.protocol}, {task}, seed {seed}"
            draw_confusion(result, OURS, os.path.join(arguments.output_dir, name), title)
            images[task, seed] = name
    stem = os.path.join(arguments.output_dir, arguments.protocol)
    content: dict[str, Any] = {
        "protocol": arguments.protocol,
        **facts,
        "seeds": list(arguments.seeds),
        "max_posts": arguments.max_posts,
        "notes": list(notes),
        "summary": {task: summary(own) for task, own in results.items()},
        "results": [
            {"seed": seed, **result_as_json(result, OURS)} for own in results.values() for seed, result in own.items()
        ],
    }
    for path, text in (
        (f"{stem}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n"),
        (f"{stem}.md", protocol_report(results, OURS, facts, images, notes)),
    ):
        write_whole(path, text.encode())
    print(f"\nreport: {stem}.md   numbers: {stem}.json")


def _facts(arguments: EvaluationArguments, device: str) -> dict[str, str]:
    return {
        "command": f"`{arguments.command}`" if arguments.command else "none, called from Python",
        "model": f"`{arguments.model}`{_how_loaded(arguments)}",
        "dataset": f"`{arguments.dataset}`",
        "label similarity": f"`{arguments.similarity_model}`"
        if arguments.similarity_model
        else "encoder of the model",
        "seeds": ", ".join(map(str, arguments.seeds)),
        "versions": versions(),
        "machine": machine(device),
    }


def _how_loaded(arguments: EvaluationArguments) -> str:
    chosen = {"revision": arguments.revision, "dtype": arguments.dtype}
    given = ", ".join(f"{name} {value}" for name, value in chosen.items() if value is not None)
    return f" ({given})" if given else ""


def _notes(arguments: EvaluationArguments, sampled: bool) -> list[str]:
    notes = []
    if sampled:
        notes.append(
            f"A quick look: only {arguments.max_posts:,} posts of each kind were taken (--max_posts), "
            "these are not the scores of the dataset."
        )
    if arguments.similarity_model is None:
        notes.append(
            "Label similarity uses the text encoder of the model evaluated, as training left it; --similarity_model "
            "takes another, untrained one."
        )
    several = len(arguments.seeds) > 1
    if several and arguments.dataset == "sketchbook" and PLACEHOLDER not in arguments.model:
        notes.append(
            "One model on several splits of the classes: unless it was trained on none of them, classes that are "
            "unseen in one split are training classes in another."
        )
    if arguments.dataset == "sketchbook" and arguments.protocol == "open":
        notes.append(
            "The sketchbook has no posts without a class: those of the second half of the validation classes stand "
            "for them. They are unseen, but training chose its best step on them."
        )
    return notes


def _of_seed(name: str, seed: int) -> str:
    return name.replace(PLACEHOLDER, str(seed))
