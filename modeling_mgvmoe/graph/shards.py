"""The folder of an extraction: which run it belongs to, the schema of its tables, and how their shards are written.

posts/ mentions/ relations/ errors/   the tables, a Parquet file for each shard
summary.json                          counts; there once all shards are
graph.jsonl graph.nt hetero_data/     other forms, made of the tables where they are asked for
_run/                                 what the run was started with

A shard appears only when complete, so a killed run resumes with the missing ones.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.atomic_io import remove_partial_files, whole_file, write_whole
from ..data.files import read_json_object
from ..data.fingerprint import differences, digest
from .post_check import CheckedRow, RowError, find_duplicates
from .post_files import IDENTITY, NOTES, PostFiles

TABLES = ("posts", "mentions", "relations", "errors")
# Why a row of the input could not be extracted.
ERROR_KINDS = ("format", "id", "duplicate", "text", "mentions", "image_text", "image", "extraction")

# What is said of a mention or a pair.
ANSWER = ("label", "score", "scores", "levels")


def scores_type() -> pa.DataType:
    """Labels with scores."""
    return pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))


def table_schemas(feature_size: int | None = None) -> dict[str, pa.Schema]:
    """Columns of each table.

    Args:
        feature_size: H', numbers of a post's image features; `None`: they were not asked for.

    Returns:
        By name of the table:

        - posts: `row`; `id`, as given or "row-N"; `text`; `has_image`; `image_error`, why there is no image
          though one was named; `num_mentions`, `num_relations`; with `feature_size` also `image_features` (H',),
          null for a post without image.
        - mentions: `row`, `post_id`; `mention`, its number in the post; `start`, `end`, characters of the text, the
          end exclusive; `text`; `label`, null if all were rejected; `score` of the label, or of the best one that was
          rejected; `scores`, the ranking, the best label first; `levels`, for labels that are paths the score of each
          level of the label. All of these are null if no types were asked for.
        - relations: `row`, `post_id`; `head`, `tail`, numbers of mentions; and `label` to `levels` as of mentions.
          Pairs that were rejected have no row.
        - errors: `row`; `id`, null where it could not be read; `kind`, one of [`ERROR_KINDS`]; `reason` in words.
    """
    post = [("row", pa.int64()), ("post_id", pa.string())]
    answer = [
        ("label", pa.string()),
        ("score", pa.float32()),
        ("scores", scores_type()),
        ("levels", scores_type()),
    ]
    posts = [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("text", pa.string()),
        ("has_image", pa.bool_()),
        ("image_error", pa.string()),
        ("num_mentions", pa.int32()),
        ("num_relations", pa.int32()),
    ]
    if feature_size is not None:
        posts.append(("image_features", pa.list_(pa.float32(), feature_size)))
    mention = [("mention", pa.int32()), ("start", pa.int32()), ("end", pa.int32()), ("text", pa.string())]
    return {
        "posts": pa.schema(posts),
        "mentions": pa.schema([*post, *mention, *answer]),
        "relations": pa.schema([*post, ("head", pa.int32()), ("tail", pa.int32()), *answer]),
        "errors": pa.schema(
            [("row", pa.int64()), ("id", pa.string()), ("kind", pa.string()), ("reason", pa.string())]
        ),
    }


# The file that says that its part is there comes last.
ORDER = (*(name for name in TABLES if name != "posts"), "posts")
KEY = b"mgvmoe"
NAME = re.compile(r"rows-(\d{12})-(\d{12})\.parquet")


class Part(NamedTuple):
    """Rows `start` to `end`, the end exclusive."""

    start: int
    end: int

    @property
    def name(self) -> str:
        """Path of its file in the folder of each table."""
        return f"rows-{self.start:012d}-{self.end:012d}.parquet"

    def path(self, folder: str, table: str) -> str:
        """Path of its file of one table."""
        return os.path.join(folder, table, self.name)


def all_parts(num_rows: int, part_size: int) -> list[Part]:
    """The parts of this many rows."""
    return [Part(start, min(start + part_size, num_rows)) for start in range(0, num_rows, part_size)]


def share(parts: Sequence[Part], index: int, number: int) -> list[Part]:
    """The `index`-th of `number` runs of neighbouring parts of about equal length: who reads them reads on."""
    return list(parts[len(parts) * index // number : len(parts) * (index + 1) // number])


def parts_there(folder: str) -> set[Part]:
    """Parts of which the last file has been written."""
    posts = os.path.join(folder, "posts")
    names = os.listdir(posts) if os.path.isdir(posts) else []
    return {Part(int(found[1]), int(found[2])) for name in names if (found := NAME.fullmatch(name))}


def write_part(
    folder: str, part: Part, tables: Mapping[str, pa.Table], fingerprint: str, counts: Mapping[str, Any]
) -> None:
    """Write a part, in the place of one that is there.

    Args:
        folder: with a folder for each table.
        part: its rows.
        tables: by name.
        fingerprint: of the run.
        counts: what was found, to be summed up.
    """
    note = json.dumps({"fingerprint": fingerprint, "rows": list(part), "counts": counts}, sort_keys=True)
    for name in ORDER:
        with whole_file(part.path(folder, name), "run the command again") as partial:
            # The rows of a part are one row group, however they came.
            table = tables[name].replace_schema_metadata({KEY: note.encode()})
            pq.write_table(table, partial, compression="zstd", row_group_size=max(1, table.num_rows))


def read_note(path: str) -> dict[str, Any]:
    """The note that [`write_part`] left in a file.

    Raises:
        ValueError: the file cannot be read, or was not written by it.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if KEY not in metadata:
        raise ValueError(f"{path} was not written by an extraction")
    return dict(json.loads(metadata[KEY]))


def check_part(folder: str, part: Part, fingerprint: str) -> dict[str, Any]:
    """The counts of a part.

    Raises:
        ValueError: one of its files is missing, damaged, or of another run.
    """
    counts: dict[str, Any] = {}
    for name in ORDER:
        path = part.path(folder, name)
        note = read_note(path)
        if note["fingerprint"] != fingerprint or note["rows"] != list(part):
            raise ValueError(f"{path} belongs to another run, or to other rows ({note['rows']})")
        counts = note["counts"]
    return counts


# What is counted of posts; of errors only what there is.
COUNTS = ("posts", "posts with an image", "posts without their image", "mentions", "mentions rejected", "relations")


class PartTables:
    """Takes posts with what was extracted from them, and rows that could not be; gives Arrow tables.

    Args:
        feature_size: of the posts' image features, `None` if there are none.

    Attributes:
        counts: what was found so far.
    """

    def __init__(self, feature_size: int | None = None) -> None:
        self.schemas = table_schemas(feature_size)
        self.with_features = feature_size is not None
        # Arrow holds the same in a tenth of the memory that Python's objects take.
        self.batches: dict[str, list[pa.RecordBatch]] = {name: [] for name in self.schemas}
        self.counts: Counter[str] = Counter()

    def add(
        self,
        rows: Sequence[CheckedRow],
        answers: Mapping[int, Mapping[str, Any] | RowError],
        features: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        """Add a batch of rows.

        Args:
            rows: of the input.
            answers: by row, for each post what was extracted from it, or why nothing could be.
            features: by row, (H',), for each post with an image.
        """
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in self.schemas}
        for row in rows:
            answer = answers.get(row.row)
            if isinstance(answer, RowError):
                self._add_error(found, row, answer.kind, str(answer))
            elif row.post is None or answer is None:
                self._add_error(found, row, str(row.kind), str(row.reason))
            else:
                self._add_post(found, row, answer, None if features is None else features.get(row.row))
        for name, entries in found.items():
            if entries:
                self.batches[name].append(pa.RecordBatch.from_pylist(entries, schema=self.schemas[name]))

    def tables(self) -> dict[str, pa.Table]:
        """The tables, by name."""
        return {
            name: pa.Table.from_batches(self.batches[name], schema=schema).combine_chunks()
            for name, schema in self.schemas.items()
        }

    def _add_error(self, found: dict[str, list[dict[str, Any]]], row: CheckedRow, kind: str, reason: str) -> None:
        found["errors"].append({"row": row.row, "id": row.id, "kind": kind, "reason": reason})
        self.counts.update(["errors", f"errors: {kind}"])

    def _add_post(
        self,
        found: dict[str, list[dict[str, Any]]],
        row: CheckedRow,
        answer: Mapping[str, Any],
        features: np.ndarray | None,
    ) -> None:
        assert row.post is not None
        mentions, relations = answer["mentions"], answer["relations"]
        key = {"row": row.row, "post_id": row.id}
        post = {
            "row": row.row,
            "id": row.id,
            "text": row.post["text"],
            "has_image": row.post["image"] is not None,
            "image_error": row.image_error,
            "num_mentions": len(mentions),
            "num_relations": len(relations),
        }
        if self.with_features:
            post["image_features"] = features
        found["posts"].append(post)
        for number, mention in enumerate(mentions):
            place = {name: mention[name] for name in ("start", "end", "text")}
            found["mentions"].append({**key, "mention": number, **place, **_answer(mention)})
        for relation in relations:
            place = {name: relation[name] for name in ("head", "tail")}
            found["relations"].append({**key, **place, **_answer(relation)})
        self.counts["posts"] += 1
        self.counts["posts with an image"] += post["has_image"]
        self.counts["posts without their image"] += row.image_error is not None
        self.counts["mentions"] += len(mentions)
        self.counts["mentions rejected"] += sum("scores" in one and one["label"] is None for one in mentions)
        self.counts["relations"] += len(relations)


def check_answer(answer: Mapping[str, Any]) -> None:
    """Refuse what is no answer to a post, so that it does not get into a table.

    Raises:
        ValueError: the extractor says so, a relation is not between two mentions, or a score is no number.
    """
    if answer.get("error"):
        raise ValueError(answer["error"])
    count = len(answer["mentions"])
    for name in ("mentions", "relations"):
        for number, entry in enumerate(answer[name]):
            if name == "relations" and not all(0 <= entry[key] < count for key in ("head", "tail")):
                pair = (entry["head"], entry["tail"])
                raise ValueError(f"{name}[{number}] must be between two of {count} mentions, got {pair}")
            for score in (entry.get("score"), *(one["score"] for one in entry.get("scores") or ())):
                if score is not None and not math.isfinite(score):
                    raise ValueError(f"{name}[{number}]: scores must be finite, got {score}")


def _answer(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Result of a mention or pair; `None` for what was not asked for."""
    return {name: entry.get(name) for name in ANSWER}


FORMAT, VERSION = "mgvmoe extracted graph", 1
SUMMARY = "summary.json"
JSON_LINES, N_TRIPLES, HETERO_DATA = "graph.jsonl", "graph.nt", "hetero_data"
DUPLICATES = "duplicates.npy"


def as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file."""
    return json.loads(json.dumps(value, default=str))


def read_identity(folder: str) -> dict[str, Any]:
    """Arguments that the run of a folder was started with.

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
    """Parts that are still to be made, and the damage in those that exist."""
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
    totals: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
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
