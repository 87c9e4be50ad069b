"""`mgvmoe explain`: one answer as a PNG, the use of the experts as a chart, numbers beside both."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.support.drawn_files import colours
from tests.support.evaluation_data import drawn_posts, write_folder
from tests.support.from_scratch import LABELS
from tests.support.small_runs import small_trainee

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("explain_example", ROOT / "examples" / "explain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("explain")
    for part in small_trainee():
        part.save_pretrained(home / "model")
    write_folder(home / "posts")
    first = drawn_posts()[0]["test"][0]
    first["image"].save(home / "0.png")
    start, end = first["mentions"][0]
    items = [
        {"text": first["text"], "mention": [start, end], "image": "0.png", "candidate_labels": LABELS},
        {"text": "Kelo greets Mura", "head": [0, 4], "tail": [12, 16], "candidate_labels": ["greets"]},
    ]
    (home / "posts.json").write_text(json.dumps(items), encoding="utf-8")
    return home


def test_one_post(script, folder, tmp_path, capsys):
    out = tmp_path / "new" / "one.png"
    script.main(["post", "--model", f"{folder}/model", "--posts", f"{folder}/posts.json", "--output", str(out)])
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert f"{numbers['answer']}   uncertainty {numbers['uncertainty']:.2f}" in printed
    assert f"image: {out}   numbers: {out.with_suffix('.json')}" in printed
    assert len(colours(out)) > 50
    assert {entry["label"] for entry in numbers["ranking"]} == set(LABELS) and numbers["patches"]
    arguments = ["post", "--model", f"{folder}/model", "--posts", f"{folder}/posts.json", "--output", str(out)]
    script.main([*arguments, "--number", "1", "--labels", "greets", "chases", "--none_threshold", "1"])
    printed = capsys.readouterr()
    assert "none of these" in printed.out and "--none_threshold is now called --threshold" in printed.err
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert {entry["label"] for entry in numbers["ranking"]} == {"greets", "chases"} and numbers["patches"] is None


def test_use_of_the_experts(script, folder, tmp_path, capsys):
    out = tmp_path / "usage.png"
    script.main(
        ["experts", "--model", f"{folder}/model", "--dataset", f"{folder}/posts", "--output", str(out)]
    )  # fmt: skip
    printed = capsys.readouterr().out
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    for modality, usage in numbers["overall"].items():
        assert sum(usage) == pytest.approx(1)
        assert f"{modality:8} " + " ".join(f"{share:.2f}" for share in usage) in printed
    assert {task: len(classes) for task, classes in numbers["by_class"].items()} == {"typing": 3, "relation": 3}
    assert all(own["posts"] == 4 for classes in numbers["by_class"].values() for own in classes.values())
    assert len(colours(out)) > 50


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["post", "--posts", "{}/posts.json", "--number", "2"], "number must be one of 0 to 1, got 2"),
        (["post", "--posts", "{}/nowhere.json"], "nowhere.json"),
        (
            ["post", "--posts", "{}/posts.json", "--threshold", "2"],
            "threshold: a score between 0 and 1 is needed (got 2.0)",
        ),
        (["experts", "--dataset", "{}/nowhere"], "nowhere/train.parquet does not exist"),
        (["experts", "--dataset", "sketchbook", "--max_posts", "0"], "max_posts must be at least 1, got 0"),
        (["experts", "--dataset", "sketchbook", "--model", "{}"], "did you mean"),
    ],
)
def test_bad_flags(script, folder, tmp_path, flags, message, capsys):
    own = [flag.replace("{}", str(folder)) for flag in flags]
    if "--model" not in own:
        own += ["--model", f"{folder}/model"]
    with pytest.raises(SystemExit):
        script.main([*own, "--output", str(tmp_path / "out.png")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()
