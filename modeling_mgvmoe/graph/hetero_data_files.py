"""A `HeteroData` on the disk, without pickle: tensors as safetensors, names and structure as JSON."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..data.atomic_io import whole_folder
from ..data.files import read_json_object

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

FORMAT, VERSION = "mgvmoe hetero data", 2
# Version 1 called a node type "type". Still read, under the name of today.
OLD_VERSION, OLD_NAMES = 1, {"type": "entity_type"}
TENSORS, STRUCTURE = "graph.safetensors", "graph.json"


def save_hetero_data(data: HeteroData, folder: str | os.PathLike[str]) -> str:
    """Write a folder that [`load_hetero_data`] reads, whole or not at all, in the place of one before it.

    Args:
        data: attributes of its nodes and edges are tensors, arrays of strings, or what JSON can hold.
        folder: to write.

    Returns:
        The folder.

    Raises:
        TypeError: an attribute is neither.
    """
    tensors: dict[str, torch.Tensor] = {}
    stores: list[dict[str, Any]] = []
    for store in (*data.node_stores, *data.edge_stores):
        values: dict[str, Any] = {}
        named: dict[str, str] = {}
        arrays: dict[str, list[str]] = {}
        for name, value in store.items():
            if isinstance(value, torch.Tensor):
                named[name] = f"{len(stores)}.{name}"
                tensors[named[name]] = value.contiguous()
            elif isinstance(value, np.ndarray):
                arrays[name] = value.tolist()
            else:
                values[name] = value
        stores.append({"type": store._key, "tensors": named, "arrays": arrays, "values": values})
    structure = json.dumps({"format": FORMAT, "version": VERSION, "stores": stores}, ensure_ascii=False)
    needed = len(structure.encode()) + sum(one.numel() * one.element_size() for one in tensors.values()) + 2**16
    with whole_folder(os.fspath(folder), needed, "run the command again") as partial:
        save_file(tensors, os.path.join(partial, TENSORS))
        with open(os.path.join(partial, STRUCTURE), "w", encoding="utf-8") as file:
            file.write(structure)
    return os.fspath(folder)


def load_hetero_data(folder: str | os.PathLike[str]) -> HeteroData:
    """The `HeteroData` that [`save_hetero_data`] has written, of this version or the one before.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file is damaged, or of another format.
    """
    from torch_geometric.data import HeteroData

    path, tensor_path = (os.path.join(folder, name) for name in (STRUCTURE, TENSORS))
    if not (os.path.isfile(path) and os.path.isfile(tensor_path)):
        raise FileNotFoundError(f"{os.fspath(folder)!r} must hold {STRUCTURE} and {TENSORS}")
    structure = read_json_object(path)
    if structure.get("format") != FORMAT:
        raise ValueError(f"{path}: format must be {FORMAT!r}, got {structure.get('format')!r}")
    version = structure.get("version")
    if version not in (OLD_VERSION, VERSION):
        raise ValueError(f"{path}: version must be {OLD_VERSION} or {VERSION}, got {version!r}")
    renamed = OLD_NAMES if version == OLD_VERSION else {}
    try:
        tensors = load_file(tensor_path)
    except Exception as error:  # safetensors has its own class, which it does not document
        raise ValueError(f"{tensor_path} cannot be read: {error}") from error
    data = HeteroData()
    for one in structure["stores"]:
        kind = one["type"]
        if isinstance(kind, str):
            store = data[renamed.get(kind, kind)]
        else:
            head, relation, tail = kind
            store = data[renamed.get(head, head), relation, renamed.get(tail, tail)]
        for name, key in one["tensors"].items():
            if key not in tensors:
                raise ValueError(f"{tensor_path} lacks {key!r}, which {path} names")
            store[name] = tensors[key]
        for name, value in one["arrays"].items():
            store[name] = np.array(value, dtype=object)
        for name, value in one["values"].items():
            store[name] = value
    return data
