"""The folder of an extraction: which run it belongs to, what is done, and what came out.

posts/ mentions/ relations/ errors/   the tables, a Parquet file for each part
summary.json                          counts; there once all parts are
graph.jsonl graph.nt hetero_data/     other forms, made of the tables where they are asked for
_run/                                 what the run was started with
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.atomic_io import remove_partial_files, whole_file, write_whole
from ..data.files import read_json_object
from ..data.fingerprint import differences, digest
from .post_check import find_duplicates
from .post_files import PostFiles
from .shards import TABLES, Part, all_parts, check_part, parts_there

FORMAT, VERSION = "mgvmoe extracted graph", 1
SUMMARY, NOTES = "summary.json", "_run"
JSON_LINES, N_TRIPLES, HETERO_DATA = "graph.jsonl", "graph.nt", "hetero_data"
IDENTITY, DUPLICATES = "run.json", "duplicates.npy"


def as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file."""
    return json.loads(json.dumps(value, default=str))


def read_identity(folder: str) -> dict[str, Any]:
    """What the run of a folder was started with.

    Raises:
        FileNotFoundError: the folder holds no extraction.
        ValueError: the file is damaged or of another version.
    """
    path = os.path.join(folder, NOTES, IDENTITY)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{folder!r} holds no extracted graph: {path} does not exist")
    content = read_json_object(path)
    for name, value in (("format", FORMAT), ("version", VERSION)):
        if content.get(name) != value:
            raise ValueError(f"{path}: {name} must be {value!r}, got {content.get(name)!r}")
    return content


def begin(folder: str, identity: Mapping[str, Any], posts: PostFiles, overwrite: bool = False) -> str:
    """Take a folder for a run: an empty one, or one in which the same run has begun.

    Args:
        folder: of the run.
        identity: all on which the output depends, as JSON values.
        posts: to be extracted; their ids are compared, once for a folder.
        overwrite: remove what another run has left.

    Returns:
        The run's fingerprint.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: it holds another run.
    """
    identity = {"format": FORMAT, "version": VERSION, **as_json(identity)}
    notes = os.path.join(folder, NOTES)
    if overwrite:
        _remove_run(folder)
    if os.path.isfile(os.path.join(notes, IDENTITY)):
        there, here = (
            {**one, "input": {file["file"]: file for file in one["input"]}}
            for one in (read_identity(folder), identity)
        )
        found = list(differences(there, here))
        if found:
            raise ValueError(
                f"output: {folder} belongs to another run: {'; '.join(found[:5])}"
                f"{f' (and {len(found) - 5} more)' if len(found) > 5 else ''}. Choose another folder, or --overwrite."
            )
    else:
        # Without its identity a folder is empty, or a run was killed in its first moments.
        empty = [name for name in TABLES if os.path.isdir(path := os.path.join(folder, name)) and not os.listdir(path)]
        others = sorted({name for name in os.listdir(folder) if not name.startswith(".")} - {NOTES, *empty})
        if others:
            raise FileExistsError(
                f"output: {folder} is not empty and holds no extraction, got {', '.join(others[:5])}; choose another."
            )
    for name in (*TABLES, NOTES, ""):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        remove_partial_files(os.path.join(folder, name))
    if not os.path.isfile(os.path.join(notes, DUPLICATES)):
        pairs = find_duplicates(posts.ids(), notes)
        with whole_file(os.path.join(notes, DUPLICATES)) as partial, open(partial, "wb") as file:
            np.save(file, pairs, allow_pickle=False)
    if not os.path.isfile(os.path.join(notes, IDENTITY)):
        write_whole(os.path.join(notes, IDENTITY), json.dumps(identity, indent=1, ensure_ascii=False).encode())
    return digest(identity)


def read_duplicates(folder: str) -> np.ndarray:
    """Rows that have an earlier row's id, (duplicates, 2); left on the disk until it is looked up."""
    pairs = np.load(os.path.join(folder, NOTES, DUPLICATES), mmap_mode="r", allow_pickle=False)
    return np.asarray(pairs)


def write_todo(folder: str, parts: Sequence[Part], shard: str, fingerprint: str) -> None:
    """Write down which parts are to be made, for the other processes."""
    content = {"fingerprint": fingerprint, "parts": [list(part) for part in parts]}
    write_whole(os.path.join(folder, NOTES, f"todo-{shard}.json"), json.dumps(content).encode())


def read_todo(folder: str, shard: str) -> tuple[list[Part], str]:
    """The parts of [`write_todo`], and the fingerprint of the run."""
    content = read_json_object(os.path.join(folder, NOTES, f"todo-{shard}.json"))
    return [Part(*rows) for rows in content["parts"]], content["fingerprint"]


def missing_parts(folder: str, parts: Sequence[Part], fingerprint: str) -> tuple[list[Part], list[str]]:
    """Those of some parts that have to be made, and what is wrong with those of them that are there."""
    there = parts_there(folder)
    missing, faults = [], []
    for part in parts:
        if part not in there:
            missing.append(part)
            continue
        try:
            check_part(folder, part, fingerprint)
        except ValueError as error:
            missing.append(part)
            faults.append(str(error))
    return missing, faults


def finish(folder: str) -> dict[str, Any] | None:
    """Write the summary if all parts are there.

    Returns:
        The summary; `None` while a part is missing.

    Raises:
        ValueError: a part is damaged, or there is one that does not belong there.
    """
    identity = read_identity(folder)
    fingerprint = digest(identity)
    parts = all_parts(num_rows(identity), identity["part_size"])
    there = parts_there(folder)
    strange = sorted(there - set(parts))
    if strange:
        raise ValueError(f"{strange[0].path(folder, 'posts')} is no part of this run; remove it")
    if len(there) < len(parts):
        return None
    totals: Counter[str] = Counter()
    for part in parts:
        totals.update(check_part(folder, part, fingerprint))
    summary = {"rows": num_rows(identity), "parts": len(parts), **dict(sorted(totals.items()))}
    if summary["rows"] != summary.get("posts", 0) + summary.get("errors", 0):
        raise ValueError(f"{folder}: posts and errors must be {summary['rows']} together, got {summary}")
    for name in TABLES:
        remove_partial_files(os.path.join(folder, name), everywhere=True)
    write_whole(os.path.join(folder, SUMMARY), json.dumps(summary, indent=1).encode())
    return summary


def num_rows(identity: Mapping[str, Any]) -> int:
    """Rows of the input of a run."""
    return sum(file["rows"] for file in identity["input"])


def _remove_run(folder: str) -> None:
    """Remove an extraction and nothing else; its identity goes last."""
    if not os.path.isdir(os.path.join(folder, NOTES)):
        return
    for name in (SUMMARY, JSON_LINES, N_TRIPLES, HETERO_DATA, *TABLES, NOTES):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.remove(path)
