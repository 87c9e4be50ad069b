"""Label sets: the files of the configuration, and what is refused."""

import json
from pathlib import Path

import pytest

from modeling_mgvmoe.data.label_sets import LabelInfo, LabelSet, read_label_set

FOLDER = Path(__file__).resolve().parents[2] / "configuration" / "labels"


def content(**changes):
    classes = {"/a/b/peer": {"name": "peer", "description": "A peer.", "head_types": ["a"], "tail_types": ["b", "a"]}}
    types = {"a": "An a.", "b": "A b."}
    none = {"class": "None", "name": "nothing", "description": "No relation."}
    fixed = {"name": "toy", "version": 2, "source": "us", "task": "relation"}
    return {**fixed, "types": types, "none": none, "classes": classes, **changes}


def relation(**changes):
    entry = {"name": "boss", "description": "A boss.", "head_types": ["a"], "tail_types": ["b"]}
    return {"classes": {"/a/b/boss": {**entry, **changes}}}


def write(folder, value):
    path = folder / "toy.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


class TestFilesOfTheConfiguration:
    @pytest.mark.parametrize(
        ("name", "task", "size", "none", "left_out"),
        [
            ("mnre", "relation", 22, "None", ()),
            ("mnre_v1", "relation", 30, "none", ()),
            ("semeval", "relation", 18, "Other", ()),
            ("crossre", "relation", 17, None, ("related-to",)),
            ("wikidiverse", "typing", 12, None, ("Other",)),
            ("crossner", "typing", 39, None, ("misc",)),
        ],
    )
    def test_are_whole(self, name, task, size, none, left_out):
        found = read_label_set(FOLDER / f"{name}.json")
        assert (found.name, found.task, len(found.classes)) == (name, task, size)
        assert (found.none, found.left_out) == (none, left_out)
        assert len(set(found.descriptions().values())) == size
        assert all(sentence.endswith(".") for sentence in found.descriptions().values())
        assert all(raw == name or "_" not in info.name for raw, info in found.classes.items())

    @pytest.mark.parametrize("name", ["wikidiverse", "crossner", "twitter10000"])
    def test_sentences_of_types_are_of_ten_to_twenty_words(self, name):
        for sentence in read_label_set(FOLDER / f"{name}.json").descriptions().values():
            assert 10 <= len(sentence.split()) <= 20, sentence

    def test_both_versions_of_mnre_say_the_same_of_the_same_relation(self):
        first, second = (read_label_set(FOLDER / f"{name}.json") for name in ("mnre_v1", "mnre"))
        shared = set(first.classes) & set(second.classes)
        assert len(shared) == 21
        assert {raw: first.classes[raw] for raw in shared} == {raw: second.classes[raw] for raw in shared}
        assert (first.types, first.none_info) == (second.types, second.none_info)

    def test_fine_types_of_twitter10000_have_parents(self):
        found = read_label_set(FOLDER / "twitter10000.json")
        rest = {raw for raw in found.classes if raw.endswith("_other")}
        assert (len(found.classes), len(rest), set(found.left_out)) == (51, 7, rest | {"other"})
        assert {info.parent for info in found.classes.values()} == set(found.parents) and len(found.parents) == 8
        assert all(found.classes[raw].parent == raw.removesuffix("_other") for raw in rest)

    def test_domains_of_crossner(self):
        found = read_label_set(FOLDER / "crossner.json")
        sizes = {name: len(types) for name, types in found.domains.items()}
        assert sizes == {"politics": 9, "science": 17, "music": 13, "literature": 12, "ai": 14}
        assert {raw for types in found.domains.values() for raw in types} == set(found.classes)
        assert all("misc" in types for types in found.domains.values())


class TestWords:
    def test_posts_are_copied(self, tmp_path):
        label_set = read_label_set(write(tmp_path, content()))
        posts = [{"id": "1", "label": "/a/b/peer", "text": "x"}, {"id": "2", "label": "None", "text": "y"}]
        assert label_set.in_words(posts) == [
            {"id": "1", "label": "peer", "text": "x"},
            {"id": "2", "label": "nothing", "text": "y"},
        ]
        assert posts[0]["label"] == "/a/b/peer"
        message = "post '7': class '/a/b/pear' is not in the label set 'toy'; did you mean '/a/b/peer'?"
        with pytest.raises(ValueError, match=message.replace("?", r"\?")):
            label_set.in_words([{"id": "7", "label": "/a/b/pear"}])

    def test_descriptions_and_types(self, tmp_path):
        label_set = read_label_set(write(tmp_path, content()))
        assert label_set.descriptions() == {"peer": "A peer."}
        assert label_set.allowed_types() == {"peer": (("a",), ("b", "a"))}
        assert (label_set.version, label_set.none_info) == (2, LabelInfo("nothing", "No relation."))

    def test_of_types_there_are_none(self):
        assert LabelSet("toy", 1, "typing", {"x": LabelInfo("x", "An x.")}).allowed_types() == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "Expecting property name"),
        ("[1]", r"a JSON object is needed, got \[1\]"),
        ('{"name": "a", "name": "b"}', "keys must be distinct, got twice: 'name'"),
        (content(class_={}), "unknown key 'class_'; did you mean 'classes'"),
        ({"name": "toy"}, "'version', 'source', 'task', 'classes' must be given, got 'name'"),
        (content(version="1"), "version must be an integer from 1, got '1'"),
        (content(task="reading"), "task must be one of 'typing', 'relation', got 'reading'"),
        (content(classes={}), "classes must not be empty"),
        (content(classes=[]), r"classes must be an object, got \[\]"),
        (content(types={"a": ""}), "type 'a' must be a string that is not empty, .* got ''"),
        (content(none={"class": "None"}), "none: 'name', 'description' must be given"),
        (content(none={"class": "/a/b/peer", "name": "x", "description": "y"}), "none must not be one of the classes"),
        (content(none={"class": "No", "name": "peer", "description": "y"}), "class 'No': name must be unique"),
        (content(left_out="misc"), "left_out must be a list of strings that is not empty, got 'misc'"),
        (content(domains={"home": ["/a/b/per"]}), "domain 'home': .* got '/a/b/per'; did you mean '/a/b/peer'"),
        (content(**relation(name=" boss")), "class '/a/b/boss': name must be .* without white space .* got ' boss'"),
        (content(**relation(description=3)), "class '/a/b/boss': description must be a string .* got 3"),
        (
            content(**relation(head_type=["a"])),
            "class '/a/b/boss': unknown key 'head_type'; did you mean 'head_types'",
        ),
        (content(**relation(head_types=["aa"])), "class '/a/b/boss': head_types .* got 'aa'; did you mean 'a'"),
        (content(**relation(tail_types=[])), "class '/a/b/boss': tail_types must be a list of strings that is not"),
        (content(**relation(tail_types=["a", "a"])), "class '/a/b/boss': tail_types must not hold a string twice"),
        (content(task="typing"), "class '/a/b/peer': unknown key 'head_types'"),
    ],
)
def test_refused(tmp_path, value, message):
    path = write(tmp_path, value)
    with pytest.raises(ValueError, match=message) as error:
        read_label_set(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        read_label_set("nowhere.json")


def test_types_and_names_are_checked_without_a_file_too():
    twice = {"x": LabelInfo("thing", "An x."), "y": LabelInfo("thing", "A y.")}
    with pytest.raises(ValueError, match="class 'y': name must be unique, got 'thing', as 'x' has"):
        LabelSet("toy", 1, "typing", twice)
    with pytest.raises(ValueError, match="class 'x': head_types belong to relations, and to each if there are types"):
        LabelSet("toy", 1, "relation", {"x": LabelInfo("x", "An x.")}, {"a": "An a."})
    assert LabelSet("toy", 1, "relation", {"x": LabelInfo("x", "An x.")}).allowed_types() == {}
    with pytest.raises(ValueError, match="class 'x': parent must be among the parents, got 'b'; did you mean 'a'"):
        LabelSet("toy", 1, "typing", {"x": LabelInfo("x", "An x.", parent="b")}, parents={"a": LabelInfo("a", "A.")})


def test_inverses_of_relations():
    found = read_label_set(FOLDER / "mnre.json")
    inverses = found.inverses()
    assert inverses["parent of"] == "child of" and inverses["sibling of"] == "sibling of"
    assert "another name of the person" not in inverses
    # SemEval has both directions: each is the other's inverse.
    both = read_label_set(FOLDER / "semeval.json").inverses()
    assert all(both[other] == name for name, other in both.items())
    with pytest.raises(ValueError, match="inverse"):
        LabelSet("toy", 1, "typing", {"x": LabelInfo("x", "An x.", inverse="y")})


@pytest.mark.parametrize("name", ["crossre", "fewrel", "mnre", "mnre_v1", "semeval"])
def test_relations_with_another_inverse_have_roles(name):
    for info in read_label_set(FOLDER / f"{name}.json").classes.values():
        if info.inverse not in ("", info.name):
            assert info.head_role and info.tail_role, info.name
            assert not set(info.head_role) & set(info.tail_role), info.name


def test_roles_are_read_as_types():
    label_set = read_label_set(FOLDER / "crossre.json")
    types, texts = label_set.role_types()
    assert types["is part of"] == (("head of is part of",), ("tail of is part of",))
    assert texts["head of is part of"] == label_set.classes["part-of"].head_role
    assert texts["tail of is part of"] == label_set.classes["part-of"].tail_role
    # Both ends of a symmetric relation are the same.
    assert types["is opposed to"] == (("end of is opposed to",),) * 2
    assert set(types) == {info.name for info in label_set.classes.values()}
    with pytest.raises(ValueError, match="head_role: 'peer of'"):
        read_label_set(FOLDER / "mnre.json").role_types()


def test_roles_of_a_relation_and_its_inverse_are_each_others():
    classes = read_label_set(FOLDER / "semeval.json").classes
    for raw, info in classes.items():
        twin = classes[raw.replace("e1,e2", "e2,x").replace("e2,e1", "e1,e2").replace("e2,x", "e2,e1")]
        assert (twin.head_role, twin.tail_role) == (info.tail_role, info.head_role)


@pytest.mark.parametrize("more", [{"head_role": ("boss",)}, {"tail_role": ("boss",)},
                                  {"head_role": ("boss",), "tail_role": ("clerk",), "inverse": "x"}])  # fmt: skip
def test_roles_need_each_other_and_are_the_same_of_a_symmetric_relation(more):
    with pytest.raises(ValueError, match="head_role"):
        LabelSet("toy", 1, "relation", {"x": LabelInfo("x", "An x.", **{"inverse": "y", **more})})


def test_types_of_mentions_have_no_roles():
    with pytest.raises(ValueError, match="head_role"):
        LabelSet("toy", 1, "typing", {"x": LabelInfo("x", "An x.", head_role=("a",), tail_role=("b",))})
