"""`examples/evaluate.py` from the command line to its files, on a tiny model; its tables, images and refusals."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_mgvmoe.evaluation.protocols import PROTOCOLS
from modeling_mgvmoe.evaluation.report import COLUMNS
from tests.support.documents import read_table
from tests.support.evaluation_data import write_folder
from tests.support.small_runs import small_trainee

ROOT = Path(__file__).resolve().parents[2]
OWN = "label-name similarity (the model's own text encoder)"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("evaluate_example", ROOT / "examples" / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, of seeds 3 and 5, and posts for both."""
    home = tmp_path_factory.mktemp("evaluate")
    write_folder(home / "posts")
    for seed, size in ((3, 16), (5, 24)):
        model, processor = small_trainee(size)
        model.save_pretrained(home / str(seed) / "model")
        processor.save_pretrained(home / str(seed) / "model")
    return home


# Drawing takes five seconds; in the default tests `mgvmoe evaluate` goes the same way (test_evaluate.py).
@pytest.mark.slow
@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "seen"])  # of these posts no class is seen
def test_files_and_tables(protocol, script, folder, tmp_path, capsys):
    argv = ["--model", f"{folder}/{{seed}}/model", "--dataset", str(folder / "posts"), "--protocol", protocol]
    results = script.main([*argv, "--seeds", "3", "5", "--output_dir", str(tmp_path), "--batch_size", "7"])
    printed = capsys.readouterr().out
    assert set(results) == {"typing", "relation"} and set(results["typing"]) == {3, 5}
    # One folder of posts, but two models.
    assert results["typing"][3].confidences["MG-VMoE"] != results["typing"][5].confidences["MG-VMoE"]

    numbers = json.loads((tmp_path / f"{protocol}.json").read_text(encoding="utf-8"))
    report = (tmp_path / f"{protocol}.md").read_text(encoding="utf-8")
    assert [(row["task"], row["seed"]) for row in numbers["results"]] == [
        ("typing", 3), ("typing", 5), ("relation", 3), ("relation", 5),
    ]  # fmt: skip
    for row in numbers["results"]:
        matrix = np.array(row["confusion"]["matrix"])
        assert matrix.sum() == len(results[row["task"]][row["seed"]].references)
        assert [row["per_class"][name]["support"] for name in row["confusion"]["classes"]] == matrix.sum(1).tolist()

    # One table per task, the same on the screen and in the report, with the numbers of the JSON.
    sections = re.split(r"^## ", report, flags=re.MULTILINE)[1:]
    assert [section.split("\n")[0] for section in sections] == ["Typing", "Relation"]
    for task, section in zip(("typing", "relation"), sections, strict=True):
        section, *of_seeds = section.split("\n### ")
        assert [own.split("\n")[0] for own in of_seeds] == [f"{task.capitalize()}, seed {seed}" for seed in (3, 5)]
        lines = [line for line in section.split("\n") if line.startswith("|")]
        assert "\n".join(lines) in printed
        rows = read_table(lines)
        methods = ["majority class", "uniform chance", OWN, "MG-VMoE"]
        assert [(row["method"], row["seed"]) for row in rows] == [
            (method, seed) for seed in ("mean of 2", "3", "5") for method in methods
        ]
        for row in rows[4:]:
            own = results[task][int(row["seed"])].scores[row["method"]]
            for metric, heading in COLUMNS[protocol].items():
                assert row[heading] == (f"{own[metric]:.3f}" if metric in own else "")
        for row in rows[:4]:
            own = numbers["summary"][task][row["method"]]
            for metric, heading in COLUMNS[protocol].items():
                values = [results[task][seed].scores[row["method"]].get(metric) for seed in (3, 5)]
                if None in values:
                    assert row[heading] == "" and metric not in own
                    continue
                # Of two values: half their sum, and their distance over the root of two.
                assert own[metric]["mean"] == pytest.approx(sum(values) / 2)
                assert own[metric]["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
                assert row[heading] == f"{own[metric]['mean']:.3f} ± {own[metric]['std']:.3f}"

    drawings = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", report)
    assert len(drawings) == 4 == len(list(tmp_path.glob("*.png")))
    for name in drawings:
        with Image.open(tmp_path / name) as drawing:
            assert min(drawing.size) > 100 and len(drawing.convert("L").getcolors()) > 10
    assert f"mgvmoe evaluate --model '{folder}/{{seed}}/model'" in report
    for needle in ("seeds: 3, 5", "torch 2", "CPU cores", "mg-vmoe 0", "> Label similarity uses the text encoder"):
        assert needle in report
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_another_encoder_a_quick_look_and_one_seed(script, folder, tmp_path, capsys):
    small_trainee()[0].mgvmoe.text_model.save_pretrained(tmp_path / "encoder")
    small_trainee()[1].tokenizer.save_pretrained(tmp_path / "encoder")
    base = ["--model", f"{folder}/3/model", "--dataset", str(folder / "posts"), "--seeds", "3"]
    found = []
    for number, similarity in enumerate((None, f"{folder}/3/model", tmp_path / "encoder")):
        own = ["--similarity_model", str(similarity)] if similarity else []
        out = tmp_path / str(number)
        result = script.main([*base, *own, "--max_posts", "10", "--output_dir", str(out)])["typing"][3]
        (name,) = (method for method in result.scores if "similarity" in method)
        found.append((name, result.predictions[name], result.scores[name]["ece"]))
        assert sum(row["counts"]["posts"] for row in json.loads((out / "unseen.json").read_text())["results"]) == 10
        assert "only 10 posts of each kind" in (out / "unseen.md").read_text(encoding="utf-8")
        assert "mean of" not in capsys.readouterr().out
    assert [name for name, _, _ in found] == [
        OWN, "label-name similarity (3/model)", f"label-name similarity ({tmp_path.name}/encoder)",
    ]  # fmt: skip
    # The same encoder by three ways.
    assert found[0][1] == found[1][1] == found[2][1] and found[0][2] == pytest.approx(found[2][2], abs=1e-5)


@pytest.mark.slow
def test_sketchbook(script, folder, tmp_path, capsys):
    argv = ["--model", f"{folder}/3/model", "--dataset", "sketchbook", "--protocol", "open", "--seeds", "0", "1"]
    results = script.main([*argv, "--max_posts", "60", "--output_dir", str(tmp_path)])
    assert results["typing"][0].candidates != results["typing"][1].candidates
    report = (tmp_path / "open.md").read_text(encoding="utf-8")
    assert "> The sketchbook has no posts without a class" in report and "> One model on several splits" in report


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--protocol", "closed"], "protocol must be one of unseen, seen, generalised, open, got 'closed'"),
        (["--dataset", "nowhere"], "dataset: .*'nowhere' is none"),
        (["--seeds", "0", "1"], "must hold '{seed}', else all seeds are the same run"),
        (["--seeds", "0", "0"], r"seeds must be one or more different numbers, got \[0, 0\]"),
        (["--batch_size", "0"], "batch_size and max_posts must be at least 1, got 0"),
        (["--max_posts", "0"], "must be at least 1, got 64 and 0"),
        (["--device", "tpu9"], "device: 'tpu9' cannot be used here"),
        (["--device", "cuda:99"], "device: 'cuda:99' cannot be used here"),
        (["--model", "runs/of/yesterday"], "model: the folder runs/of/yesterday does not exist"),
        (["--similarity_model", "./nothing"], "similarity_model: the folder ./nothing does not exist"),
        (["--model", "{folder}/3"], "holds no config.json; did you mean .*model?"),
        (["--model", "{folder}/bare"], "holds no processor"),
        (["--modell", "x"], "unrecognized arguments: --modell"),
    ],
)
def test_bad_flags(flags, message, script, folder, capsys):
    shutil.copytree(folder / "3" / "model", folder / "bare", dirs_exist_ok=True)
    (folder / "bare" / "processor_config.json").unlink()
    flags = [flag.replace("{folder}", str(folder)) for flag in flags]
    with pytest.raises(SystemExit) as stopped:
        script.main(["--model", f"{folder}/3/model", "--dataset", str(folder / "posts"), *flags])
    assert stopped.value.code == 2 and re.search(message, capsys.readouterr().err)
