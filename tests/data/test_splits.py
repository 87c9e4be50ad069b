"""Divisions of classes, by hand and from the files, which a command makes anew."""

import json
import runpy
from pathlib import Path

import pytest

from modeling_mgvmoe.data.label_sets import read_label_set
from modeling_mgvmoe.data.splits import (
    ClassSplit,
    crossner_class_split,
    grouped_class_split,
    m_unseen_split,
    met_class_splits,
    mre_class_split,
    read_splits,
)

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "configuration" / "splits"
LABELS = {path.stem: read_label_set(path) for path in (ROOT / "configuration" / "labels").glob("*.json")}
RELATIONS = list(LABELS["mnre"].classes)


class TestPapersRelations:
    def test_small_shuffle_by_hand(self):
        # The shuffle swaps places i = 6, 5, ..., 1 with a random place 0..i; the random words of seed 0 give the
        # places 4, 5, 0, 3, 1, 1:
        #   abcdefg -4-> abcdgfe -5-> abcdgfe -0-> gbcdafe -3-> gbcdafe -1-> gcbdafe -1-> gcbdafe
        # 7 // 3 + 1 = 3 are for training, 7 // 3 = 2 for validation, 2 are left.
        expected = ClassSplit(train=("g", "c", "b"), validation=("d", "a"), test=("f", "e"))
        assert mre_class_split(list("abcdefg"), seed=0) == expected

    def test_none_is_left_out_before_the_shuffle(self):
        # Seed 2 gives places 0, 3, 1, 0 for 5 names: abcde -0-> ebcda -3-> ebcda -1-> ecbda -0-> cebda. 2, 1, 2.
        expected = ClassSplit(train=("c", "e"), validation=("b",), test=("d", "a"))
        assert mre_class_split(["a", "b", "None", "c", "d", "e"], seed=2) == expected

    def test_of_mnre(self):
        split = mre_class_split(RELATIONS, seed=0)
        assert (len(split.train), len(split.validation), len(split.test)) == (8, 7, 7)
        assert {*split.train, *split.validation, *split.test} == set(RELATIONS)
        assert split != mre_class_split(RELATIONS, seed=1)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["a", "b", "c", "b"], "distinct, got twice: 'b'"),
            (["a", "b", "c", "None", "none"], "classes: at least 4 are needed for three splits"),
        ],
    )
    def test_refused(self, names, message):
        with pytest.raises(ValueError, match=message):
            mre_class_split(names, seed=0)


class TestGroups:
    def test_classes_of_a_group_stay_together(self):
        # Seed 0 and seven groups as above: gcbdafe, three, two, two.
        groups = {name: [f"{name}1", f"{name}2"] for name in "abcdefg"}
        split = grouped_class_split(groups, seed=0)
        assert split.train == ("g1", "g2", "c1", "c2", "b1", "b2")
        assert (split.validation, split.test) == (("d1", "d2", "a1", "a2"), ("f1", "f2", "e1", "e2"))
        with pytest.raises(ValueError, match="classes must be distinct, got twice: 'a1'"):
            grouped_class_split({**groups, "h": ["a1"]}, seed=0)

    def test_of_twitter10000(self):
        split = read_splits(FILES / "twitter10000.json")["seed-1"]
        assert [len(part) for part in vars(split).values()] == [15, 14, 15]


class TestTransfer:
    TYPES = {"a": ["v", "w", "misc"], "b": ["x", "w", "y", "misc"], "c": ["z", "w", "u", "misc"]}  # noqa: RUF012

    def test_the_target_keeps_what_is_only_its_own(self):
        # Sorted: v w x y. The random words of seed 0 give the places 0, 1, 0: vwxy -0-> ywxv -1-> yxwv -0-> xywv.
        split = crossner_class_split(self.TYPES, ["a", "b"], "c", seed=0)
        assert split == ClassSplit(train=("v", "w", "y"), validation=("x",), test=("u", "z"))
        assert split == crossner_class_split(self.TYPES, ["b", "a"], "c", seed=0)
        assert {crossner_class_split(self.TYPES, ["a", "b"], "c", seed).validation for seed in range(9)} > {("x",)}

    def test_one_type_at_least_is_for_validation(self):
        split = crossner_class_split(self.TYPES, ["a"], "b")
        assert (len(split.train), len(split.validation), split.test) == (1, 1, ("x", "y"))

    @pytest.mark.parametrize(
        ("train", "test", "message"),
        [
            (["a", "d"], "c", "domains: 'd' is not known; did you mean"),
            (["a", "c"], "c", "must be distinct, got twice: 'c'"),
            (["a", "a"], "c", "must be distinct, got twice: 'a'"),
            ([], "c", "two types to learn from, and one that only 'c' has, are needed, got"),
        ],
    )
    def test_refused(self, train, test, message):
        with pytest.raises(ValueError, match=message):
            crossner_class_split(self.TYPES, train, test)

    def test_a_target_without_types_of_its_own(self):
        with pytest.raises(ValueError, match=r"one that only 'd' has, are needed, got \['v', 'w'\] and \[\]"):
            crossner_class_split({**self.TYPES, "d": ["v"]}, ["a"], "d")


class TestUnseen:
    def test_by_hand(self):
        # As above, of 7 with seed 0: gcbdafe. 2 for testing, 2 for validation.
        expected = ClassSplit(train=("a", "f", "e"), validation=("b", "d"), test=("g", "c"))
        assert m_unseen_split(list("abcdefg"), 2, seed=0) == expected

    @pytest.mark.parametrize("m", [0, 4, True, 2.0])
    def test_m_must_leave_something_to_learn(self, m):
        with pytest.raises(ValueError, match="m must be an integer from 1 with 2 m < 7, the number of classes, got"):
            m_unseen_split(list("abcdefg"), m, seed=0)

    def test_classes_must_be_distinct(self):
        with pytest.raises(ValueError, match="classes must be distinct, got twice: 'a'"):
            m_unseen_split(list("abcda"), 1, seed=0)


class TestFiles:
    def test_a_command_makes_them_anew(self, tmp_path, capsys):
        runpy.run_path(str(ROOT / "examples" / "make_splits.py"))["main"](["--output_dir", str(tmp_path)])
        made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
        assert made == {path.name: path.read_text(encoding="utf-8") for path in FILES.iterdir()}
        assert "mnre.json: 10 splits" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["mnre", "mnre_v1", "wikidiverse", "crossner", "twitter10000"])
    def test_their_classes_are_those_of_the_label_set(self, name):
        label_set = LABELS[name]
        for division, split in read_splits(FILES / f"{name}.json").items():
            classes = {*split.train, *split.validation, *split.test}
            assert classes <= set(label_set.classes) - set(label_set.left_out), division
            if name != "crossner" or division.startswith("unseen"):
                assert classes == set(label_set.classes) - set(label_set.left_out), division

    def test_what_they_hold(self):
        mnre, met, crossner = (read_splits(FILES / f"{name}.json") for name in ("mnre", "wikidiverse", "crossner"))
        assert mnre["seed-3"] == mre_class_split(RELATIONS, 3)
        assert mnre["unseen-5-seed-1"] == m_unseen_split(RELATIONS, 5, 1)
        assert met == met_class_splits()
        # As the reference has it: its task 2 learns the places and is tested on the people.
        assert (met["task-2"].train[0], met["task-2"].validation[0], met["task-2"].test[0]) == (
            "Location",
            "Organization",
            "People",
        )
        own = {"field", "task", "product", "algorithm", "researcher", "metrics", "programlang", "conference"}
        assert set(crossner["politics+science-to-ai"].test) == own
        assert set(crossner["politics+science+music+literature-to-ai"].test) == own
        assert len(crossner) == 3 + 5 + 3 * 5


def content(**changes):
    split = {"train": ["a"], "validation": ["b"], "test": ["c"], **changes}
    return {"name": "toy", "version": 1, "source": "us", "splits": {"one": split}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "toy"}, "'version', 'source', 'splits' must be given"),
        ({**content(), "version": "1"}, "version must be an integer from 1, got '1'"),
        ({**content(), "splits": []}, r"splits must be an object that is not empty, got \[\]"),
        (content(tests=["d"]), "split 'one': unknown key 'tests'; did you mean 'test'"),
        (content(test=[]), r"split 'one': test must be a list of strings that is not empty, got \[\]"),
        (content(test="c"), "split 'one': test must be a list of strings that is not empty, got 'c'"),
        (content(test=["c", "a"]), "split 'one': classes must be distinct, got twice: 'a'"),
    ],
)
def test_refused_files(tmp_path, value, message):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_splits(path)
    assert str(path) in str(error.value)
