"""Which posts a run reads, in which order: the same for any number of processes, and from any step on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from .arguments import TrainingArguments

# `task_sampling="alternate"` takes the tasks in this order.
TASK_ORDER = ("typing", "relation")
# Between the seeds of the tasks, far above the seeds that people choose. Of a seed the generator takes 32 bits.
SEED_DISTANCE = 1_000_003


class ClassBalancedSampler(Sampler[int]):
    """Draws posts with replacement: first a class, every class alike, then a post of it.

    Args:
        classes: the class of every post.
        num_samples: how many to draw.
        seed: two samplers with the same seed draw the same posts.
        in_turn: take the classes in rounds in place of drawing them: each once in a round, in a new order every round.

    The reference (`_generate_data` in `MET/data_loader.py` and `MRE/data_loader.py`) draws the post within its class
    as we do, uniformly and with replacement, but takes the classes in turn, post n of class n modulo their number, and
    begins again at the first class after as many posts as there are. `in_turn` is that, but for the order within a
    round, which matters where a batch holds fewer posts than there are classes: the reference's fixed order then puts
    the same classes together again and again. Drawn classes are alike in the mean, not in every batch.
    """

    def __init__(self, classes: Sequence[Any], num_samples: int, seed: int, in_turn: bool = False):
        self.num_samples, self.seed, self.in_turn = num_samples, seed, in_turn
        members: dict[Any, list[int]] = {}
        for index, name in enumerate(classes):
            members.setdefault(name, []).append(index)
        self.members = [torch.tensor(rows) for rows in members.values()]

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        for chosen in self._classes(generator):
            rows = self.members[chosen]
            yield int(rows[torch.randint(len(rows), (1,), generator=generator)])

    def _classes(self, generator: torch.Generator) -> list[int]:
        number = len(self.members)
        if not self.in_turn:
            return torch.randint(number, (self.num_samples,), generator=generator).tolist()
        rounds = [torch.randperm(number, generator=generator) for _ in range(-(-self.num_samples // number))]
        return torch.cat(rounds)[: self.num_samples].tolist() if rounds else []

    def __len__(self) -> int:
        return self.num_samples


class ShuffledSampler(Sampler[int]):
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


class AlternatingSampler(Sampler[int]):
    """Batches of one part of the posts in turn: a batch of the first part, one of the second, one of the first again.

    Args:
        parts: indices of the posts of each part.
        samplers: for each part one that draws places among them, with enough draws.
        batch_size: posts of a batch, of all processes together.
        num_samples: how many to draw.
    """

    def __init__(
        self, parts: Sequence[Sequence[int]], samplers: Sequence[Sampler[int]], batch_size: int, num_samples: int
    ):
        self.parts, self.samplers = parts, samplers
        self.batch_size, self.num_samples = batch_size, num_samples

    def __iter__(self) -> Iterator[int]:
        draws = [iter(sampler) for sampler in self.samplers]
        for position in range(self.num_samples):
            turn = position // self.batch_size % len(self.parts)
            yield self.parts[turn][next(draws[turn])]

    def __len__(self) -> int:
        return self.num_samples


class From(Sampler[int]):
    """A sampler without its first draws: they are drawn, so that the others stay the same, but no post is loaded."""

    def __init__(self, sampler: Sampler[int], start: int):
        self.sampler, self.start = sampler, start

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(iter(self.sampler), self.start, None)

    def __len__(self) -> int:
        return max(len(self.sampler) - self.start, 0)  # type: ignore[arg-type]


def training_sampler(
    posts: Sequence[Mapping[str, Any]], arguments: TrainingArguments, num_samples: int, batch_size: int
) -> Sampler[int]:
    """The sampler that the arguments describe.

    Args:
        posts: encoded ones.
        arguments: of the training.
        num_samples: how many posts the whole run reads.
        batch_size: posts of a batch, of all processes together.

    Raises:
        ValueError: tasks are to alternate and the posts have only one.
    """

    def sampler(rows: Sequence[Mapping[str, Any]], number: int, seed: int) -> Sampler[int]:
        if not arguments.class_balanced:
            return ShuffledSampler(len(rows), number, seed)
        classes = [(post["task"], post["label"]) for post in rows]
        return ClassBalancedSampler(classes, number, seed, arguments.class_order == "in_turn")

    if arguments.task_sampling == "mixed":
        return sampler(posts, num_samples, arguments.seed)
    tasks = [post["task"] for post in posts]
    missing = [task for task in TASK_ORDER if task not in tasks]
    if missing:
        raise ValueError(
            f'task_sampling: "alternate" needs posts of both tasks, got {len(posts)} posts and none of {missing[0]}.'
        )
    parts = [[index for index, own in enumerate(tasks) if own == task] for task in TASK_ORDER]
    # The same seed would draw the same sequence for every part.
    samplers = [
        sampler([posts[index] for index in part], num_samples, arguments.seed + number * SEED_DISTANCE)
        for number, part in enumerate(parts)
    ]
    return AlternatingSampler(parts, samplers, batch_size, num_samples)
