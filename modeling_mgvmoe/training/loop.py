"""The training loop, with Accelerate."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..data.atomic_io import locked, whole_folder, write_whole
from ..data.encoding import PostCollator, encode_splits
from ..data.evaluation_data import sample_posts
from ..data.feature_cache import cache_states
from ..data.fingerprint import identity
from ..data.zero_shot_data import ZeroShotData
from ..inference.predict import predict_labels, score_predictions
from .arguments import TrainingArguments
from .checkpoints import (
    GO_ON,
    Checkpointer,
    Progress,
    can_checkpoint,
    discard_run,
    model_bytes,
    read_progress,
    remove_leftovers,
    starting_point,
)
from .launch import StopSignals, TrainingInterrupted, keep_freed_memory
from .optimization import current_rates, make_optimizer, make_schedule
from .trackers import Statistics

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..data.feature_cache import ImageFeatureCache
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


def even_images(
    accelerator: Accelerator, collator: PostCollator, processor: MGVMoEProcessor
) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """The collator; where the model is spread over processes, it adds blank, masked images to a batch without any.

    The processes gather the weights of a layer when it runs: one that left out the vision tower would hang the others.
    """
    if can_checkpoint(accelerator) or collator.feature_cache is not None:
        return collator
    from PIL import Image

    (blank,) = processor.encode_images([Image.new("RGB", (1, 1))])
    assert blank is not None  # for the type checker: there is an image

    def collate(posts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = collator(posts)
        if "pixel_values" not in batch:
            batch["pixel_values"] = torch.zeros(len(posts), *blank.shape)
            batch["image_mask"] = torch.zeros(len(posts), dtype=torch.bool)
        return batch

    return collate


def open_methods(accelerator: Accelerator, model: nn.Module) -> None:
    """Let methods that are called beside `forward` gather the weights as `forward` does."""
    if accelerator.is_fsdp2:
        from torch.distributed.fsdp import register_fsdp_forward_method

        register_fsdp_forward_method(model, "get_candidate_embeds")


def whole_model(accelerator: Accelerator, wrapped: nn.Module) -> MGVMoEForZeroShotIE:
    """The model with all its weights, to be saved; every process calls this.

    A model that is spread over processes is copied to the CPU of the main one; elsewhere the copy may lack weights.
    """
    model = accelerator.unwrap_model(wrapped)
    if can_checkpoint(accelerator):
        return model
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE

    weights = accelerator.get_state_dict(wrapped)
    # FSDP2 gives the model its own class, which cannot be saved. On "meta" nothing is drawn or filled.
    with torch.device("meta"):
        whole = MGVMoEForZeroShotIE(model.config)
    if weights:
        whole.load_state_dict(weights, assign=True)
    return whole


def train(
    model: MGVMoEForZeroShotIE,
    processor: MGVMoEProcessor,
    data: ZeroShotData,
    arguments: TrainingArguments,
    accelerator: Accelerator | None = None,
    feature_cache: ImageFeatureCache | None = None,
) -> dict[str, Any]:
    """Train on the training classes, choose on the validation classes, save model, processor and metrics.

    Under several processes a batch is `per_device_train_batch_size` posts of each, in the order in which one process
    with batches of that many posts would take them, and all terms of the loss are those of the whole batch.
    Killed and resumed, a run ends with the same weights as an undisturbed one; see `checkpoints.py`.

    Args:
        model: to be trained, in place.
        processor: encodes the posts.
        data: posts and classes.
        arguments: how.
        accelerator: default: a new one, with the arguments' mixed precision and trackers; a given one keeps its own.
        feature_cache: of the model's frozen vision tower, read instead of running it.

    Returns:
        `history`, one entry per validation with the mean of every loss term since the one before, and `best`, the
        entry whose weights were saved in `output_dir/model`.

    Raises:
        FileExistsError: the output folder holds a run, or one is writing to it.
        ValueError: the loss is not finite, the checkpoint to go on from is damaged or of another run, the cache was
            not made by the model's own, frozen tower, or an argument does not fit model, data or machine.
        OSError: the disk is full.
        TrainingInterrupted: SIGTERM or Ctrl-C, after a checkpoint was written.
    """
    from .trackers import make_accelerator

    accelerator = accelerator or make_accelerator(arguments, model)
    # From here on, in checkpoints and trackers too, what is computed with, which `accelerate launch` may have set.
    arguments = copy.copy(arguments)
    arguments.mixed_precision = accelerator.mixed_precision
    arguments.gradient_accumulation_steps = accelerator.gradient_accumulation_steps
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    with locked(arguments.output_dir, accelerator.is_main_process):
        return _train(model, processor, data, arguments, accelerator, feature_cache, starting_point(arguments))


def _train(
    model: MGVMoEForZeroShotIE,
    processor: MGVMoEProcessor,
    data: ZeroShotData,
    arguments: TrainingArguments,
    accelerator: Accelerator,
    feature_cache: ImageFeatureCache | None,
    checkpoint: str | None,
) -> dict[str, Any]:
    from accelerate.utils import set_seed

    # With one seed for all processes, posts at the same place of their batches would share noise and dropout.
    set_seed(arguments.seed, device_specific=True)
    if feature_cache is not None:
        feature_cache.check(model, processor)
    show = accelerator.is_main_process
    data = _fewer_to_validate(data, arguments.max_eval_samples, accelerator)
    with_types = model.config.score == "similarity"
    splits = ("train", "validation")
    encoded, collators = encode_splits(data, processor, splits, with_types, feature_cache, show, with_ids=("train",))
    for split, posts in encoded.items():
        if not len(posts):
            raise ValueError(f"data: {split} needs posts, got none that could be encoded of {len(data.posts[split])}.")
    start = 0 if checkpoint is None else read_progress(checkpoint).step
    collator = even_images(accelerator, collators["train"], processor)
    loader = _train_loader(encoded["train"], collator, arguments, accelerator, start)
    optimizer = make_optimizer(model, arguments)
    # Not prepared: a prepared schedule would step once per process.
    schedule = make_schedule(optimizer, arguments)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    open_methods(accelerator, model)
    if can_checkpoint(accelerator):  # else a process may have only a part of the encoder
        cache_states(model, encoded, collators, arguments.per_device_eval_batch_size, show)
    labels = {**{split: data.labels[split] for split in encoded}, "descriptions": dict(data.label_descriptions),
              "types": [dict(data.label_types), dict(data.type_descriptions)]}  # fmt: skip
    run = identity(arguments, model.config.to_dict(), encoded, labels, accelerator.num_processes)
    checkpointer = Checkpointer(arguments.output_dir, run, accelerator, wrapped, optimizer, schedule)
    terms = {"loss": "loss", **model.config.loss_terms}
    statistics = Statistics(terms, model.config.num_experts, accelerator.device)
    progress = _begin(checkpointer, checkpoint, arguments, statistics)
    folder = os.path.join(arguments.output_dir, "model")
    store = partial(save, accelerator, wrapped, processor, folder)
    evaluate = partial(validate, model, encoded["validation"], collators["validation"], data, arguments, accelerator)
    if checkpoint is not None and progress.best.get("step") == progress.step:
        # The run may have ended between the checkpoint and the model, which comes after it.
        store()
    wrapped.train()
    _run_steps(loader, checkpointer, arguments, statistics, progress, checkpoint, evaluate, store)
    if progress.step < arguments.max_train_steps:
        accelerator.print(f"stopped early: no better macro-F1 in {arguments.early_stopping_patience} validations")
    found = {"best": progress.best, "history": progress.history}
    if accelerator.is_main_process:
        write_whole(os.path.join(arguments.output_dir, "metrics.json"), json.dumps(found, indent=2).encode())
    accelerator.wait_for_everyone()
    return found


def _run_steps(
    loader: DataLoader,
    checkpointer: Checkpointer,
    arguments: TrainingArguments,
    statistics: Statistics,
    progress: Progress,
    checkpoint: str | None,
    evaluate: Callable[[], dict[str, Any]],
    store: Callable[[], None],
) -> None:
    """All steps from `progress` on, with validations by `evaluate`, checkpoints, and the best model by `store`."""
    from .trackers import Reporter

    accelerator, optimizer = checkpointer.accelerator, checkpointer.optimizer
    done = _is_done(progress, arguments)
    with StopSignals() as signals, Reporter(accelerator, arguments, statistics, progress) as reporter:
        for batch in () if done else loader:
            if checkpoint is not None:
                # Not before: to start a loader draws a number.
                checkpointer.restore_random_state(checkpoint)
                checkpoint = None
            signals.send(accelerator)
            _learn(accelerator, checkpointer.model, optimizer, batch, progress, arguments.max_grad_norm, statistics)
            if not accelerator.sync_gradients:
                continue
            rates = current_rates(optimizer)
            checkpointer.schedule.step()
            progress.step += 1
            reporter.stepped(progress)
            due = [
                every > 0 and progress.step % every == 0
                for every in (arguments.checkpointing_steps, arguments.eval_steps)
            ]
            scores = None
            if due[1] or progress.step == arguments.max_train_steps:
                scores = evaluate()
                _record(progress, statistics, scores, arguments.keep_best)
            done, stop = _is_done(progress, arguments), signals.agreed(accelerator)
            # Before the checkpoint, which does not hold again what was logged.
            reporter.log(progress, rates, scores, last=done)
            written = checkpointer.save(progress, statistics) if any(due) or done or stop else None
            # After the checkpoint: whoever resumes from it finds the model, or writes it.
            if progress.best.get("step") == progress.step:
                store()
            if stop:
                raise TrainingInterrupted(stop, progress.step, written)
            if done:
                break
            reporter.restart_clock()


def _fewer_to_validate(data: ZeroShotData, count: int | None, accelerator: Accelerator) -> ZeroShotData:
    posts = data.posts["validation"]
    if count is None or count >= len(posts):
        return data
    accelerator.print(
        f"max_eval_samples: {count:,} of {len(posts):,} validation posts, those whose ids have the lowest SHA-256",
        file=sys.stderr,
    )
    return replace(data, posts={**data.posts, "validation": sample_posts(posts, count)})


def _begin(
    checkpointer: Checkpointer, checkpoint: str | None, arguments: TrainingArguments, statistics: Statistics
) -> Progress:
    """Take everything from the checkpoint, if there is one, and tidy the folder."""
    accelerator, folder = checkpointer.accelerator, arguments.output_dir
    if checkpoint is None:
        progress = Progress()
        if arguments.resume_from_checkpoint is not None:
            accelerator.print(f"{folder} has no checkpoint yet: beginning at step 0")
    else:
        progress = checkpointer.load(checkpoint)
        statistics.load(progress.statistics, accelerator.process_index)
        model = os.path.join(folder, "model", "config.json")
        if progress.best.get("step", progress.step) != progress.step and not os.path.exists(model):
            raise FileNotFoundError(
                f"resume_from_checkpoint: {checkpoint} needs the best model so far, of step {progress.best['step']}, "
                f"but there is no {model}."
            )
        accelerator.print(f"going on after step {progress.step}, from {checkpoint}")
    if accelerator.is_main_process:
        remove_leftovers(folder)
        if checkpoint is None:
            discard_run(folder)
    return progress


def _learn(
    accelerator: Accelerator,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Any],
    progress: Progress,
    max_grad_norm: float,
    statistics: Statistics,
) -> None:
    """One batch; the optimizer steps if it is the last one of those that are accumulated."""
    ids = batch.pop("ids")
    with accelerator.accumulate(wrapped):
        output = wrapped(**batch)
        _check_finite(output, statistics.terms, progress.step, ids)
        accelerator.backward(output.loss)
        if accelerator.sync_gradients and max_grad_norm > 0:
            accelerator.clip_grad_norm_(wrapped.parameters(), max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    statistics.add(output, batch)


def _is_done(progress: Progress, arguments: TrainingArguments) -> bool:
    patience = arguments.early_stopping_patience
    return progress.step >= arguments.max_train_steps or (
        patience > 0 and progress.validations_without_improvement() >= patience
    )


def _record(progress: Progress, statistics: Statistics, scores: Mapping[str, Any], keep_best: bool) -> None:
    """Add an entry to the history, and choose it if it is the best."""
    entry = {"step": progress.step, **statistics.means("validation"), **scores}
    progress.history.append(entry)
    statistics.clear("validation")
    if not progress.best or not keep_best or entry["macro_f1"] > progress.best["macro_f1"]:
        progress.best = entry


def _train_loader(
    posts: Sequence[Mapping[str, Any]],
    collator: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]],
    arguments: TrainingArguments,
    accelerator: Accelerator,
    start: int = 0,
) -> DataLoader:
    batch_size = arguments.per_device_train_batch_size
    # The accelerator's number of batches per step, which `accelerate launch` may have set.
    per_step = accelerator.gradient_accumulation_steps * batch_size * accelerator.num_processes
    needed = arguments.max_train_steps * per_step
    # The first posts of a resumed run are drawn, so that the others stay the same, but not loaded.
    sampler = training_order(posts, arguments, needed)[start * per_step :]
    # Any sequence is a map-style dataset; the type of torch's argument says less.
    return DataLoader(posts, batch_size=batch_size, sampler=sampler, collate_fn=collator, drop_last=True)  # type: ignore[arg-type]


def _check_finite(output: Any, names: Mapping[str, str], step: int, ids: Sequence[str]) -> None:
    if not torch.isfinite(output.loss):
        terms = {name: output[field].item() for name, field in names.items() if name != "loss"}
        raise ValueError(
            f"The loss is {output.loss.item()} at step {step + 1}; its terms are {terms}, "
            f"the posts of its batch {ids}."
        )


def validate(
    model: MGVMoEForZeroShotIE,
    posts: Sequence[Mapping[str, Any]],
    collator: PostCollator,
    data: ZeroShotData,
    arguments: TrainingArguments,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Scores on the validation classes; `macro_f1` is the mean over the tasks, the number that chooses.

    Every process predicts its share of the posts and gets all predictions, so that all choose alike.

    Args:
        model: itself, not as prepared: a wrapper may talk to the other processes in every batch, and these need not
            have equally many.
    """
    from accelerate.utils import gather_object

    number, own = accelerator.num_processes, accelerator.process_index
    if not can_checkpoint(accelerator):
        number, own = 1, 0
    # It shows the first process, whose share is as large as any.
    title = "validation" if accelerator.is_main_process else None
    batch_size = arguments.per_device_eval_batch_size
    predicted = predict_labels(model, posts[own::number], collator, batch_size, title, leave=False)
    shares = gather_object([predicted])
    predictions = [shares[index % number][index // number] for index in range(len(posts))]
    tasks = score_predictions(posts, predictions, data.labels["validation"])
    return {"macro_f1": sum(scores["macro_f1"] for scores in tasks.values()) / len(tasks), "validation": tasks}


def save(accelerator: Accelerator, wrapped: nn.Module, processor: MGVMoEProcessor, folder: str) -> None:
    """Write model and processor, a complete folder for `from_pretrained`, instead of the one before at once."""
    accelerator.wait_for_everyone()
    model = whole_model(accelerator, wrapped)
    if accelerator.is_main_process:
        with whole_folder(folder, model_bytes(model), GO_ON) as partial:
            model.save_pretrained(partial)
            processor.save_pretrained(partial)


def training_order(posts: Sequence[Mapping[str, Any]], arguments: TrainingArguments, num_samples: int) -> list[int]:
    """Which posts a run reads, in order: the same for any number of processes.

    Args:
        posts: encoded ones.
        arguments: of the training.
        num_samples: number of posts that the whole run reads.
    """
    if not arguments.class_balanced:
        generator = torch.Generator().manual_seed(arguments.seed)
        epochs = range(-(-num_samples // len(posts)))
        order = [index for _ in epochs for index in torch.randperm(len(posts), generator=generator).tolist()]
        return order[:num_samples]
    classes = [(post["task"], post["label"]) for post in posts]
    datasets = [post.get("dataset") for post in posts]
    in_turn = arguments.class_order == "in_turn"
    if in_turn and len(set(datasets)) > 1:
        raise ValueError('class_order must be "drawn" where several datasets are trained on, got "in_turn".')
    return class_balanced_order(classes, num_samples, arguments.seed, in_turn, datasets)


def class_balanced_order(
    classes: Sequence[Any], num_samples: int, seed: int, in_turn: bool = False, datasets: Sequence[Any] | None = None
) -> list[int]:
    """Numbers of posts drawn with replacement: first a class, every class alike, then a post of it.

    Args:
        classes: the class of every post.
        num_samples: how many to draw.
        seed: of the draws.
        in_turn: take the classes in rounds, each once in a round in a new order, as the reference does but for the
            order, which it keeps (`_generate_data` in `MET/data_loader.py`); else draw them.
        datasets: the dataset of every post: draw a dataset first, every one alike, then a class of it.
    """
    generator = torch.Generator().manual_seed(seed)
    datasets = [None] * len(classes) if datasets is None else datasets
    members: dict[Any, list[int]] = {}
    for index, name in enumerate(zip(datasets, classes, strict=True)):
        members.setdefault(name, []).append(index)
    rows, sizes = list(members.values()), Counter(dataset for dataset, _ in members)
    if len(sizes) > 1:
        # The classes of a dataset add up to the same weight in all datasets.
        weights = torch.tensor([1 / sizes[dataset] for dataset, _ in members])
        chosen = torch.multinomial(weights, num_samples, replacement=True, generator=generator).tolist()
    elif in_turn:
        rounds = range(-(-num_samples // len(rows)))
        chosen = [place for _ in rounds for place in torch.randperm(len(rows), generator=generator).tolist()]
    else:
        chosen = torch.randint(len(rows), (num_samples,), generator=generator).tolist()
    return [rows[k][int(torch.randint(len(rows[k]), (1,), generator=generator))] for k in chosen[:num_samples]]
