"""The transfer between domains, and CrossNER."""

import pytest

from modeling_mgvmoe.data.crossner import complete_label_set, crossner_data, name_from_tag, read_crossner
from modeling_mgvmoe.data.label_sets import LabelInfo, LabelSet
from tests.support.conll_files import lines, write


def domains(tmp_path, **sentences):
    for domain, text in sentences.items():
        for name in ("train", "dev", "test"):
            write(tmp_path / domain / f"{name}.txt", lines(*text))
    return tmp_path


def toy_labels(**names):
    classes = {raw: LabelInfo(name, f"A {name}.") for raw, name in names.items()}
    return LabelSet("toy", 1, "typing", classes, left_out=("misc",))


class TestTransfer:
    def test_domains_and_types_decide(self, tmp_path):
        folder = domains(
            tmp_path,
            sea=["A/B-ship B/B-port C/B-misc", "D/B-person", "E/B-island F/B-fish"],
            land=["G/B-person H/B-town"],
            sky=["I/B-person J/B-cloud K/B-misc L/B-town", "M/B-star"],
        )
        labels = toy_labels(ship="ship", port="port", person="person", island="island", fish="fish", town="town",
                            cloud="cloud", star="fixed star", misc="rest")  # fmt: skip
        # Six types to learn from, in alphabetical order: fish island person port ship town. Seed 0 gives the places
        # 4, 0, 3, 1, 1: -4-> fish island person port town ship -0-> town island person port fish ship -3-> the same
        # -1-> town person island port fish ship -1-> the same. The first 6 // 4 of them are for validation.
        data = crossner_data(folder, ["sea", "land"], "sky", labels, seed=0)
        assert data.labels == {
            "train": {"typing": ("fish", "island", "person", "port", "ship")},
            "validation": {"typing": ("town",)},
            "test": {"typing": ("cloud", "fixed star")},
        }
        assert {split: sorted({post["label"] for post in posts}) for split, posts in data.posts.items()} == {
            "train": ["fish", "island", "person", "port", "ship"],
            "validation": ["town"],
            "test": ["cloud", "fixed star"],
        }
        # Three files each: the one town of the land, and neither the sky's town nor its person.
        assert len(data.posts["validation"]) == 3
        assert {post["source"] for post in data.posts["train"]} == {"crossner-sea", "crossner-land"}
        assert {post["source"] for post in data.posts["validation"]} == {"crossner-land"}
        assert {post["source"] for post in data.posts["test"]} == {"crossner-sky"}
        assert data.label_descriptions["fixed star"] == ("fixed star", "A fixed star.")
        identifiers = [post["id"] for posts in data.posts.values() for post in posts]
        assert len(set(identifiers)) == len(identifiers)

    def test_unknown_types_are_named_after_their_tags(self, tmp_path):
        folder = domains(
            tmp_path, one=["A/B-PERSON B/B-rockBand C/B-Misc"], two=["D/B-chem_element E/B-person", "F/B-rockband"]
        )
        with pytest.warns(UserWarning, match="does not know 5 types: .*'PERSON' is taken for 'person'.*'rock band'"):
            data = crossner_data(folder, ["one"], "two", toy_labels(person="person"))
        assert {*data.labels["train"]["typing"], *data.labels["validation"]["typing"]} == {"person", "rock band"}
        assert data.labels["test"] == {"typing": ("chem element",)}
        assert data.label_descriptions == {
            "person": ("person", "A person."),
            "chem element": ("chem element",),
            "rock band": ("rock band",),
        }

    @pytest.mark.parametrize(
        ("tag", "name"),
        [
            ("rockBand", "rock band"),
            ("chem_element", "chem element"),
            ("ORG", "org"),
            ("a-b.c", "a b c"),
            ("--", "--"),
        ],
    )
    def test_names(self, tag, name):
        assert name_from_tag(tag) == name

    def test_a_known_set_is_left_as_it_is(self, recwarn):
        labels = toy_labels(person="person")
        assert complete_label_set(labels, ["person", "misc"]) == (labels, {"person": "person", "misc": "misc"})
        assert not recwarn

    def test_a_domain_that_is_not_there(self, tmp_path):
        folder = domains(tmp_path, sea=["A/B-ship"])
        with pytest.raises(
            FileNotFoundError, match=r"see.train.txt does not exist; did you mean 'sea'\? \(there: sea\)"
        ):
            read_crossner(folder, ["see"])
        (folder / "sea" / "dev.txt").unlink()
        with pytest.raises(FileNotFoundError, match="sea.dev.txt"):
            read_crossner(folder, ["sea"])
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read_crossner(tmp_path / "nowhere", ["sea"])
