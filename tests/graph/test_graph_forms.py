"""The graph in other forms: triples that another library reads back, and a HeteroData with hand-worked numbers."""

import json
import re

import numpy as np
import pytest
import torch

from modeling_mgvmoe.graph.entity_merging import entity_key, normalised_name
from modeling_mgvmoe.graph.hetero_data import build_hetero_data, relation_types
from modeling_mgvmoe.graph.hetero_data_files import load_hetero_data, save_hetero_data
from modeling_mgvmoe.graph.tables import GraphTables
from modeling_mgvmoe.graph.writers import BASE_IRI, literal, write_n_triples
from tests.support.graph_data import LABELS, colours, extract_all, png, write_posts

V = BASE_IRI + "vocabulary#"
# Two posts, the first with an image; "Kelo" and "KELO's" are one entity, and Mura is rejected once.
POSTS = [
    {"id": "a b/1", "text": 'Kelo met "Mura"\n\\ é', "image": {"bytes": png()}, "mentions": [[0, 4], [10, 14]]},
    {"id": "..", "text": "KELO's boat, Mura", "image": None, "mentions": [[0, 6], [13, 17]]},
    {"id": "3", "text": "nobody", "image": None, "mentions": []},
]  # fmt: skip
ANSWERS = {
    "a b/1": (
        [("boat", 0.75, (("boat", 0.75), ("bird", 0.25))), ("bird", 0.5, (("bird", 0.5), ("boat", 0.5)))],
        [(0, 1, "greets", 0.5), (1, 0, "chases", 0.625)],
    ),
    "..": (
        [("bird", 0.75, (("bird", 0.75), ("boat", 0.25))), (None, 0.5, (("boat", 0.5), ("bird", 0.25)))],
        [(0, 1, "greets", 1.0)],
    ),
    "3": ([], []),
}


def told(posts):
    """Answers by hand."""
    found = []
    for post in posts:
        mentions, relations = ANSWERS[post["id"]]
        found.append(
            {
                "mentions": [
                    {
                        "start": start, "end": end, "text": post["text"][start:end], "label": label, "score": score,
                        "scores": [{"label": name, "score": own} for name, own in scores],
                    }
                    for (start, end), (label, score, scores) in zip(post["mentions"], mentions, strict=True)
                ],
                "relations": [
                    {"head": head, "tail": tail, "label": label, "score": score, "scores": []}
                    for head, tail, label, score in relations
                ],
            }
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    file = write_posts(folder / "posts.parquet", POSTS)
    extract_all(file, folder / "graph", told, features=colours, part_size=2)
    return GraphTables(folder / "graph")


@pytest.mark.parametrize(
    ("mention", "name"),
    [
        ("Kelo", "kelo"),
        ("@Kelo_Mar's ", "kelo_mar"),
        ("“Dunvik   UNITED”,", "dunvik united"),
        ("#kelo", "kelo"),
        ("the Kelos’", "the kelos"),
        ("U.S.", "u.s"),
        ("ＫＥＬＯ ①", "kelo 1"),
        ("Straße", "strasse"),
        ("C++", "c"),
        ("!!", "!!"),
        ("'s", "s"),
    ],
)
def test_names_are_normalised(mention, name):
    assert normalised_name(mention) == name


def test_a_normalised_name_stays_as_it_is():
    for mention in ("@Kelo_Mar's ", "“Dunvik   UNITED”,", "#x's'", "a's's", "(b)'"):
        once = normalised_name(mention)
        assert normalised_name(once) == once


def test_types_keep_entities_apart_where_asked():
    assert entity_key("Paris", "city", "name") == entity_key("paris", "person", "name")
    assert entity_key("Paris", "city", "name_and_type") != entity_key("paris", "person", "name_and_type")
    with pytest.raises(ValueError, match="merging must be one of 'name', 'name_and_type', got 'id'"):
        entity_key("Paris", None, "id")


# The grammar of the recommendation (https://www.w3.org/TR/n-triples/#n-triples-grammar), without blank nodes and
# languages, of which there are none.
IRI = r"<(?:[^\x00-\x20<>\"{}|^`\\]|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8})*>"
STRING = r'"(?:[^\x22\x5C\x0A\x0D]|\\[tbnrf"\'\\]|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8})*"'
STATEMENT = re.compile(rf"{IRI} {IRI} (?:{IRI}|{STRING}(?:\^\^{IRI})?) \.")


def parsed(path):
    import rdflib

    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            assert STATEMENT.fullmatch(line.removesuffix("\n")), line
    return rdflib.Graph().parse(path, format="nt")


def test_triples_are_read_back_as_they_were_meant(graph, tmp_path):
    from rdflib import RDF, RDFS, XSD, Literal, URIRef

    triples = parsed(write_n_triples(graph, tmp_path / "graph.nt"))
    post, mention = URIRef(BASE_IRI + "post/a%20b%2F1"), URIRef(BASE_IRI + "mention/a%20b%2F1/0")
    assert triples.value(post, URIRef(V + "text")).toPython() == POSTS[0]["text"]
    assert triples.value(post, URIRef(V + "id")).toPython() == "a b/1"
    assert triples.value(mention, URIRef(V + "inPost")) == post
    assert triples.value(mention, URIRef(V + "start")) == Literal(0)
    assert triples.value(mention, URIRef(V + "type")) == URIRef(BASE_IRI + "type/boat")
    score = triples.value(mention, URIRef(V + "score"))
    assert score.datatype == XSD.float and score.toPython() == 0.75
    kelo, mura = URIRef(BASE_IRI + "entity/kelo"), URIRef(BASE_IRI + "entity/mura")
    other = URIRef(BASE_IRI + "mention/%2E%2E/0")
    assert triples.value(mention, URIRef(V + "refersTo")) == triples.value(other, URIRef(V + "refersTo")) == kelo
    assert triples.value(kelo, RDFS.label).toPython() == "kelo"
    assert set(triples.objects(kelo, URIRef(V + "type"))) == {
        URIRef(BASE_IRI + f"type/{one}") for one in ("boat", "bird")
    }
    assert list(triples.objects(kelo, URIRef(BASE_IRI + "relation-type/greets"))) == [mura]
    assert list(triples.objects(mura, URIRef(BASE_IRI + "relation-type/chases"))) == [kelo]
    relation = URIRef(BASE_IRI + "relation/%2E%2E/0/1")
    assert triples.value(relation, URIRef(V + "head")) == other
    assert triples.value(relation, URIRef(V + "score")).toPython() == 1.0
    rejected = URIRef(BASE_IRI + "mention/%2E%2E/1")
    assert triples.value(rejected, RDF.type) == URIRef(V + "Mention")
    assert triples.value(rejected, URIRef(V + "type")) is None and triples.value(rejected, URIRef(V + "score")) is None
    count = {
        kind: len(set(triples.subjects(RDF.type, URIRef(V + kind))))
        for kind in ("Post", "Mention", "Entity", "Relation")
    }
    assert count == {"Post": 3, "Mention": 4, "Entity": 2, "Relation": 3}


def test_triples_by_name_and_type_and_under_another_base(graph, tmp_path):
    base = "urn:graph:x#"
    path = write_n_triples(graph, tmp_path / "graph.nt", base, "name_and_type")
    names = {str(subject) for subject in parsed(path).subjects() if "entity/" in subject}
    assert names == {base + f"entity/{name}" for name in ("kelo/boat", "kelo/bird", "mura/bird", "mura")}


@pytest.mark.parametrize(
    "text", ['"', "\\", "a\nb\r\tc\x08\x0c", "\x00\x01\x7f\x85\u2028", "é 𝄞 \ufffe", "\\u0041", "'<>"]
)
def test_any_string_is_a_literal_on_one_line(text, tmp_path):
    from rdflib import Graph, URIRef

    line = Graph().add((URIRef("urn:a"), URIRef("urn:b"), literal(text))).serialize(format="nt").strip("\n")
    assert len(line.encode().split(b"\n")) == 1 and "\r" not in line
    (tmp_path / "one.nt").write_bytes(line.encode() + b"\n")
    ((_, _, thing),) = parsed(str(tmp_path / "one.nt"))
    assert str(thing) == text


def test_numbers_are_typed_literals():
    assert literal(3).n3() == '"3"^^<http://www.w3.org/2001/XMLSchema#integer>'
    # The shortest decimal that is the same float32; no exponent.
    assert literal(0.30000001192092896).n3() == '"0.3"^^<http://www.w3.org/2001/XMLSchema#float>'
    assert literal(1e-12).n3() == '"0.000000000001"^^<http://www.w3.org/2001/XMLSchema#float>'
    with pytest.raises(TypeError, match="got bool"):
        literal(True)


@pytest.mark.parametrize(
    "base", ["example.org/", "https://example.org", "https://a b/", "https://a<b/", "http:/{x}/", ""]
)
def test_a_base_that_is_none_is_refused(graph, tmp_path, base):
    with pytest.raises(ValueError, match="base_iri must be an absolute IRI"):
        write_n_triples(graph, tmp_path / "graph.nt", base)
    assert not list(tmp_path.iterdir())


def edges(data, *kind):
    store = data[kind]
    names = [data[kind[0]].name if "name" in data[kind[0]] else None, data[kind[2]].name]
    ends = [
        tuple(number if own is None else own[number] for own, number in zip(names, pair, strict=True))
        for pair in store.edge_index.t().tolist()
    ]
    return dict(zip(ends, store.edge_attr.flatten().tolist(), strict=True))


def test_hetero_data_by_hand(graph):
    data = build_hetero_data(graph)
    data.validate(raise_on_error=True)
    assert data["post"].id.tolist() == ["a b/1", "..", "3"] and data["post"].has_picture.tolist() == [
        True,
        False,
        False,
    ]
    assert data["post"].x.shape == (3, 3) and not data["post"].x[1:].any() and data["post"].x[0].all()
    assert data["mention"].text.tolist() == ["Kelo", "Mura", "KELO's", "Mura"]
    assert data["entity_type"].name.tolist() == ["boat", "bird", "cake"]  # the candidates, also those that nothing is
    assert data["mention"].y.tolist() == [0, 1, 1, -1]
    assert data["entity"].name.tolist() == ["kelo", "mura"] and data["entity"].num_mentions.tolist() == [2, 2]
    assert data["entity"].text[1] == "Mura"
    assert data["mention", "in", "post"].edge_index.tolist() == [[0, 1, 2, 3], [0, 0, 1, 1]]
    assert data["mention", "refers_to", "entity"].edge_index.tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    assert data["mention", "scored", "entity_type"].edge_index.shape == (2, 8)
    # Kelo: boat (0.75 + 0.25) / 2, bird (0.25 + 0.75) / 2. Mura: bird 0.5, of the one mention that is of a type.
    assert edges(data, "entity", "has_type", "entity_type") == {
        ("kelo", "boat"): 0.5, ("kelo", "bird"): 0.5, ("mura", "bird"): 0.5
    }  # fmt: skip
    assert data["entity", "has_type", "entity_type"].count.tolist() == [1, 1, 1]
    assert data["mention", "greets", "mention"].edge_index.tolist() == [[0, 2], [1, 3]]
    assert edges(data, "entity", "greets", "entity") == {("kelo", "mura"): 0.75}  # (0.5 + 1.0) / 2
    assert data["entity", "greets", "entity"].count.tolist() == [2]
    assert edges(data, "entity", "chases", "entity") == {("mura", "kelo"): 0.625}
    assert [kind[1] for kind in relation_types(data)] == ["greets", "chases"]


def test_hetero_data_by_name_and_type(graph):
    data = build_hetero_data(graph, "name_and_type")
    assert data["entity"].name.tolist() == ["kelo (boat)", "mura (bird)", "kelo (bird)", "mura"]
    assert edges(data, "entity", "greets", "entity") == {
        ("kelo (boat)", "mura (bird)"): 0.5,
        ("kelo (bird)", "mura"): 1.0,
    }


def test_torch_geometric_works_on_it(graph):
    from torch_geometric.transforms import RandomLinkSplit, ToUndirected

    data = build_hetero_data(graph)
    undirected = ToUndirected()(data)
    assert ("entity_type", "rev_has_type", "entity") in undirected.edge_types
    flat = data.to_homogeneous(node_attrs=[], edge_attrs=[])
    assert flat.num_nodes == 3 + 4 + 2 + 3 and flat.num_edges == 4 + 4 + 8 + 3 + 2 + 1 + 1 + 1
    parts = RandomLinkSplit(num_val=0.25, num_test=0.25, edge_types=[("mention", "refers_to", "entity")])(data)
    assert len(parts) == 3
    kept = data.subgraph({"mention": torch.tensor([0, 1])})
    assert kept["mention"].num_nodes == 2 and kept["mention"].text.tolist() == ["Kelo", "Mura"]


def test_graph_networks_take_every_node_type(graph):
    """A `ModuleDict` refuses a name that torch modules use themselves, as "type" is."""
    from torch_geometric.nn import SAGEConv, to_hetero
    from torch_geometric.transforms import ToUndirected

    data = ToUndirected()(build_hetero_data(graph))
    assert set(torch.nn.ModuleDict({kind: torch.nn.Identity() for kind in data.node_types})) == {
        "post", "mention", "entity", "entity_type",
    }  # fmt: skip

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = SAGEConv((-1, -1), 4)

        def forward(self, x, edge_index):
            return self.conv(x, edge_index).relu()

    network = to_hetero(Network(), data.metadata())
    found = network({kind: torch.ones(data[kind].num_nodes, 3) for kind in data.node_types}, data.edge_index_dict)
    assert {kind: tuple(own.shape) for kind, own in found.items()} == {
        kind: (data[kind].num_nodes, 4) for kind in data.node_types
    }


@pytest.fixture
def saved(graph, tmp_path):
    data = build_hetero_data(graph)
    return data, save_hetero_data(data, tmp_path / "hetero_data")


def test_saved_and_loaded_it_is_the_same(saved):
    data, folder = saved
    loaded = load_hetero_data(folder)
    assert loaded.node_types == data.node_types and loaded.edge_types == data.edge_types
    for one, other in zip(
        (*data.node_stores, *data.edge_stores), (*loaded.node_stores, *loaded.edge_stores), strict=True
    ):
        assert set(one.keys()) == set(other.keys())
        for name, value in one.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, other[name]) and value.dtype == other[name].dtype
            else:
                assert type(value) is type(other[name]) and bool(np.all(value == other[name]))


def test_a_folder_of_version_1_is_read_under_the_names_of_today(saved, tmp_path):
    data, folder = saved
    path = tmp_path / "hetero_data" / "graph.json"
    structure = json.loads(path.read_text())
    assert structure["version"] == 2
    old = json.dumps({**structure, "version": 1}).replace('"entity_type"', '"type"')
    assert old.count('["mention", "scored", "type"]') == old.count('["entity", "has_type", "type"]') == 1
    path.write_text(old)
    loaded = load_hetero_data(folder)
    assert loaded.node_types == data.node_types and loaded.edge_types == data.edge_types
    assert loaded["entity_type"].name.tolist() == data["entity_type"].name.tolist()


def test_what_is_no_graph_is_refused(saved, tmp_path):
    _, folder = saved
    with pytest.raises(FileNotFoundError, match=r"must hold graph.json and graph.safetensors"):
        load_hetero_data(tmp_path)
    structure = json.loads((tmp_path / "hetero_data" / "graph.json").read_text())
    path = tmp_path / "hetero_data" / "graph.json"
    path.write_text(json.dumps({**structure, "version": 3}))
    with pytest.raises(ValueError, match="version must be 1 or 2, got 3"):
        load_hetero_data(folder)
    path.write_text(json.dumps(structure).replace("0.row", "0.line"))
    with pytest.raises(ValueError, match="lacks '0.line'"):
        load_hetero_data(folder)
    path.write_text(json.dumps(structure))
    tensors = tmp_path / "hetero_data" / "graph.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"graph.safetensors cannot be read"):
        load_hetero_data(folder)


def test_mentions_without_types_and_posts_without_relations(tmp_path):
    """As when only relations, or nothing, was asked for."""

    def untyped(posts):
        return [
            {
                "mentions": [{"start": s, "end": e, "text": p["text"][s:e]} for s, e in p["mentions"]],
                "relations": [],
            }
            for p in posts
        ]

    labels = {"labels": {**LABELS["labels"], "typing": []}}
    extract_all(write_posts(tmp_path / "posts.parquet", POSTS), tmp_path / "graph", untyped, labels)
    graph = GraphTables(tmp_path / "graph")
    data = build_hetero_data(graph)
    data.validate(raise_on_error=True)
    assert data["mention"].y.tolist() == [-1] * 4 and data["entity_type"].num_nodes == 0 and not relation_types(data)
    assert len(parsed(write_n_triples(graph))) > 20
    (part,) = graph.parts
    assert [set(post["mentions"][0]) for post in graph.posts(part) if post["mentions"]] == [
        {"start", "end", "text"}
    ] * 2
