"""The training loop, with Accelerate."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import get_linear_schedule_with_warmup

from ..data.encoding import PostCollator, encode_posts
from ..data.zero_shot_data import ZeroShotData
from ..evaluation.unseen import predict_labels, score_predictions
from .arguments import TrainingArguments
from .freezing import freeze_text_layers

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..data.feature_cache import ImageFeatureCache
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor

TERMS = ("ranking_loss", "kl_loss", "router_entropy_loss", "alignment_loss", "consistency_loss")


class ClassBalancedSampler(Sampler[int]):
    """Draws posts with replacement: first a class, every class alike, then a post of it.

    Args:
        classes: the class of every post.
        num_samples: how many to draw.
        seed: two samplers with the same seed draw the same posts.
    """

    def __init__(self, classes: Sequence[Any], num_samples: int, seed: int):
        self.num_samples, self.seed = num_samples, seed
        members: dict[Any, list[int]] = {}
        for index, name in enumerate(classes):
            members.setdefault(name, []).append(index)
        self.members = [torch.tensor(rows) for rows in members.values()]

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        for chosen in torch.randint(len(self.members), (self.num_samples,), generator=generator).tolist():
            rows = self.members[chosen]
            yield int(rows[torch.randint(len(rows), (1,), generator=generator)])

    def __len__(self) -> int:
        return self.num_samples


class _ShuffledSampler(Sampler[int]):
    """Epoch after epoch in a new order, as one long sequence."""

    def __init__(self, size: int, num_samples: int, seed: int):
        self.size, self.num_samples, self.seed = size, num_samples, seed

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = 0
        while drawn < self.num_samples:
            for index in torch.randperm(self.size, generator=generator).tolist()[: self.num_samples - drawn]:
                drawn += 1
                yield index

    def __len__(self) -> int:
        return self.num_samples


ENCODERS = ("mgvmoe.text_model.", "mgvmoe.vision_model.")


def parameter_groups(
    model: nn.Module, weight_decay: float, head_learning_rate: float | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters in groups.

    Args:
        model: to be trained.
        weight_decay: of matrices; biases, norms and the perturbation have none.
        head_learning_rate: of everything but the two encoders, which is then in groups of its own.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and not name.endswith("perturbation")
            head = head_learning_rate is not None and not name.startswith(ENCODERS)
            groups.setdefault((head, decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decayed else 0.0,
            **({"lr": head_learning_rate} if head else {}),
        }
        for (head, decayed), parameters in groups.items()
    ]


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

    Args:
        model: to be trained, in place.
        processor: encodes the posts.
        data: posts and classes.
        arguments: how.
        accelerator: default: a new one, with the arguments' mixed precision.
        feature_cache: of the model's frozen vision tower, read in place of running it.

    Returns:
        `history`, one entry per validation with the mean of every loss term since the one before, and `best`, the
        entry whose weights were saved in `output_dir/model`.

    Raises:
        FileExistsError: the output folder already holds a model.
        ValueError: the loss is not finite, or the cache was not made by the model's own, frozen tower.
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from tqdm.auto import tqdm

    folder = os.path.join(arguments.output_dir, "model")
    if os.path.exists(os.path.join(folder, "config.json")) and not arguments.overwrite_output_dir:
        raise FileExistsError(f"output_dir: {folder} already holds a model; choose another or --overwrite_output_dir.")
    accelerator = accelerator or Accelerator(
        mixed_precision=arguments.mixed_precision, gradient_accumulation_steps=arguments.gradient_accumulation_steps
    )
    # Noise and dropout of their own on every process: with one seed for all, the first posts of the processes' batches
    # would share theirs, the second ones too, and so on. The order of the posts has a generator of its own.
    set_seed(arguments.seed, device_specific=True)
    if feature_cache is not None:
        feature_cache.check(model, processor)
    show = accelerator.is_main_process
    encoded = {
        split: encode_posts(
            data.posts[split],
            processor,
            f"encoding {split} posts" if show else None,
            feature_cache=feature_cache,
        )
        for split in ("train", "validation")
    }
    collators = {
        split: PostCollator(processor, data.labels[split], data.label_descriptions, feature_cache) for split in encoded
    }
    loader = _train_loader(encoded["train"], collators["train"], arguments, accelerator.num_processes)
    if arguments.freeze_text_layers is not None:
        freeze_text_layers(model, arguments.freeze_text_layers)
    groups = parameter_groups(model, arguments.weight_decay, arguments.head_learning_rate)
    optimizer = torch.optim.AdamW(groups, lr=arguments.learning_rate)
    steps = arguments.max_train_steps
    # Not prepared: a prepared schedule would step once per process.
    schedule = get_linear_schedule_with_warmup(optimizer, round(steps * arguments.warmup_ratio), steps)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    wrapped.train()

    history: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    sums = dict.fromkeys(("loss", *TERMS), 0.0)
    counted = step = 0
    bar = tqdm(total=steps, desc="training", disable=not show, unit="step")
    for batch in loader:
        with accelerator.accumulate(wrapped):
            output = wrapped(**batch)
            _check_finite(output, step)
            accelerator.backward(output.loss)
            if accelerator.sync_gradients and arguments.max_grad_norm > 0:
                accelerator.clip_grad_norm_(wrapped.parameters(), arguments.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        for name in sums:
            sums[name] += output[name].item()
        counted += 1
        if not accelerator.sync_gradients:
            continue
        schedule.step()
        step += 1
        bar.update()
        bar.set_postfix(loss=f"{sums['loss'] / counted:.3f}", val_f1=f"{best.get('macro_f1', 0):.3f}", refresh=False)
        if step % arguments.eval_steps == 0 or step == steps:
            scores = validate(model, encoded["validation"], collators["validation"], data, arguments, accelerator)
            entry = {"step": step, **{name: total / counted for name, total in sums.items()}, **scores}
            history.append(entry)
            sums, counted = dict.fromkeys(sums, 0.0), 0
            if not best or not arguments.keep_best or entry["macro_f1"] > best["macro_f1"]:
                best = entry
                save(accelerator, wrapped, processor, folder)
        if step == steps:
            break
    bar.close()
    if accelerator.is_main_process:
        with open(os.path.join(arguments.output_dir, "metrics.json"), "w", encoding="utf-8") as file:
            json.dump({"best": best, "history": history}, file, indent=2)
    accelerator.wait_for_everyone()
    return {"best": best, "history": history}


def _train_loader(
    posts: Sequence[Mapping[str, Any]], collator: PostCollator, arguments: TrainingArguments, num_processes: int
) -> DataLoader:
    batch_size = arguments.per_device_train_batch_size
    needed = arguments.max_train_steps * arguments.gradient_accumulation_steps * batch_size * num_processes
    sampler: Sampler[int] = (
        ClassBalancedSampler([(post["task"], post["label"]) for post in posts], needed, arguments.seed)
        if arguments.class_balanced
        else _ShuffledSampler(len(posts), needed, arguments.seed)
    )
    # Any sequence is a map-style data set; the type of torch's argument says less.
    return DataLoader(posts, batch_size=batch_size, sampler=sampler, collate_fn=collator, drop_last=True)  # type: ignore[arg-type]


def _check_finite(output: Any, step: int) -> None:
    if not torch.isfinite(output.loss):
        terms = {name: output[name].item() for name in TERMS}
        raise ValueError(f"The loss is {output.loss.item()} at step {step + 1}; its terms are {terms}.")


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
    predicted = predict_labels(model, posts[own::number], collator, arguments.per_device_eval_batch_size)
    shares = gather_object([predicted])
    predictions = [shares[index % number][index // number] for index in range(len(posts))]
    tasks = score_predictions(posts, predictions, data.labels["validation"])
    return {"macro_f1": sum(scores["macro_f1"] for scores in tasks.values()) / len(tasks), "validation": tasks}


def save(accelerator: Accelerator, wrapped: nn.Module, processor: MGVMoEProcessor, folder: str) -> None:
    """Write model and processor, a complete folder for `from_pretrained`."""
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        accelerator.unwrap_model(wrapped).save_pretrained(folder)
        processor.save_pretrained(folder)
