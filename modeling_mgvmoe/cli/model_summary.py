"""What a model is made of: its modules with the shapes that go through them, and their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from ..configuration_mgvmoe import MGVMoEConfig
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE

# Of the inputs that are sent through: different numbers, so that a shape tells what it counts.
POSTS, TOKENS, LABELS, LABEL_TOKENS = 2, 16, 3, 5
DEFAULT_IMAGE_SIZE = 224
NOT_CALLED = "-"
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ModuleRow:
    """One module.

    Attributes:
        name: path in the model; "" for the model.
        kind: name of its class.
        depth: of the path; 0 for the model.
        inputs, outputs: shapes of the tensors of its last call, which for the text encoder is that of the
            posts; none if it is not called as a module.
        parameters: of the module and all within it.
        trainable: those of them that training changes.
    """

    name: str
    kind: str
    depth: int
    inputs: Shapes
    outputs: Shapes
    parameters: int
    trainable: int


def summarize(model: MGVMoEForZeroShotIE, max_depth: int = 3) -> list[ModuleRow]:
    """A row for each module down to `max_depth`, in the order of definition, with the shapes of a made-up batch.

    The batch has `POSTS` posts of `TOKENS` tokens (fewer where the text encoder has no positions for them), a picture
    each, and `LABELS` labels of `LABEL_TOKENS` tokens.

    Args:
        model: left as it is.
        max_depth: at least 0; a parameter that is no module's within it is counted, not shown.
    """
    if max_depth < 0:
        raise ValueError(f"depth must not be negative, got {max_depth}.")
    shown = [(name, module) for name, module in model.named_modules() if _depth(name) <= max_depth]
    calls: dict[int, tuple[Shapes, Shapes]] = {}

    def note(module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        calls[id(module)] = (_shapes([args, kwargs]), _shapes(output))

    # With hooks on them the experts are called as modules, where without the model takes a shorter way.
    handles = [module.register_forward_hook(note, with_kwargs=True) for _, module in shown]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(**example_inputs(model.config, model.mgvmoe.max_text_length))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    rows = []
    for name, module in shown:
        numbers = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
        inputs, outputs = calls.get(id(module), ((), ()))
        rows.append(
            ModuleRow(
                name=name,
                kind=type(module).__name__,
                depth=_depth(name),
                inputs=inputs,
                outputs=outputs,
                parameters=sum(number for number, _ in numbers),
                trainable=sum(number for number, trained in numbers if trained),
            )
        )
    return rows


def example_inputs(config: MGVMoEConfig, longest: int | None) -> dict[str, torch.Tensor]:
    """Inputs of the model, ones for token ids and zeros for pixels."""
    tokens = min(TOKENS, longest or TOKENS)
    size = getattr(config.vision_config, "image_size", None) or DEFAULT_IMAGE_SIZE
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    channels = getattr(config.vision_config, "num_channels", 3)
    inputs = {
        "input_ids": torch.ones(POSTS, tokens, dtype=torch.long),
        "mention_positions": torch.tensor([[1] + [-1] * (config.max_mentions - 1)]).repeat(POSTS, 1),
        "pixel_values": torch.zeros(POSTS, channels, height, width),
        "candidate_input_ids": torch.ones(LABELS, min(LABEL_TOKENS, tokens), dtype=torch.long),
    }
    if config.score == "similarity":
        mask = torch.zeros(POSTS, config.max_mentions, tokens, dtype=torch.bool)
        mask[:, 0, 1] = True
        inputs["mention_mask"] = mask
    return inputs


def as_json(rows: list[ModuleRow]) -> dict[str, Any]:
    """The rows and the totals, as JSON can hold them."""
    model = rows[0]
    return {
        "parameters": model.parameters,
        "trainable": model.trainable,
        "frozen": model.parameters - model.trainable,
        "modules": [asdict(row) for row in rows],
    }


def as_table(rows: list[ModuleRow]) -> str:
    """A tree of modules with columns for shapes and parameters, and the totals below."""
    heads = ("module", "input", "output", "parameters", "trained")
    labels = _tree([(row.name.rpartition(".")[2], row.kind, row.depth) for row in rows])
    cells = [
        (label, _written(row.inputs), _written(row.outputs), f"{row.parameters:,}" if row.parameters else NOT_CALLED,
         _trained(row))
        for label, row in zip(labels, rows, strict=True)
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    rule = "+".join("-" * (width + 2) for width in widths)
    lines = [f"+{rule}+"]
    for number, line in enumerate((heads, *cells)):
        left = [cell.ljust(width) for cell, width in zip(line[:3], widths, strict=False)]
        lines.append("| " + " | ".join([*left, line[3].rjust(widths[3]), line[4].ljust(widths[4])]) + " |")
        if number == 0:
            lines.append(f"|{rule}|")
    lines.append(f"+{rule}+")
    model = rows[0]
    frozen = model.parameters - model.trainable
    lines.append(f"{model.parameters:,} parameters: {model.trainable:,} trained, {frozen:,} frozen")
    return "\n".join(lines)


def _depth(name: str) -> int:
    return name.count(".") + 1 if name else 0


def _shapes(value: Any) -> Shapes:
    """Of all tensors in nested arguments or outputs, in order."""
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape),)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return tuple(shape for item in value for shape in _shapes(item))
    return ()


def _written(shapes: Shapes, most: int = 2) -> str:
    """At most so many shapes; the whole model takes and gives a dozen."""
    if not shapes:
        return NOT_CALLED
    text = ", ".join("[" + ", ".join(map(str, shape)) + "]" for shape in shapes[:most])
    return text if len(shapes) <= most else f"{text}, ..."


def _trained(row: ModuleRow) -> str:
    if not row.parameters:
        return NOT_CALLED
    if row.trainable in (0, row.parameters):
        return "all" if row.trainable else "frozen"
    return f"{row.trainable:,}"


def _tree(nodes: list[tuple[str, str, int]]) -> list[str]:
    """Branches before the names, from each node's depth."""
    labels = []
    for place, (name, kind, depth) in enumerate(nodes):
        if depth == 0:
            labels.append(kind)
            continue
        branch = "├─" if _has_sibling(nodes, place, depth) else "└─"
        trunk = "".join("│  " if _has_sibling(nodes, place, level) else "   " for level in range(1, depth))
        labels.append(f"{trunk}{branch}({name}) {kind}")
    return labels


def _has_sibling(nodes: list[tuple[str, str, int]], place: int, depth: int) -> bool:
    """Whether at this depth another node comes below before the branch ends."""
    for _, _, other in nodes[place + 1 :]:
        if other <= depth:
            return other == depth
    return False
