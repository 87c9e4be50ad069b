"""Which types the head and the tail of a relation may have: checks, and the masks that the model reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from .spans import as_list

SLOTS = ("head", "tail")


def read_label_types(
    label_types: Mapping[str, Any] | None, labels: Sequence[str], name: str = "label_types"
) -> tuple[list[str], list[list[list[bool]]]]:
    """Reads the allowed types of some labels.

    Args:
        label_types: For a label (types of the head, types of the tail), each a type or a list of types. Labels without
            an entry may have any; entries of other labels are passed over, as those of a whole data set may be given.
        labels: Checked labels (C of them).
        name: How to call the argument in messages.

    Returns:
        The types of all entries in order of first appearance (T of them), also of labels that are no candidates now,
        so that a label's score does not depend on the others; and (C, 2, T), which of them head and tail may have.
        Two empty lists if there are no types.

    Raises:
        ValueError: If an entry is not two types or lists of types.
    """
    if label_types is None:
        return [], []
    if not isinstance(label_types, Mapping):
        raise ValueError(f"{name}: a dict of label to (head types, tail types) is needed (got {label_types!r:.80})")
    wrong = [label for label in label_types if not isinstance(label, str) or not label.strip()]
    if wrong:
        raise ValueError(f"{name}: labels are non-empty strings (got {', '.join(map(repr, wrong[:5]))})")
    allowed = {label.strip(): _read_entry(label, entry, name) for label, entry in label_types.items()}
    types = list(dict.fromkeys(one for entry in allowed.values() for slot in entry for one in slot))
    if not types:
        return [], []
    masks = []
    for label in labels:
        entry = allowed.get(label.strip())
        masks.append([[entry is None or one in entry[slot] for one in types] for slot in range(len(SLOTS))])
    return types, masks


def _read_entry(label: str, entry: object, argument: str) -> list[list[str]]:
    slots = as_list(entry) or []
    if len(slots) != len(SLOTS):
        raise ValueError(f"{argument}[{label!r}]: types of the head and types of the tail are needed (got {entry!r})")
    read = []
    for name, slot in zip(SLOTS, slots, strict=True):
        names = [slot] if isinstance(slot, str) else as_list(slot) or []
        if not names or not all(isinstance(one, str) and one.strip() for one in names):
            raise ValueError(f"{argument}[{label!r}], {name}: a type or a list of types is needed (got {slot!r})")
        read.append([one.strip() for one in names])
    return read


__all__ = ["read_label_types"]
