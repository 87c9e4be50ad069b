"""Bad files and texts: data adapters, label sets, splits, recipes, records, posts, each with what is said."""

import json
import re

import pytest

from modeling_mgvmoe import ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.cli.predict import read_posts
from modeling_mgvmoe.data.conll import read_conll
from modeling_mgvmoe.data.label_sets import read_label_set
from modeling_mgvmoe.data.mnre import read_mnre
from modeling_mgvmoe.data.splits import read_splits
from modeling_mgvmoe.data.wikidiverse import read_wikidiverse
from modeling_mgvmoe.data.zero_shot_data import read_prepared_labels
from modeling_mgvmoe.publishing.repository import read_evaluation
from modeling_mgvmoe.training.arguments import read_recipe
from modeling_mgvmoe.training.run_metadata import read_run_record
from modeling_mgvmoe.training.trackers import read_log
from tests.support.from_scratch import LABELS, scratch_model

NOT_UTF8, DEEP = b"\xff\xfe\x00", b"[" * 100_000


def record(**changes):
    fields = {
        "token": ["Kelo", "greets", "Mura"],
        "h": {"name": "Kelo", "pos": [0, 1]},
        "t": {"name": "Mura", "pos": [2, 3]},
        "img_id": "kelo.jpg",
        "relation": "/per/per/peer",
    }
    return repr({**fields, **changes})


MNRE = [
    (NOT_UTF8, "UTF-8"),
    (DEEP, "line 1: a Python dict is needed"),
    ("[]", "line 1: a Python dict is needed, got []"),
    ("{'token': []}", "line 1: token, h, t, img_id and relation are needed, h, t, img_id, relation is missing"),
    ("__import__('os').getcwd()", "line 1: a Python dict is needed"),
    ("{'a': b}", "line 1: a Python dict is needed"),
    ("{'a'", "line 1: a Python dict is needed"),
    ("\0", "line 1: a Python dict is needed"),
    ("{[]: 1}", "line 1: a Python dict is needed"),
    (record() + "\n" + record(token=[]), "line 2: token must be a list of words that is not empty, got []"),
    (record(token="Kelo"), "line 1: token must be a list of words"),
    (record(token=[1, 2, 3]), "line 1: words: a list of strings is needed"),
    (record(h=None), "line 1: h must be a dict with name and pos, got None"),
    (record(t={"name": "Mura"}), "line 1: t must be a dict with name and pos"),
    (record(t={"pos": [2]}), "line 1: t: pos must be two integers, got [2]"),
    (record(t={"pos": [2.0, 3.0]}), "line 1: t: pos must be two integers, got [2.0, 3.0]"),
    (record(t={"pos": [True, 3]}), "line 1: t: pos must be two integers"),
    (record(t={"pos": [2, 4]}), "line 1: t: span: 0 <= first < end <= 3 words is needed (got (2, 4))"),
    (record(t={"pos": [2, 2]}), "line 1: t: span: 0 <= first < end <= 3"),
    (record(t={"pos": [-1, 2]}), "line 1: t: span: 0 <= first < end <= 3"),
    (record(t={"pos": [2, 10**30]}), "line 1: t: span: 0 <= first < end <= 3"),
    (record(img_id="../kelo.jpg"), "line 1: img_id must be the name of a file, without folders, got '../kelo.jpg'"),
    (record(img_id="/etc/passwd"), "line 1: img_id must be the name of a file, without folders"),
    (record(img_id=""), "line 1: img_id must be the name of a file"),
    (record(img_id=3.5), "line 1: img_id must be the name of a file, without folders, got 3.5"),
    (record(relation="none"), "version=1 reads it"),
    (record(relation="peer"), "relation must be 'None' or have the form \"/type/type/name\", got 'peer'"),
    (record(relation=None), "relation must be 'None' or have the form \"/type/type/name\", got None"),
    (record(token=["Kelo", "a", " "], t={"pos": [2, 3]}), "covers only white space"),
]
CONLL = [
    (NOT_UTF8, "UTF-8"),
    ("Mura", "line 1: a word and its tag"),
    ("Mura\tperson", "line 1: a word and its tag"),
    ("Mura\tB-", "line 1: a word and its tag"),
    ("Mura\tX-person", "line 1: a word and its tag"),
    ("Mura\to", "line 1: a word and its tag"),
    ("\tO", "line 1: a word and its tag"),
    ("Mura O\n\nKelo", "line 3: a word and its tag"),
    ("Mura\tB-person x", "line 1: a word and its tag"),
    ("Mura\tO\n \tB-x", "covers only white space"),
]
CAPTION = ["Kelo opens.", "https://example.org/a/Kelo.svg", "politics", [["Kelo", "People", 0, 4, ""]]]


def caption(**changes):
    places = {"text": 0, "url": 1, "topic": 2, "mentions": 3}
    return json.dumps([[changes.get(name, CAPTION[place]) for name, place in places.items()]])


WIKIDIVERSE = [
    (NOT_UTF8, "a JSON file is needed"),
    (DEEP, "a JSON file is needed"),
    ("", "a JSON file is needed"),
    ("{}", "a JSON list of captions is needed, got {}"),
    ("[1]", "record 1: a list of caption, URL, topic and mentions is needed, got 1"),
    ("[[]]", "record 1: a list of caption, URL, topic and mentions is needed, got []"),
    (caption(text=""), "record 1: the caption must be a string that is not empty, got ''"),
    (caption(text=4), "record 1: the caption must be a string that is not empty, got 4"),
    (caption(url=4), "record 1: the URL must be a string, got 4"),
    (caption(mentions={}), "record 1: the mentions must be a list, got {}"),
    (caption(mentions=[["Kelo"]]), "record 1, mention 1: a list of text, type, start, end and page is needed"),
    (caption(mentions=[["Kelo", "", 0, 4, ""]]), "record 1, mention 1: a list of text, type"),
    (caption(mentions=[["Kelo", "People", "0", 4, ""]]), "record 1, mention 1: a list of text, type"),
    (caption(mentions=[["Kelo", "People", True, 4, ""]]), "record 1, mention 1: a list of text, type"),
    (caption(text="\ud800 Kelo"), "surrogate"),
    (caption(url="https://example.org/\ud800.jpg"), "surrogate"),
]
LABEL = {"name": "peer", "description": "Both are peers."}
LABEL_SET = {"name": "n", "version": 1, "source": "s", "task": "typing", "classes": {"a": LABEL}}


def changed(base, **changes):
    return json.dumps({key: value for key, value in {**base, **changes}.items() if value is not ...})


JSON_OBJECT = [(NOT_UTF8, "file"), (DEEP, "file"), ("", "file"), ("[]", "a JSON object is needed, got []"),
               ('{"a": 1, "a": 2}', "keys must be distinct, got twice: 'a'")]  # fmt: skip
LABEL_SETS = [
    *JSON_OBJECT,
    (changed(LABEL_SET, task="other"), "task must be one of 'typing', 'relation', got 'other'"),
    (changed(LABEL_SET, task=[]), "task must be one of"),
    (changed(LABEL_SET, version=0), "version must be an integer from 1, got 0"),
    (changed(LABEL_SET, version=True), "version must be an integer from 1, got True"),
    (changed(LABEL_SET, classes={}), "classes must not be empty, got {}"),
    (changed(LABEL_SET, classes=[]), "classes must be an object, got []"),
    (changed(LABEL_SET, classes={"a": 1}), "class 'a': an object with keys is needed, got 1"),
    (changed(LABEL_SET, classes={"a": LABEL, "b": LABEL}), "name must be unique, got 'peer'"),
    (changed(LABEL_SET, source=...), "'source' must be given"),
    (changed(LABEL_SET, clases={}), "unknown key 'clases'; did you mean 'classes'?"),
    (changed(LABEL_SET, none=1), "none: an object with keys is needed, got 1"),
    (changed(LABEL_SET, left_out=[]), "left_out must be a list of strings that is not empty, got []"),
    (
        changed(LABEL_SET, domains={"d": ["b"]}),
        "domain 'd': its classes must be among the classes of the label set, got 'b'",
    ),
]
DIVISION = {"train": ["a"], "validation": ["b"], "test": ["c"]}
SPLIT_FILE = {"name": "n", "version": 1, "source": "s", "splits": {"one": DIVISION}}
SPLITS = [
    *JSON_OBJECT,
    (changed(SPLIT_FILE, version="1"), "version must be an integer from 1, got '1'"),
    (changed(SPLIT_FILE, splits={}), "splits must be an object that is not empty, got {}"),
    (changed(SPLIT_FILE, splits={"one": []}), "split 'one': an object with keys is needed, got []"),
    (changed(SPLIT_FILE, splits={"one": {**DIVISION, "test": []}}), "test must be a list of strings that is not"),
    (changed(SPLIT_FILE, splits={"one": {**DIVISION, "test": "c"}}), "test must be a list of strings"),
    (changed(SPLIT_FILE, splits={"one": {**DIVISION, "test": [1]}}), "test must be a list of strings"),
    (changed(SPLIT_FILE, splits={"one": {**DIVISION, "test": ["a"]}}), "'a'"),
]
PREPARED = {"dataset": "d", "split": "s", "labels": {"train": {}, "validation": {}, "test": {"typing": ["a"]}},
            "label_descriptions": {}, "label_types": {}, "type_descriptions": {}}  # fmt: skip
PREPARED_LABELS = [
    *JSON_OBJECT,
    (changed(PREPARED, labels=[]), "an object with keys is needed, got []"),
    (changed(PREPARED, labels={"train": {}}), "'validation', 'test' must be given"),
    (changed(PREPARED, labels={**PREPARED["labels"], "test": {"typing": "a"}}), "must hold strings"),
    (changed(PREPARED, labels={**PREPARED["labels"], "test": {"typing": [""]}}), "must hold strings"),
    (changed(PREPARED, label_descriptions={"a": 1}), "label_descriptions['a'] must hold strings"),
    (changed(PREPARED, label_types={"a": [["x"]]}), "labels.json"),
]
RECIPES = [
    (NOT_UTF8, "a recipe in YAML is needed"),
    ("\0", "a recipe in YAML is needed"),
    ("a: [", "a recipe in YAML is needed"),
    ("a: b: c", "a recipe in YAML is needed"),
    ("? {a: 1}\n: 2", "recipe.yaml"),
    (b"[" * 1200, "a recipe in YAML is needed"),
    ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ("d: 2026-99-99", "a recipe in YAML is needed"),
    ("", "a mapping with the sections model, data and training is needed (got None)"),
    ("- a", "a mapping with the sections model, data and training is needed (got ['a'])"),
    ("trainig: {}", "unknown key 'trainig'; did you mean 'training'?"),
    ("training: 3", "section training: it must be a mapping, got 3"),
    ("training: {seeed: 1}", "section training: unknown key 'seeed'; did you mean 'seed'?"),
    ("training: {seed: [1]}", "seed"),
    ("model: {model_config: 3}", "a mapping"),
]
RUNS = [
    (NOT_UTF8, "it must be JSON"),
    (DEEP, "it must be JSON"),
    ("[]", "a record of a run has arguments, dataset, labels, which are missing"),
    ("{}", "a record of a run has arguments, dataset, labels, which are missing"),
]
SCORES = {"protocol": "unseen", "summary": {}, "seeds": [0], "dataset": "d", "command": "c"}
EVALUATIONS = [
    (NOT_UTF8, "a JSON file is needed"),
    (DEEP, "a JSON file is needed"),
    ("3", "must be a .json file of examples/evaluate.py, but has no command, dataset, protocol, seeds, summary"),
    (changed(SCORES, summary=[]), "summary must hold the methods' scores by task, got []"),
    (changed(SCORES, summary={"typing": 1}), "summary must hold the methods' scores by task"),
    (changed(SCORES, summary={"typing": {"other": {}}}), "has no scores of MG-VMoE"),
]
LOGS = [
    (NOT_UTF8, "a text file in UTF-8 is needed"),
    ("{\n{}", "line 1 is not JSON"),
    (DEEP + b"\n{}", "line 1 is not JSON"),
]
POST = {"text": "Kelo sails", "mention": [0, 4], "candidate_labels": ["boat"]}
POSTS = [
    (NOT_UTF8, "a text file in UTF-8 is needed"),
    (DEEP, "no JSON"),
    ("{}", "a JSON list of posts is needed, got dict"),
    ("[]", "holds no post"),
    ("[3]", "post 0: "),
    (f"[{changed(POST, text=3)}]", "post 0: text: a string is needed (got int)"),
    (f"[{changed(POST, text=...)}]", "post 0: "),
    (f"[{changed(POST, mention=[0, 99])}]", "post 0: mentions: 0 <= start < end <= 10"),
    (f"[{changed(POST, mention=...)}]", "post 0: "),
    (f"[{changed(POST, candidate_labels=...)}]", "post 0: candidate_labels: the post needs its own"),
    (f"[{changed(POST, candidate_labels=[])}]", "post 0: candidate_labels: a non-empty list of labels"),
    (f"[{changed(POST, image='missing.png')}]", "post 0, image"),
]
READERS = {
    "mnre": (MNRE, "train.txt", read_mnre),
    "conll": (CONLL, "train.txt", read_conll),
    "wikidiverse": (WIKIDIVERSE, "train.json", read_wikidiverse),
    "label set": (LABEL_SETS, "file.json", read_label_set),
    "splits": (SPLITS, "file.json", read_splits),
    "labels.json": (PREPARED_LABELS, "labels.json.file", read_prepared_labels),
    "recipe": (RECIPES, "recipe.yaml", lambda path: read_recipe(str(path))),
    "run": (RUNS, "run.json", lambda path: read_run_record(str(path.parent))),
    "evaluation": (EVALUATIONS, "unseen.json", lambda path: read_evaluation(str(path))),
    "log": (LOGS, "log.jsonl", lambda path: read_log(str(path))),
    "posts": (POSTS, "posts.json", lambda path: read_posts(str(path), None)),
}
CASES = [(reader, number) for reader, (cases, _, _) in READERS.items() for number in range(len(cases))]


@pytest.mark.parametrize(("reader", "number"), CASES)
def test_file(tmp_path, reader, number):
    cases, name, read = READERS[reader]
    content, message = cases[number]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read(path)
    # Our own, with the file in it, and not a codec's, JSON's or YAML's.
    assert error.type.__module__.startswith(("builtins", "modeling_mgvmoe"))
    assert error.type.__name__ in ("ValueError", "UsageError")
    assert name in str(error.value) or str(tmp_path) in str(error.value)


# Texts: what is odd and right. Spans are of the characters as given.

TEXTS = {
    "emoji": ("\U0001f600\U0001f680", (0, 1)),
    "right to left": ("\u05e7\u05dc\u05d5 \u05de\u05e4\u05dc\u05d9\u05d2", (0, 3)),
    "right-to-left mark": ("\u200fKelo\u200f sails", (1, 5)),
    "combining": ("e\u0301te\u0301 sails", (0, 5)),
    "NUL": ("Kelo\0 sails", (0, 4)),
    "only NUL around": ("\0\0Kelo\0", (2, 6)),
    "a megabyte": ("Kelo sails " * 95_000, (550_000, 550_004)),
    "a megabyte without a space": ("a" * 1_000_000, (500_000, 500_004)),
    "markers": ("[E1] Kelo [/E1] <m> [SEP] sails [CLS]", (5, 9)),
    "a mention that is a marker": ("Kelo [SEP] sails", (5, 10)),
    "newlines": ("Kelo\r\n\u2028sails", (0, 4)),
}


@pytest.fixture(scope="module")
def pipe():
    model, processor = scratch_model()
    return ZeroShotMultimodalIEPipeline(model=model, processor=processor)


@pytest.mark.parametrize("case", TEXTS)
def test_odd_text_is_scored(pipe, case):
    text, span = TEXTS[case]
    ranking = pipe({"text": text, "mention": span}, candidate_labels=LABELS)
    assert sorted(item["label"] for item in ranking) == sorted(LABELS)
    assert sum(item["score"] for item in ranking) == pytest.approx(1, abs=1e-3)


LABEL_TEXTS = ["[SEP] boat", "{} boat", "{label}", "boat\0", "[E1]", "%s", "\u05e7", "a" * 100_000, "\U0001f600"]


@pytest.mark.parametrize("label", LABEL_TEXTS)
def test_odd_label_is_a_label(pipe, label):
    # It neither changes the other labels' scores nor comes back changed.
    post = {"text": "Kelo sails", "mention": (0, 4)}
    ranking = pipe(post, candidate_labels=["bird", label], function_to_apply="none")
    assert {item["label"] for item in ranking} == {"bird", label}
    alone = pipe(post, candidate_labels=["bird", "boat"], function_to_apply="none")
    bird, expected = (next(item["score"] for item in own if item["label"] == "bird") for own in (ranking, alone))
    assert bird == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("place", ["text", "label"])
def test_half_of_a_surrogate_pair(pipe, place):
    post = {"text": "Kelo \ud83d sails" if place == "text" else "Kelo sails", "mention": (0, 4)}
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        pipe(post, candidate_labels=["bird", "\ud83d" if place == "label" else "boat"])
