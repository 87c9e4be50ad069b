"""The graph as JSON lines: a post a line, with its mentions and relations."""

from __future__ import annotations

import json
import os

from ..data.whole_file import whole_file
from .run_folder import JSON_LINES
from .tables import GraphTables


def write_json_lines(graph: GraphTables, path: str | os.PathLike[str] | None = None) -> str:
    """Write `graph.jsonl`, in UTF-8, posts in the order of the input, whole or not at all.

    Args:
        graph: to be written; a part at a time is in memory.
        path: of the file; default: in the graph's folder.

    Returns:
        The path.
    """
    target = os.path.join(graph.folder, JSON_LINES) if path is None else os.fspath(path)
    with whole_file(target) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
        for part in graph.parts:
            for post in graph.posts(part):
                file.write(json.dumps(post, ensure_ascii=False) + "\n")
    return target
