"""Gold graphs: counts by hand, and the whole benchmark on a file of our own in CrossRE's format."""

import json

import graph_quality
import pytest
import torch
from graph_quality import all_domains, both_directions, counts_of, gold_graphs, main, one_direction, scores_of

from tests.support.from_scratch import scratch_config, scratch_similarity

SENTENCES = [
    {"mentions": [(0, 4), (6, 9), (11, 13)], "types": ["a", None, "b"], "triples": {(0, "r", 1), (2, "s", 0)}},
]
ANSWERS = [
    {
        "types": [(0, "a", 0.9), (1, "b", 0.4), (2, "a", 0.8)],
        "triples": [(0, "r", 1, 0.6), (1, "r", 0, 0.7), (0, "s", 2, 0.9), (1, "s", 2, 0.2)],
    }
]


def test_counts_by_hand():
    # Of three typed mentions one is right; the second has no type among the candidates, so its answer is wrong.
    assert counts_of(SENTENCES, ANSWERS, "typed entities", 0.0) == {"gold": 2, "answers": 3, "right": 1}
    assert counts_of(SENTENCES, ANSWERS, "typed entities", 0.5) == {"gold": 2, "answers": 2, "right": 1}
    assert counts_of(SENTENCES, ANSWERS, "directed triples", 0.0) == {"gold": 2, "answers": 4, "right": 1}
    # Both orders of the first pair are one answer, and the wrong order of the third is right.
    assert counts_of(SENTENCES, ANSWERS, "undirected triples", 0.0) == {"gold": 2, "answers": 3, "right": 2}
    assert scores_of({"gold": 2, "answers": 4, "right": 1}) == pytest.approx(
        {"precision": 0.25, "recall": 0.5, "f1": 1 / 3}
    )
    assert scores_of({"gold": 0, "answers": 0, "right": 0}) == {"precision": 0, "recall": 0, "f1": 0}
    assert both_directions(ANSWERS) == 1


def test_one_direction_keeps_the_surer_order():
    (kept,) = one_direction(ANSWERS)
    assert kept["triples"] == [(1, "r", 0, 0.7), (0, "s", 2, 0.9), (1, "s", 2, 0.2)]
    assert both_directions([kept]) == 0


def write(folder, name, sentences):
    lines = [
        {"doc_key": f"{name}-{number}", "sentence": words.split(), "ner": ner,
         "relations": [[*relation, "", False, False] for relation in relations]}
        for number, (words, ner, relations) in enumerate(sentences)
    ]  # fmt: skip
    (folder / f"{name}.json").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    ner = [[0, 0, "person"], [2, 2, "misc"], [4, 4, "country"]]
    write(tmp_path, "ai-test", [
        ("Kelo greets Mura at Dunvik", ner, [[0, 0, 2, 2, "social"], [4, 4, 0, 0, "related-to"]]),
        ("Kelo sails", [[0, 0, "person"], [0, 0, "field"]], []),
    ])  # fmt: skip
    write(tmp_path, "ai-train", [("a boat", [[1, 1, "task"]], [])])
    return tmp_path


def test_gold_graphs_are_read(folder):
    first, second = gold_graphs([folder / "ai-test.json"])
    assert first["mentions"] == [(0, 4), (12, 16), (20, 26)] and first["types"] == ["person", "misc", "country"]
    assert first["triples"] == {(0, "social", 1), (2, "related-to", 0)}
    # One mention is given once, with its first type.
    assert (second["mentions"], second["types"], second["triples"]) == ([(0, 4)], ["person"], set())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_benchmark(folder, tmp_path, monkeypatch, capsys):
    parts = scratch_similarity(torch.float32)
    monkeypatch.setattr(graph_quality, "load_model", lambda *_, **__: parts)
    rows = main(
        ["--data", str(folder), "--json", str(tmp_path / "rows.json"), "--domains", "ai", "--num_threads", "1"]
    )
    content = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert content["rows"] == rows and content["dtype"] == "float32" and content["processor"]
    found = {(row["domain"], row["method"], row["kind"], row["threshold"]): row for row in rows}
    model = found["ai", "model", "typed entities", 0.0]
    # Three mentions have a type among the candidates; country, person and task are those of the domain.
    assert (model["gold"], model["answers"], model["types"], model["sentences"]) == (3, 4, 3, 2)
    assert found["ai", "model", "directed triples", 0.0]["answers"] == 6
    assert found["ai", "model, one direction", "directed triples", 0.0]["answers"] == 3
    majority = found["ai", "majority", "directed triples", 0.0]
    assert (majority["gold"], majority["answers"], majority["right"]) == (1, 6, 1)
    assert found["ai", "none", "directed triples", 0.0]["f1"] == 0
    assert all_domains(rows[: len(rows) // 2])[0]["gold"] == 3
    printed = capsys.readouterr().out
    assert "directed triples" in printed and "F1, ai" in printed
    main(["--json", str(tmp_path / "rows.json"), "--summary"])
    assert capsys.readouterr().out == printed


def test_a_split_that_is_not_there_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_quality, "load_model", lambda *_, **__: scratch_similarity())
    with pytest.raises(FileNotFoundError, match="split: ai has no file ai-dev.json"):
        main(["--data", str(folder), "--json", str(tmp_path / "x"), "--domains", "ai", "--split", "dev"])


def test_untrained_experts_move_nothing():
    from modeling_mgvmoe.training.build import model_from_scratch

    config = scratch_config(
        score="similarity", expert_type="residual", freeze_text=True, objective="cross_entropy", adversary="none"
    )
    model, _ = model_from_scratch(config, ["Kelo sails"], max_length=48)
    with torch.no_grad():
        model.mgvmoe.experts.expert_means.normal_()
    same = graph_quality.untrained(model)
    assert not same.mgvmoe.experts.expert_means.any() and model.mgvmoe.experts.expert_means.any()
    assert graph_quality.untrained(scratch_similarity()[0]) is None
