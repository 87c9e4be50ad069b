"""`mgvmoe explain`: one answer as a page with its numbers, the use of the experts as a table and numbers."""

import base64
import importlib.util
import json
from pathlib import Path

import pytest

from tests.support.documents import read_table
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
    out = tmp_path / "new" / "one.html"
    script.main(["post", "--model", f"{folder}/model", "--posts", f"{folder}/posts.json", "--output", str(out)])
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert f"{numbers['answer']}   uncertainty {numbers['uncertainty']:.2f}" in printed
    assert f"page: {out}   numbers: {out.with_suffix('.json')}" in printed
    page = out.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and page.count("data:image/png;base64,") == 2
    for shown in (numbers["answer"], "What was weighed", "Experts that fired", "With and without the image"):
        assert shown in page
    assert {entry["label"] for entry in numbers["ranking"]} == set(LABELS) and numbers["patches"]
    arguments = ["post", "--model", f"{folder}/model", "--posts", f"{folder}/posts.json", "--output", str(out)]
    script.main([*arguments, "--number", "1", "--labels", "greets", "chases", "--none_threshold", "1"])
    printed = capsys.readouterr()
    assert "none of these" in printed.out and "--none_threshold is now called --threshold" in printed.err
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert {entry["label"] for entry in numbers["ranking"]} == {"greets", "chases"} and numbers["patches"] is None


@pytest.mark.parametrize("image", ["", float("nan"), None, "data:image/png;base64,{}", "0.png"])
def test_images_as_predict_takes_them(script, folder, tmp_path, image):
    content = base64.b64encode((folder / "0.png").read_bytes()).decode()
    post = {"text": "Kelo sails", "mention": [0, 4], "candidate_labels": LABELS}
    post["image"] = image.format(content) if isinstance(image, str) else image
    (folder / "one.json").write_text(json.dumps([post]), encoding="utf-8")
    out = tmp_path / "one.html"
    script.main(["post", "--model", f"{folder}/model", "--posts", f"{folder}/one.json", "--output", str(out)])
    numbers = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert (numbers["patches"] is None) == (image in ("", None) or image != image)


def test_the_posts_are_not_replaced_by_the_numbers(script, folder, tmp_path, capsys):
    posts = tmp_path / "one.json"
    posts.write_bytes((folder / "posts.json").read_bytes())
    (tmp_path / "two.json").symlink_to(posts)
    for output in ("one.html", "two.html"):
        flags = ["--posts", str(posts), "--output", str(tmp_path / output)]
        with pytest.raises(SystemExit):
            script.main(["post", "--model", f"{folder}/model", *flags])
        assert "would replace the posts; --output must differ" in capsys.readouterr().err
    assert posts.read_bytes() == (folder / "posts.json").read_bytes()


def test_use_of_the_experts(script, folder, tmp_path, capsys):
    out = tmp_path / "usage.json"
    script.main(["experts", "--model", f"{folder}/model", "--dataset", f"{folder}/posts", "--output", str(out)])
    rows = read_table([line for line in capsys.readouterr().out.split("\n") if line.startswith("|")])
    numbers = json.loads(out.read_text(encoding="utf-8"))
    assert [row["posts"] for row in rows] == ["24", *["4"] * 6]
    for modality, usage in numbers["overall"].items():
        assert sum(usage) == pytest.approx(1)
        assert [rows[0][f"{modality} {k}"] for k in range(len(usage))] == [f"{100 * share:.0f}" for share in usage]
    assert {task: len(classes) for task, classes in numbers["by_class"].items()} == {"typing": 3, "relation": 3}
    assert all(own["posts"] == 4 for classes in numbers["by_class"].values() for own in classes.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["post", "--posts", "{}/posts.json", "--number", "2"], "number must be one of 0 to 1, got 2"),
        (["post", "--posts", "{}/nowhere.json"], "nowhere.json"),
        (
            ["post", "--posts", "{}/posts.json", "--threshold", "2"],
            "threshold: a score between 0 and 1 is needed (got 2.0)",
        ),
        (["post", "--posts", "{}/posts.json", "--output", "out.png"], "output must end in .html, got 'out.png'"),
        (["experts", "--dataset", "sketchbook", "--output", "out.png"], "output must end in .json, got 'out.png'"),
        (["experts", "--dataset", "{}/nowhere"], "nowhere' is none"),
        (["experts", "--dataset", "sketchbook", "--max_posts", "0"], "max_posts must be at least 1, got 0"),
        (["experts", "--dataset", "sketchbook", "--model", "{}"], "did you mean"),
    ],
)
def test_bad_flags(script, folder, tmp_path, flags, message, capsys):
    own = [flag.replace("{}", str(folder)) for flag in flags]
    if "--model" not in own:
        own += ["--model", f"{folder}/model"]
    if "--output" not in own:
        own += ["--output", str(tmp_path / ("out.html" if own[0] == "post" else "out.json"))]
    with pytest.raises(SystemExit):
        script.main(own)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
