"""The files of a cache of picture features: a header in JSON, and shards in NumPy's format, each with a digest.

A shard is (pictures, Li, H') in half precision. Whatever is written is whole or not there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from .whole_file import whole_file, write_whole

FORMAT, VERSION = "mgvmoe image features", 1
HEADER, PLAN = "header.json", "plan.json"
DTYPE = np.dtype("<f2")
BLOCK = 1 << 20


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.npy"


def write_shard(folder: str, number: int, pictures: int, batches: Iterator[np.ndarray]) -> None:
    """Write features batch by batch; the file and, before it, its digest appear whole or not at all.

    Args:
        folder: of the cache.
        number: of the shard.
        pictures: how many will come.
        batches: (b, Li, H') each, half precision.
    """
    name = shard_name(number)
    path = os.path.join(folder, name)
    digest, written = hashlib.sha256(), 0
    with whole_file(path) as part:
        with open(part, "wb") as file:
            for batch in batches:
                content = np.ascontiguousarray(batch, dtype=DTYPE).tobytes()
                if not written:
                    start = io.BytesIO()
                    header = {"descr": DTYPE.str, "fortran_order": False, "shape": (pictures, *batch.shape[1:])}
                    np.lib.format.write_array_header_1_0(start, header)
                    content = start.getvalue() + content
                digest.update(content)
                file.write(content)
                written += len(batch)
        if written != pictures:
            raise ValueError(f"{name}: {pictures} pictures are needed, got {written}")
        entry = {"file": name, "pictures": pictures, "sha256": digest.hexdigest()}
        write_whole(f"{path}.json", json_bytes(entry))


def write_header(folder: str, header: dict[str, Any]) -> None:
    """Make the cache complete: its header, with a digest of itself."""
    header = {**header, "dtype": "float16"}
    header["sha256"] = hashlib.sha256(json_bytes(header)).hexdigest()
    write_whole(os.path.join(folder, HEADER), json_bytes(header))


def array_layout(path: str) -> tuple[tuple[int, ...], int]:
    """Shape of the array in a NumPy file, and where its numbers begin."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"version (1, 0) is needed, got {version}")
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            if fortran_order or dtype != DTYPE or len(shape) != 3:
                raise ValueError(f"rows of {DTYPE.str} with 3 axes are needed, got {dtype.str} and {shape}")
            return shape, file.tell()
    except ValueError as error:
        raise ValueError(f"{path}: corrupt, its head cannot be read: {error}") from error


def file_digest(path: str) -> str:
    """SHA-256, in hex, of a file of any size."""
    digest = hashlib.sha256()
    block = bytearray(BLOCK)
    with open(path, "rb", buffering=0) as file:
        while number := file.readinto(block):
            digest.update(memoryview(block)[:number])
    return digest.hexdigest()


def read_header(path: str) -> dict[str, Any]:
    """The header of a complete cache; ValueError if it is corrupt or of another format."""
    header = read_json(path)
    for name, value in (("format", FORMAT), ("version", VERSION)):
        if header.get(name) != value:
            raise ValueError(f"{path}: {name} must be {value!r}, got {header.get(name)!r}")
    content = {name: value for name, value in header.items() if name != "sha256"}
    digest = hashlib.sha256(json_bytes(content)).hexdigest()
    if header.get("sha256") != digest:
        raise ValueError(f"{path}: corrupt, its sha256 must be {header.get('sha256')!r}, got {digest!r}")
    if header["dtype"] != "float16":
        raise ValueError(f"{path}: dtype must be 'float16', got {header['dtype']!r}")
    return header


def read_json(path: str) -> dict[str, Any]:
    """A JSON object; ValueError if the file is none."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: corrupt, it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: corrupt, a JSON object is needed, got {content!r:.80}")
    return content


def json_bytes(content: Any) -> bytes:
    """What is written for a value, always the same bytes."""
    return json.dumps(content, sort_keys=True, indent=1).encode("utf-8")
