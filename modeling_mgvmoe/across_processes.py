"""What couples the processes of a training run: the rows of all of them, gathered with gradient.

Some objectives couple the posts of a batch (E6, E10, E11) or are means over its tokens (E4, E5). Under several
processes they are taken over the batch of all processes. Each process gathers what they need, computes the same loss
from it and goes back through it. The mean of the gradients over the processes, which data parallel wrappers take, is
then the gradient of one process with the whole batch.
"""

from typing import Any, cast

import torch
import torch.distributed as distributed


def number_of_processes() -> int:
    """How many processes train together; 1 if `torch.distributed` is not in use."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class _GatherRows(torch.autograd.Function):
    """Concatenates rows over the processes; their gradient is the sum of what the processes have for them.

    `torch.distributed`'s own `all_gather` has no gradient at all. With that of the own loss alone, what depends on a
    row in the other processes' losses would be missing, and DDP's mean would divide the rest by their number.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        device, processes = tensors[0].device, number_of_processes()
        # Counts and sums are among the rows, so never in half precision. The same on every process, whatever the
        # dtypes under autocast of a process without pictures.
        dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
        rows = torch.tensor([len(tensor) for tensor in tensors], device=device)
        rows_of_each = [torch.empty_like(rows) for _ in range(processes)]
        distributed.all_gather(rows_of_each, rows)
        widths = [tensor.shape[1:].numel() for tensor in tensors]
        sizes = [
            [number * width for number, width in zip(numbers, widths, strict=True)]
            for numbers in torch.stack(rows_of_each).tolist()
        ]
        flat = torch.cat([tensor.to(device, dtype).flatten() for tensor in tensors])
        # Every process must bring equally much.
        padded = flat.new_zeros(max(map(sum, sizes)))
        padded[: len(flat)] = flat
        parts = [torch.empty_like(padded) for _ in range(processes)]
        distributed.all_gather(parts, padded)
        pieces = [part[: sum(size)].split(size) for part, size in zip(parts, sizes, strict=True)]
        ctx.sizes, ctx.dtype = sizes, dtype
        ctx.like = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        return tuple(
            torch.cat(columns).view(-1, *tensor.shape[1:]).to(tensor)
            for tensor, columns in zip(tensors, zip(*pieces, strict=True), strict=True)
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        device, process = gradients[0].device, distributed.get_rank()
        flat = torch.cat([gradient.to(device, ctx.dtype).flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        found = []
        columns = flat.split([gradient.numel() for gradient in gradients])
        for column, sizes, like in zip(columns, zip(*ctx.sizes, strict=True), ctx.like, strict=True):
            shape, dtype, home = like
            found.append(column.split(list(sizes))[process].view(shape).to(home, dtype))
        return tuple(found)


def gather_rows(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows of all processes, in the order of the processes, with gradient.

    One call for everything that a step needs: of two, the backward passes might come in different orders on different
    processes, or change places with the wrapper's own communication, and then never end.

    Args:
        tensors: (n, ...) of a floating dtype; n may differ between the processes, what follows it may not.

    Returns:
        As many tensors, (sum of n over the processes, ...).
    """
    return cast(tuple[torch.Tensor, ...], _GatherRows.apply(*tensors))


def random_generator(device: torch.device, shared: bool) -> torch.Generator:
    """A generator seeded from the global random state; if `shared`, from that of the first process, on all of them."""
    # Drawn on the CPU, where it costs no wait for the device, but sent from where the back end finds it.
    seed = torch.randint(2**63 - 1, (1,))
    if shared:
        seed = seed.to(device)
        distributed.broadcast(seed, src=0)
    return torch.Generator(device).manual_seed(int(seed))


__all__ = ["gather_rows", "number_of_processes", "random_generator"]
