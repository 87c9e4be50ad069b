"""Graphs as JSON lines and as N-Triples."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
from rdflib import RDF, RDFS, XSD, Graph, Literal, Namespace, URIRef

from ..data.atomic_io import whole_file
from .shards import JSON_LINES, N_TRIPLES
from .tables import GraphTables, entity_key


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


BASE_IRI = "https://example.org/mgvmoe/"
# What a base may be: an absolute IRI, without the characters that IRIREF excludes.
BASE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20<>\"{}|^`\\]*[/#]")

Triple = tuple[URIRef, URIRef, URIRef | Literal]


def write_n_triples(
    graph: GraphTables,
    path: str | os.PathLike[str] | None = None,
    base_iri: str = BASE_IRI,
    merging: str = "name",
) -> str:
    """Write `graph.nt`, in UTF-8, whole or not at all.

    Args:
        graph: to be written; a part at a time is in memory.
        path: of the file; default: in the graph's folder.
        base_iri: what all names of the graph begin with.
        merging: of `tables.MERGING`.

    Returns:
        The path.

    Raises:
        ValueError: `base_iri` is not absolute, does not end with "/" or "#", or holds a character that none may hold.
    """
    check_base_iri(base_iri)
    target = os.path.join(graph.folder, N_TRIPLES) if path is None else os.fspath(path)
    names = _Names(base_iri)
    with whole_file(target) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
        for part in graph.parts:
            triples = Graph()
            for post in graph.posts(part):
                for triple in _triples(post, names, merging):
                    triples.add(triple)
            # Sorted: the order of a set differs from run to run.
            lines = sorted(filter(None, triples.serialize(format="nt").split("\n")))
            file.writelines(f"{line}\n" for line in lines)
    return target


def check_base_iri(base_iri: str) -> None:
    """Raise ValueError for what names cannot begin with."""
    if not BASE.fullmatch(base_iri):
        raise ValueError(
            f"base_iri must be an absolute IRI without blanks, <, >, quotes or braces, and end with / or #, got "
            f"{base_iri!r}"
        )


def literal(value: Any) -> Literal:
    """A string, an integer or a score as a literal; a score as the shortest number that is the same in float32.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, str):
        return Literal(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return Literal(str(value), datatype=XSD.integer)
    if isinstance(value, float):
        return Literal(np.format_float_positional(np.float32(value), trim="0"), datatype=XSD.float, normalize=False)
    raise TypeError(f"a string, an integer or a float is needed, got {type(value).__name__}")


def _encoded(name: str) -> str:
    # Nothing but dots would be a step in a path.
    return quote(name, safe="") if name.strip(".") else "%2E" * len(name)


class _Names:
    """IRIs below a base; names are percent-encoded, so that the IRIs are ASCII."""

    def __init__(self, base: str) -> None:
        self.base, self.vocabulary = base, Namespace(f"{base}vocabulary#")

    def __call__(self, kind: str, *names: str) -> URIRef:
        return URIRef(f"{self.base}{kind}/{'/'.join(map(_encoded, names))}")

    def word(self, name: str) -> URIRef:
        return self.vocabulary[name]


def _triples(post: dict[str, Any], names: _Names, merging: str) -> Iterator[Triple]:
    own, word = names("post", post["id"]), names.word
    yield own, RDF.type, word("Post")
    for key in ("id", "text", "row"):
        yield own, word(key), literal(post[key])
    entities = []
    for number, mention in enumerate(post["mentions"]):
        subject = names("mention", post["id"], str(number))
        name, kind = entity_key(mention["text"], mention.get("label"), merging)
        entity = names("entity", name) if kind is None else names("entity", name, kind)
        entities.append(entity)
        yield subject, RDF.type, word("Mention")
        yield subject, word("inPost"), own
        for key in ("start", "end", "text"):
            yield subject, word(key), literal(mention[key])
        yield subject, word("refersTo"), entity
        yield entity, RDF.type, word("Entity")
        yield entity, RDFS.label, literal(name)
        if mention.get("label") is not None:
            kind_of = names("type", mention["label"])
            yield subject, word("type"), kind_of
            yield subject, word("score"), literal(mention["score"])
            yield entity, word("type"), kind_of
            yield kind_of, RDF.type, word("Type")
            yield kind_of, RDFS.label, literal(mention["label"])
    for relation in post["relations"]:
        head, tail = relation["head"], relation["tail"]
        subject, kind_of = (
            names("relation", post["id"], str(head), str(tail)),
            names("relation-type", relation["label"]),
        )
        yield subject, RDF.type, word("Relation")
        yield subject, word("inPost"), own
        yield subject, word("head"), names("mention", post["id"], str(head))
        yield subject, word("tail"), names("mention", post["id"], str(tail))
        yield subject, word("label"), kind_of
        yield subject, word("score"), literal(relation["score"])
        yield kind_of, RDF.type, word("RelationType")
        yield kind_of, RDFS.label, literal(relation["label"])
        yield entities[head], kind_of, entities[tail]
