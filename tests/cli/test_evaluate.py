"""`mgvmoe evaluate`: tables, JSON, exit codes, and what is refused."""

import json

import pytest

from modeling_mgvmoe.cli.evaluate import add_flags, evaluation_arguments
from modeling_mgvmoe.data.flags import FlagParser
from modeling_mgvmoe.inference import model_folder as loading
from tests.support.commands import run
from tests.support.evaluation_data import write_folder
from tests.support.from_scratch import drawing, scratch_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("cli")
    for part in scratch_model():
        part.save_pretrained(home / "model")
    drawing(1).save(home / "one.png")
    return home


class TestEvaluate:
    @pytest.fixture(autouse=True)
    def no_images(self, monkeypatch):
        """Drawing takes most of a run's time; test_runs.py has it done."""
        monkeypatch.setattr("modeling_mgvmoe.evaluation.runs.draw_confusion", lambda *given: None)

    def test_tables_and_json(self, capsys, folder, tmp_path):
        posts = write_folder(tmp_path / "posts")
        base = ["evaluate", "--model", folder / "model", "--dataset", posts, "--output_dir", tmp_path / "out"]
        code, out, _ = run(capsys, *base)
        assert code == 0 and "| MG-VMoE " in out
        report = (tmp_path / "out" / "unseen.md").read_text(encoding="utf-8")
        assert f"`mgvmoe evaluate --model {folder}/model" in report
        code, out, err = run(capsys, *base, "--json", "--dtype", "bfloat16")
        assert code == 0, err
        answer = json.loads(out)
        assert "| MG-VMoE " in err and answer["protocol"] == "unseen"
        assert answer["model"].endswith("(dtype bfloat16)") and answer["results"][0]["task"] == "typing"

    def test_a_broken_image_counts_as_none_and_a_broken_post_is_named(self, capsys, folder, tmp_path):
        import datasets

        posts = write_folder(tmp_path / "posts", ("train", "validation", "test"))
        path = posts / "test.parquet"
        rows = list(datasets.Dataset.from_parquet(str(path)).cast_column("image", datasets.Image(decode=False)))
        row = next(number for number, post in enumerate(rows) if post["image"])
        base = ["evaluate", "--model", folder / "model", "--dataset", posts, "--output_dir", tmp_path / "out"]

        def write():
            datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).to_parquet(str(path))

        rows[row]["image"]["bytes"] = rows[row]["image"]["bytes"][:60]
        write()
        with pytest.warns(UserWarning, match=f"1 posts have an image .*{rows[row]['id']} .broken"):
            code, out, _ = run(capsys, *base)
        assert code == 0 and "| MG-VMoE " in out
        # Scores without one of its posts would not be those of the dataset.
        rows[row]["mentions"] = [[0, 999]]
        write()
        code, out, err = run(capsys, *base)
        assert code == 1 and out == "" and f"test.parquet, row {row}: post {rows[row]['id']!r}" in err

    def test_misuse_and_failure(self, capsys, folder, tmp_path):
        base = ["evaluate", "--model", folder / "model", "--dataset"]
        code, out, err = run(capsys, *base, "nowhere")
        assert code == 2 and out == "" and "dataset: " in err and "nowhere' is none" in err and err.count("\n") == 1
        code, _, err = run(capsys, *base, "sketchbook", "--protocol", "closed")
        assert code == 2 and "protocol must be one of unseen, seen, generalised, open, got 'closed'" in err

    def test_a_missing_extra_is_told_before_any_work(self, capsys, folder, monkeypatch):
        monkeypatch.setattr(loading, "find_spec", lambda name: None if name == "matplotlib" else name)
        code, out, err = run(capsys, "evaluate", "--model", folder / "model", "--dataset", "sketchbook")
        assert (code, out) == (1, "") and "matplotlib must be installed for this: pip install 'mg-vmoe[demo]'" in err


def flags_of(*words):
    parser = FlagParser()
    add_flags(parser)
    return parser.parse_args([str(word) for word in words])


def test_flags_become_arguments(tmp_path):
    for part in scratch_model():
        part.save_pretrained(tmp_path / "model")
    base = ["--model", tmp_path / "model", "--dataset", "sketchbook"]
    found = evaluation_arguments(flags_of(*base, "--batch-size", 3, "--device", "cpu"), "as typed")
    assert (found.model, found.dataset, found.protocol) == (str(tmp_path / "model"), "sketchbook", "unseen")
    assert (found.seeds, found.batch_size, found.device, found.command) == ((0,), 3, "cpu", "as typed")
    assert found.max_posts is None and found.output_dir == "runs/evaluation"
    with pytest.raises(ValueError, match="protocol .*'closed'"):
        evaluation_arguments(flags_of(*base, "--protocol", "closed"), "")
    with pytest.raises(FileNotFoundError, match="model: "):
        evaluation_arguments(flags_of("--model", "./nowhere", "--dataset", "sketchbook"), "")
