"""The graph as a `HeteroData` of torch-geometric.

| nodes | attributes |
|---|---|
| post | `id`, `row`; `x` (posts, H') and `has_image`, if image features were asked for: zeros without an image |
| mention | `text`; `y`, the number of its type, -1 if all were rejected; `score` |
| entity | `name`, normalised; `text`, as it is written most often; `num_mentions` |
| entity_type | `name`; not "type", which is a method of every torch module and so no name in a `ModuleDict` |

Strings are arrays of NumPy.

| edges | `edge_attr` (edges, 1) | |
|---|---|---|
| mention, in, post | | |
| mention, refers_to, entity | | |
| mention, scored, entity_type | score | the ranking of every mention |
| entity, has_type, entity_type | mean score over mentions of a type that rank this one | `count`, those of this one |
| mention, LABEL, mention | score | head to tail; one kind of edge for each relation that occurs |
| entity, LABEL, entity | mean score | the same between entities, each pair once; `count`, of the mentions' relations |
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import load_file, save_file

from ..data.atomic_io import whole_folder
from ..data.files import read_json_object
from ..data.progress_bar import progress_bar
from .tables import GraphTables, entity_key

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

FORMAT, VERSION = "mgvmoe hetero data", 2
# Version 1 named the node type "type".
OLD_VERSION, OLD_NAMES = 1, {"type": "entity_type"}
TENSORS, STRUCTURE = "graph.safetensors", "graph.json"


def build_hetero_data(graph: GraphTables, merging: str = "name", progress: bool = False) -> HeteroData:
    """Read a whole graph into memory, but for the posts' texts.

    Args:
        graph: tables of the extraction.
        merging: which mentions are one entity, of `tables.MERGING`.
        progress: show a progress bar.

    Returns:
        The data, see the top of this file.
    """
    from torch_geometric.data import HeteroData

    builder = _Builder(graph, merging)
    for part in progress_bar(graph.parts, "building the graph", unit="part", show=progress):
        builder.add_posts(graph.table("posts", part))
        builder.add_mentions(graph.table("mentions", part))
        builder.add_relations(graph.table("relations", part))
    data = HeteroData()
    builder.fill(data)
    return data


class _Numbers:
    """Things to numbers from 0, in order of first appearance."""

    def __init__(self, first: Iterable[Any] = ()) -> None:
        self.number_of: dict[Any, int] = {}
        for thing in first:
            self(thing)

    def __call__(self, thing: Any) -> int:
        return self.number_of.setdefault(thing, len(self.number_of))

    def __len__(self) -> int:
        return len(self.number_of)


class _Builder:
    """Gathers nodes and edges part by part, as arrays."""

    def __init__(self, graph: GraphTables, merging: str) -> None:
        labels = graph.identity.get("labels", {})
        self.merging = merging
        self.types, self.relations = _Numbers(labels.get("typing", ())), _Numbers(labels.get("relation", ()))
        self.entities = _Numbers()
        self.with_features = graph.identity["feature_size"] is not None
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.forms: Counter[tuple[int, str]] = Counter()  # how an entity is written
        self.columns: dict[str, list[np.ndarray]] = {}
        self.first_mention = np.empty(0, dtype=np.int64)  # of the posts of the current part
        self.part_rows = np.empty(0, dtype=np.int64)

    def _keep(self, **columns: Any) -> None:
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(np.asarray(values))

    def _column(self, name: str, dtype: Any) -> torch.Tensor:
        arrays = self.columns.get(name) or [np.empty(0)]
        return torch.from_numpy(np.concatenate(arrays).astype(dtype))

    def add_posts(self, table: pa.Table) -> None:
        counts = table["num_mentions"].to_numpy()
        self.part_rows = table["row"].to_numpy()
        self.first_mention = len(self.texts) + np.cumsum(counts) - counts
        self._keep(row=self.part_rows, post=np.repeat(np.arange(len(table)) + len(self.ids), counts))
        self.ids += table["id"].to_pylist()
        if self.with_features:
            there = table["has_image"].to_numpy(zero_copy_only=False).astype(bool)
            kind = table["image_features"].type
            features = np.zeros((len(table), kind.list_size), dtype=np.float32)
            values = pc.list_flatten(table["image_features"]).to_numpy()
            features[there] = values.reshape(-1, kind.list_size)
            self._keep(has_image=there, x=features)

    def add_mentions(self, table: pa.Table) -> None:
        first = len(self.texts)
        texts, labels = table["text"].to_pylist(), table["label"].to_pylist()
        self.texts += texts
        entities = []
        for text, label in zip(texts, labels, strict=True):
            entities.append(self.entities(entity_key(text, label, self.merging)))
        self.forms.update(zip(entities, texts, strict=True))
        scores = table["scores"].combine_chunks()
        parents = pc.list_parent_indices(scores).to_numpy()
        ranked = pc.list_flatten(scores)
        self._keep(
            entity=entities,
            y=[-1 if label is None else self.types(label) for label in labels],
            mention_score=table["score"].to_numpy(),
            scored_mention=first + parents,
            scored_type=_numbered(ranked.field("label"), self.types),
            scored=ranked.field("score").to_numpy(zero_copy_only=False),
        )

    def add_relations(self, table: pa.Table) -> None:
        # Rows of a part rise, in every table.
        begin = self.first_mention[np.searchsorted(self.part_rows, table["row"].to_numpy())]
        self._keep(
            head=begin + table["head"].to_numpy(),
            tail=begin + table["tail"].to_numpy(),
            relation=_numbered(table["label"].combine_chunks(), self.relations),
            relation_score=table["score"].to_numpy(),
        )

    def fill(self, data: HeteroData) -> None:
        """Put everything into the data."""
        data["post"].id, data["post"].row = _strings(self.ids), self._column("row", np.int64)
        data["post"].num_nodes = len(self.ids)
        if self.with_features:
            data["post"].x = self._column("x", np.float32)
            data["post"].has_image = self._column("has_image", bool)
        entity, y = self._column("entity", np.int64), self._column("y", np.int64)
        mentions, entities = len(self.texts), len(self.entities)
        data["mention"].text, data["mention"].y = _strings(self.texts), y
        data["mention"].num_nodes = mentions
        data["mention"].score = self._column("mention_score", np.float32)
        data["entity"].name = _strings(
            [name if kind is None else f"{name} ({kind})" for name, kind in self.entities.number_of]
        )
        most: dict[int, str] = {}
        for (number, text), _ in self.forms.most_common():
            most.setdefault(number, text)
        data["entity"].text = _strings([most[number] for number in range(entities)])
        data["entity"].num_nodes = entities
        data["entity"].num_mentions = torch.bincount(entity, minlength=entities)
        data["entity_type"].name = _strings(list(self.types.number_of))
        data["entity_type"].num_nodes = len(self.types)

        everyone = torch.arange(mentions)
        data["mention", "in", "post"].edge_index = torch.stack([everyone, self._column("post", np.int64)])
        data["mention", "refers_to", "entity"].edge_index = torch.stack([everyone, entity])
        scored_mention = self._column("scored_mention", np.int64)
        scored_type, scored = self._column("scored_type", np.int64), self._column("scored", np.float32)
        store = data["mention", "scored", "entity_type"]
        store.edge_index, store.edge_attr = torch.stack([scored_mention, scored_type]), scored[:, None]
        self._fill_types(data, scored_mention, scored_type, scored, entity, y)
        self._fill_relations(data, entity)

    def _fill_types(
        self,
        data: HeteroData,
        scored_mention: torch.Tensor,
        scored_type: torch.Tensor,
        scored: torch.Tensor,
        entity: torch.Tensor,
        y: torch.Tensor,
    ) -> None:
        """Types of each entity, with their mean score over its typed mentions whose rankings have it."""
        typed = y >= 0
        kept = typed[scored_mention]
        scored_entity, scored_type, scored = entity[scored_mention[kept]], scored_type[kept], scored[kept]
        pairs, counts = torch.unique(torch.stack([entity[typed], y[typed]]), dim=1, return_counts=True)
        size = max(1, len(self.types))
        keys = pairs[0] * size + pairs[1]
        scored_keys = scored_entity * size + scored_type
        place = torch.searchsorted(keys, scored_keys).clamp(max=max(0, len(keys) - 1))
        known = keys[place] == scored_keys if len(keys) else torch.zeros_like(scored_keys, dtype=torch.bool)
        place, scored = place[known], scored[known]
        total = torch.zeros(len(keys)).index_add(0, place, scored)
        store = data["entity", "has_type", "entity_type"]
        store.edge_index, store.count = pairs, counts
        store.edge_attr = (total / torch.bincount(place, minlength=len(keys)))[:, None]

    def _fill_relations(self, data: HeteroData, entity: torch.Tensor) -> None:
        head, tail = self._column("head", np.int64), self._column("tail", np.int64)
        relation, score = self._column("relation", np.int64), self._column("relation_score", np.float32)
        for label, number in self.relations.number_of.items():
            own = relation == number
            if not bool(own.any()):
                continue
            between = torch.stack([head[own], tail[own]])
            store = data["mention", label, "mention"]
            store.edge_index, store.edge_attr = between, score[own][:, None]
            pairs, place, counts = torch.unique(entity[between], dim=1, return_inverse=True, return_counts=True)
            store = data["entity", label, "entity"]
            store.edge_index, store.count = pairs, counts
            store.edge_attr = (torch.zeros(len(counts)).index_add(0, place, score[own]) / counts)[:, None]


def _numbered(labels: pa.Array, numbers: _Numbers) -> np.ndarray:
    """(labels,), the number of each; labels that are not yet known get one."""
    if not len(labels):
        return np.empty(0, dtype=np.int64)
    coded = labels.dictionary_encode() if not pa.types.is_dictionary(labels.type) else labels
    known = np.array([numbers(label) for label in coded.dictionary.to_pylist()], dtype=np.int64)
    return known[coded.indices.to_numpy(zero_copy_only=False)]


def _strings(values: Sequence[str]) -> np.ndarray:
    """Make an array, since torch-geometric picks nodes out of arrays but not out of lists."""
    return np.array(values, dtype=object)


def relation_types(data: HeteroData) -> Sequence[tuple[str, str, str]]:
    """The kinds of edges between entities, which are the relations."""
    return [kind for kind in data.edge_types if kind[0] == kind[2] == "entity"]


def save_hetero_data(data: HeteroData, folder: str | os.PathLike[str]) -> str:
    """Write a graph atomically, without pickle: tensors as safetensors, names and structure as JSON.

    Args:
        data: its attributes must be tensors, arrays of strings or JSON values.
        folder: replaced if it exists.

    Returns:
        The folder.

    Raises:
        TypeError: an attribute is none of these.
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
    """Read a graph that [`save_hetero_data`] wrote, of format version 1 or 2.

    Raises:
        FileNotFoundError: the folder lacks one of the two files.
        ValueError: a file is damaged or has another format.
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


def read_graph(folder: str, merging: str = "name") -> HeteroData:
    """The graph of a folder: that of `examples/extract.py`, or one of `save_hetero_data`.

    Args:
        folder: of either kind.
        merging: of the first kind, what mentions of one entity share.

    Raises:
        FileNotFoundError: it is neither.
    """
    if os.path.isfile(os.path.join(folder, STRUCTURE)):
        return load_hetero_data(folder)
    try:
        graph = GraphTables(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"graph: {error}; nor does it hold {STRUCTURE}") from error
    return build_hetero_data(graph, merging, progress=True)
