"""Which posts a run reads, in which order: the same for any number of processes, and from any step on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from .arguments import TrainingArguments


class ClassBalancedSampler(Sampler[int]):
    """Draws posts with replacement: first a class, every class alike, then a post of it.

    Args:
        classes: the class of every post.
        num_samples: how many to draw.
        seed: two samplers with the same seed draw the same posts.
        in_turn: take the classes in rounds instead of drawing them: each once in a round, in a new order every round.
        datasets: the dataset of every post: draw a dataset first, every one alike, then a class of it.

    The reference (`_generate_data` in `MET/data_loader.py` and `MRE/data_loader.py`) draws the post within its class
    as we do, uniformly and with replacement, but takes the classes in turn, post n of class n modulo their number, and
    begins again at the first class after as many posts as there are. `in_turn` is that, but for the order within a
    round, which matters where a batch holds fewer posts than there are classes: the reference's fixed order then puts
    the same classes together again and again. Drawn classes are alike in the mean, not in every batch.
    """

    def __init__(
        self,
        classes: Sequence[Any],
        num_samples: int,
        seed: int,
        in_turn: bool = False,
        datasets: Sequence[Any] | None = None,
    ):
        self.num_samples, self.seed, self.in_turn = num_samples, seed, in_turn
        datasets = [None] * len(classes) if datasets is None else datasets
        members: dict[Any, list[int]] = {}
        for index, name in enumerate(zip(datasets, classes, strict=True)):
            members.setdefault(name, []).append(index)
        self.members = [torch.tensor(rows) for rows in members.values()]
        sizes = Counter(dataset for dataset, _ in members)
        # Of every class, so that those of a dataset add up to the same in all datasets.
        self.weights = None if len(sizes) == 1 else torch.tensor([1 / sizes[dataset] for dataset, _ in members])

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        for chosen in self._classes(generator):
            rows = self.members[chosen]
            yield int(rows[torch.randint(len(rows), (1,), generator=generator)])

    def _classes(self, generator: torch.Generator) -> list[int]:
        number = len(self.members)
        if self.weights is not None:
            return torch.multinomial(self.weights, self.num_samples, replacement=True, generator=generator).tolist()
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


class From(Sampler[int]):
    """A sampler without its first draws: they are drawn, so that the others stay the same, but no post is loaded."""

    def __init__(self, sampler: Sampler[int], start: int):
        self.sampler, self.start = sampler, start

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(iter(self.sampler), self.start, None)

    def __len__(self) -> int:
        return max(len(self.sampler) - self.start, 0)  # type: ignore[arg-type]


def training_sampler(
    posts: Sequence[Mapping[str, Any]], arguments: TrainingArguments, num_samples: int
) -> Sampler[int]:
    """The sampler that the arguments describe.

    Args:
        posts: encoded ones.
        arguments: of the training.
        num_samples: how many posts the whole run reads.
    """
    if not arguments.class_balanced:
        return ShuffledSampler(len(posts), num_samples, arguments.seed)
    classes = [(post["task"], post["label"]) for post in posts]
    datasets = [post.get("dataset") for post in posts]
    in_turn = arguments.class_order == "in_turn"
    if in_turn and len(set(datasets)) > 1:
        raise ValueError('class_order must be "drawn" where several datasets are trained on, got "in_turn".')
    return ClassBalancedSampler(classes, num_samples, arguments.seed, in_turn, datasets)
