"""Rows of all training processes, gathered with gradient.

Some objectives couple the posts of a batch (E6, E10, E11) or are means over its tokens (E4, E5). Under several
processes they are taken over the batch of all processes. Each process gathers what they need, computes the same loss
from it and goes back through it. The mean of the gradients over the processes, which data parallel wrappers take, is
then the gradient of one process with the whole batch.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as distributed


def number_of_processes() -> int:
    """Number of processes that train together; 1 without `torch.distributed`."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class Announcement:
    """Exchange before a gather: the number of rows of each process, and one seed for all.

    Made at the beginning of a step and needed at its end, it is on its way meanwhile, and no process waits for it.

    Args:
        rows: how many this process will bring of each tensor.
        device: of the tensors.
    """

    def __init__(self, rows: Sequence[int], device: torch.device) -> None:
        # The seed is drawn on the CPU, where it costs no wait for the device.
        own = torch.tensor([*rows, int(torch.randint(2**63 - 1, (1,)))], device=device)
        self.values = [torch.empty_like(own) for _ in range(number_of_processes())]
        self.work = distributed.all_gather(self.values, own, async_op=True)

    def received(self) -> list[list[int]]:
        """For each process its numbers of rows, and its seed behind them."""
        if self.work is not None:
            self.work.wait()
            self.work = None
        return cast(list[list[int]], torch.stack(self.values).tolist())

    def generator(self) -> torch.Generator:
        """The same on every process: seeded from the global random state of the first."""
        return torch.Generator(self.values[0].device).manual_seed(self.received()[0][-1])


class _GatherRows(torch.autograd.Function):
    """Concatenates rows over the processes; the gradient of all processes' losses, which are one and the same.

    `torch.distributed`'s own `all_gather` has no gradient at all. With that of the own loss alone, what depends on a
    row in the other processes' losses would be missing, and DDP's mean would divide the rest by their number. As every
    process computes the same loss from the same rows, their gradients need not be sent: their sum is a multiple.
    """

    @staticmethod
    def forward(ctx: Any, announcement: Announcement, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        device = tensors[0].device
        # Counts and sums are among the rows, so never in half precision. The same on every process, whatever the
        # dtypes under autocast of a process without images.
        dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
        widths = [tensor.shape[1:].numel() for tensor in tensors]
        rows = [numbers[:-1] for numbers in announcement.received()]
        sizes = [[number * width for number, width in zip(numbers, widths, strict=True)] for numbers in rows]
        flat = torch.cat([tensor.to(device, dtype).flatten() for tensor in tensors])
        # Every process must bring equally much.
        padded = flat.new_zeros(max(map(sum, sizes)))
        padded[: len(flat)] = flat
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        pieces = [part[: sum(size)].split(size) for part, size in zip(parts, sizes, strict=True)]
        ctx.rows = list(zip(*rows, strict=True))
        return tuple(
            torch.cat(columns).view(-1, *tensor.shape[1:]).to(tensor)
            for tensor, columns in zip(tensors, zip(*pieces, strict=True), strict=True)
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        process = distributed.get_rank()
        own = (gradient.split(rows)[process] for gradient, rows in zip(gradients, ctx.rows, strict=True))
        return (None, *(number_of_processes() * gradient for gradient in own))


def gather_rows(announcement: Announcement, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows of all processes, in the order of the processes, with gradient.

    What is computed from them must be the same on every process, and all of it part of the loss of each.
    One call for everything that a step needs: each is a wait for the slowest process.

    Args:
        announcement: of the numbers of rows of `tensors`.
        tensors: (n, ...) of a floating dtype; n may differ between the processes, what follows it may not.

    Returns:
        As many tensors, (sum of n over the processes, ...).
    """
    return cast(tuple[torch.Tensor, ...], _GatherRows.apply(announcement, *tensors))


def random_generator(device: torch.device) -> torch.Generator:
    """A generator seeded from the global random state."""
    # Drawn on the CPU, where it costs no wait for the device.
    return torch.Generator(device).manual_seed(int(torch.randint(2**63 - 1, (1,))))


__all__ = [
    "Announcement",
    "gather_rows",
    "number_of_processes",
    "random_generator",
]
