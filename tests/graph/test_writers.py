"""Triples of a graph that another library reads back."""

import pytest

from modeling_mgvmoe.graph.writers import BASE_IRI, literal, write_n_triples
from tests.support.told_graph import POSTS
from tests.support.triples import parsed

V = BASE_IRI + "vocabulary#"


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
