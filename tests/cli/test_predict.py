"""`mgvmoe predict`: answers, exit codes, and one clear line for whatever is wrong."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_mgvmoe import MGVMoEForZeroShotIE, MGVMoEProcessor, ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.cli import predict as answer_file
from tests.support.commands import run
from tests.support.evaluation_data import write_folder
from tests.support.from_scratch import LABELS, RELATIONS, drawing, scratch_model
from tests.support.shipped import needs_encoder

ROOT = Path(__file__).resolve().parents[2]
TEXT = "Kelo greets Mura, and Kelo sails"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("cli")
    for part in scratch_model():
        part.save_pretrained(home / "model")
    drawing(1).save(home / "one.png")
    return home


@pytest.fixture(scope="module")
def pipe(folder):
    model = MGVMoEForZeroShotIE.from_pretrained(folder / "model")
    return ZeroShotMultimodalIEPipeline(model=model, processor=MGVMoEProcessor.from_pretrained(folder / "model"))


def test_the_example_takes_posts_as_the_pipeline_does(folder, monkeypatch, tmp_path):
    posts = [{"text": TEXT, "candidate_labels": LABELS, **one} for one in (
        {"mention": [12, 16]}, {"mentions": [[12, 16]]}, {"mentions": [[22, 26], [12, 16]]},
        {"head": [22, 26], "tail": [12, 16]})]  # fmt: skip
    (tmp_path / "posts.json").write_text(json.dumps(posts))
    files = ["--posts", str(tmp_path / "posts.json"), "--output", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["predict.py", "--model", str(folder / "model"), *files])
    runpy.run_path(str(ROOT / "examples" / "predict.py"), run_name="__main__")
    logits = json.loads((tmp_path / "out.json").read_text())["logits"]
    assert logits[0] == pytest.approx(logits[1], abs=1e-5) and logits[2] == pytest.approx(logits[3], abs=1e-5)


class TestOnePost:
    def test_a_mention_as_characters_and_as_words(self, capsys, folder, pipe):
        expected = pipe({"text": TEXT, "mention": (12, 16)}, candidate_labels=LABELS)
        base = ["predict", "--model", folder / "model", "--text", TEXT, "--json", "--labels", *LABELS]
        for mention in (["--mention", 12, 16], ["--mention-text", "Mura"], ["--mention_text", "Mura"]):
            code, out, err = run(capsys, *base, *mention)
            assert code == 0 and err == ""
            assert json.loads(out) == {"text": TEXT, "mention": [12, 16], "labels": expected}
        code, out, _ = run(capsys, *base[:5], "--labels", *LABELS, "--mention-text", "Mura", "--top-k", 2)
        assert code == 0 and out == "".join(f"{own['score']:.2f}  {own['label']}\n" for own in expected[:2])

    def test_a_pair_with_an_image_descriptions_and_a_threshold(self, capsys, folder, pipe, tmp_path):
        sentences = {"greets": ["Somebody says hello.", "greets"], "chases": "One runs after another."}
        (tmp_path / "words.json").write_text(json.dumps(sentences), encoding="utf-8")
        image = str(folder / "one.png")
        expected = pipe(
            {"text": TEXT, "head": (22, 26), "tail": (12, 16), "image": image},
            candidate_labels=RELATIONS, label_descriptions=sentences, hypothesis_template="to {}",
            function_to_apply="sigmoid", threshold=0.4,
        )  # fmt: skip
        code, out, _ = run(
            capsys, "predict", "--model", folder / "model", "--text", TEXT, "--head-text", "Kelo", "--head-index", 2,
            "--tail", 12, 16, "--image", image, "--labels", *RELATIONS, "--descriptions", tmp_path / "words.json",
            "--hypothesis-template", "to {}", "--function-to-apply", "sigmoid", "--threshold", 0.4, "--json",
        )  # fmt: skip
        assert code == 0 and 0 < len(expected) < 3
        assert json.loads(out) == {
            "text": TEXT, "head": [22, 26], "tail": [12, 16], "image": image, "labels": expected,
        }  # fmt: skip

    def test_words_for_the_image_with_and_without_it(self, capsys, folder, pipe):
        base = [
            "predict",
            "--model",
            folder / "model",
            "--text",
            TEXT,
            "--mention",
            12,
            16,
            "--json",
            "--labels",
            *LABELS,
        ]
        image = str(folder / "one.png")
        for more in ({"image_text": ["a boat"]}, {"image_text": ["a boat", "a bird"], "image": image}):
            flags = ["--image-text", *more["image_text"], *(["--image", image] if "image" in more else [])]
            code, out, _ = run(capsys, *base, *flags)
            expected = pipe({"text": TEXT, "mention": (12, 16), **more}, candidate_labels=LABELS)
            assert code == 0 and json.loads(out)["labels"] == expected
        code, _, err = run(capsys, *base[:3], "--input", "posts.json", "--image-text", "a boat")
        assert code == 2 and "--image-text: these are in the file that --input names" in err

    def test_words_for_the_image_in_a_file(self, capsys, folder, pipe, tmp_path):
        post = {"text": TEXT, "mention": [12, 16]}
        given = [{**post, "image_text": "a boat"}, post, {**post, "image_text": [3]}]
        (tmp_path / "posts.json").write_text(json.dumps(given), encoding="utf-8")
        code, out, err = run(
            capsys, "predict", "--model", folder / "model", "--input", tmp_path / "posts.json", "--labels", *LABELS,
            "--json",
        )  # fmt: skip
        answers = json.loads(out)
        assert code == 3 and "image_text: a string or a list of strings is needed" in answers[2]["error"] and err
        expected = pipe(given[:2], candidate_labels=LABELS, batch_size=2)
        assert [own["labels"] for own in answers[:2]] == expected and expected[0] != expected[1]

    def test_no_label_reaches_the_threshold(self, capsys, folder):
        base = ["predict", "--model", folder / "model", "--text", TEXT, "--mention-text", "Mura", "--labels", *LABELS]
        assert run(capsys, *base, "--threshold", 1)[:2] == (0, "(no label reaches the threshold)\n")
        assert json.loads(run(capsys, *base, "--threshold", 1, "--json")[1])["labels"] == []

    @needs_encoder
    def test_without_a_model_the_weights_that_ship_answer(self, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        base = ["predict", "--text", "Kestrel at the Old Foundry tonight", "--mention-text", "Kestrel", "--json",
                "--labels", "band", "bird", "aircraft"]  # fmt: skip
        code, out, err = run(capsys, *base, "--image-text", "four musicians with guitars on a stage")
        assert code == 0 and "UNEXPECTED" not in err
        assert json.loads(out)["labels"][0]["label"] == "band"
        monkeypatch.setattr("modeling_mgvmoe.inference.model_folder.SHIPPED", "no-such-weights")
        code, _, err = run(capsys, *base)
        assert code == 2 and "--model" in err

    def test_half_precision(self, capsys, folder):
        base = ["predict", "--model", folder / "model", "--text", TEXT, "--mention-text", "Mura", "--labels", *LABELS,
                "--function-to-apply", "none", "--json"]  # fmt: skip
        whole, half = (json.loads(run(capsys, *base, *own)[1])["labels"] for own in ([], ["--dtype", "bfloat16"]))
        scores = [{item["label"]: item["score"] for item in answer} for answer in (whole, half)]
        assert scores[0] != scores[1]
        assert all(abs(scores[0][name] - scores[1][name]) < 0.2 for name in LABELS)

    def test_an_image_by_its_address_is_fetched(self, capsys, folder, monkeypatch):
        content = (folder / "one.png").read_bytes()
        monkeypatch.setattr("modeling_mgvmoe.images.fetch_image", lambda url, allow_private: content)
        base = ["predict", "--model", folder / "model", "--text", TEXT, "--mention-text", "Mura", "--labels", *LABELS,
                "--json", "--image"]  # fmt: skip
        answers = [json.loads(run(capsys, *base, image)[1]) for image in ("https://a.b/one.png", folder / "one.png")]
        assert answers[0]["labels"] == answers[1]["labels"]


class TestFiles:
    POSTS = [
        {"text": TEXT, "mention": [12, 16], "image": "one.png", "id": "a"},
        {"text": "Mura sails", "mentions": [[0, 4]], "candidate_labels": ["red robot", "cake"], "label": "cake"},
        {"text": "Kelo greets Mura", "head": [0, 4], "tail": [12, 16]},
    ]

    @pytest.fixture
    def expected(self, folder, pipe):
        # A fresh one: labels that another test has embedded, in a batch of another size, may differ in a last bit.
        pipe = ZeroShotMultimodalIEPipeline(model=pipe.model, processor=pipe.processor)
        posts = [{**post, **({"image": str(folder / "one.png")} if "image" in post else {})} for post in self.POSTS]
        answers = pipe(posts, candidate_labels=LABELS, batch_size=2)
        kept = [{name: post[name] for name in post if name not in ("candidate_labels", "label")} for post in posts]
        return [{**post, "labels": answer} for post, answer in zip(kept, answers, strict=True)]

    def write(self, folder, kind):
        path = folder / f"posts.{kind}"
        lines = [json.dumps(post) for post in self.POSTS]
        path.write_text("\n".join(lines) if kind == "jsonl" else f"[{','.join(lines)}]", encoding="utf-8")
        return path

    @pytest.mark.parametrize("kind", ["json", "jsonl"])
    def test_from_a_file_to_a_file_or_to_standard_output(self, capsys, folder, expected, tmp_path, kind):
        base = ["predict", "--model", folder / "model", "--input", self.write(folder, kind), "--labels", *LABELS,
                "--batch-size", 2]  # fmt: skip
        assert json.loads(run(capsys, *base, "--json")[1]) == expected
        plain = run(capsys, *base)[1].splitlines()
        assert (
            plain[0] == TEXT
            and plain[1] == f"    {expected[0]['labels'][0]['score']:.2f}  " + (expected[0]["labels"][0]["label"])
        )
        output = tmp_path / f"answers.{kind}"
        code, out, _ = run(capsys, *base, "--output", output, "--json")
        assert code == 0 and json.loads(out) == {"output": str(output), "posts": 3}
        text = output.read_text(encoding="utf-8")
        found = json.loads(text) if kind == "json" else [json.loads(line) for line in text.splitlines()]
        assert found == expected and not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("*.new"))

    def test_parquet(self, capsys, folder, pipe, tmp_path):
        posts = write_folder(tmp_path, ("test",)) / "test.parquet"
        code, out, _ = run(capsys, "predict", "--model", folder / "model", "--input", posts, "--labels", "a", "b",
                           "--json")  # fmt: skip
        answers = json.loads(out)
        from datasets import Dataset

        rows = list(Dataset.from_parquet(str(posts)))
        expected = pipe((row for row in rows), candidate_labels=["a", "b"], batch_size=8)
        assert code == 0 and [answer["id"] for answer in answers] == [row["id"] for row in rows]
        assert [answer["labels"] for answer in answers] == list(expected)

    def test_a_stopped_run_goes_on_and_a_part_of_another_is_refused(
        self, capsys, folder, expected, tmp_path, monkeypatch
    ):
        output = tmp_path / "answers.jsonl"
        base = ["predict", "--model", folder / "model", "--input", self.write(folder, "jsonl"), "--labels", *LABELS,
                "--batch-size", 1, "--output", output]  # fmt: skip
        add = answer_file.AnswerFile.add

        def stop_at_the_second(answers, answer):
            if answer["text"] == "Mura sails":
                answers.file.write('{"text": "half a li')
                raise KeyboardInterrupt
            add(answers, answer)

        monkeypatch.setattr(answer_file.AnswerFile, "add", stop_at_the_second)
        code, out, err = run(capsys, *base)
        assert (code, out, err) == (130, "", "mgvmoe predict: stopped\n") and not output.exists()
        monkeypatch.undo()
        # Another number of labels is another run.
        code, _, err = run(capsys, *base, "--top-k", 1)
        assert code == 2 and "is of a run with other posts, another model or other flags" in err
        code, out, err = run(capsys, *base)
        assert (code, out) == (0, f"3 posts written to {output}\n") and "going on after post 1 of 3" in err
        found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        assert [own["text"] for own in found] == [own["text"] for own in expected]
        # Other batches, other last digits: of logits of order 10 in single precision 1e-5, a few times over.
        for ours, theirs in zip(found, expected, strict=True):
            scores = [{item["label"]: item["score"] for item in own["labels"]} for own in (ours, theirs)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-4)
        code, _, err = run(capsys, *base)
        assert code == 2 and f"'{output}' exists; --overwrite replaces it" in err
        assert run(capsys, *base, "--overwrite")[0] == 0

    BROKEN = (
        {"text": TEXT, "mention": [0, 4], "image": "bad.png"},
        {"text": TEXT, "mention": [0, 4], "image": "nowhere.png"},
        {"text": TEXT, "mention": [0, 99]},
        {"mention": [0, 4]},
        {"text": 5, "mention": [0, 4]},
        [],
    )

    @pytest.fixture
    def mixed(self, tmp_path):
        """A sound post, broken ones, and the same sound post again."""
        (tmp_path / "bad.png").write_bytes(b"no picture")
        sound = {"id": "7", "text": TEXT, "mention": [0, 4]}
        path = tmp_path / "posts.json"
        path.write_text(json.dumps([sound, *self.BROKEN, sound]), encoding="utf-8")
        return path

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_with_broken_posts_every_other_answer_still_comes(
        self, capsys, folder, tmp_path, mixed, monkeypatch, batch_size
    ):
        output = tmp_path / "answers.jsonl"
        base = ["predict", "--model", folder / "model", "--input", mixed, "--labels", *LABELS, "--batch-size",
                batch_size]  # fmt: skip
        code, out, err = run(capsys, *base, "--json")
        answers = json.loads(out)
        assert code == 3 and '6 of 8 posts have an "error" instead of labels' in err
        for answer in (answers[0], answers[-1]):
            assert answer["id"] == "7" and len(answer["labels"]) == len(LABELS)
        assert all("labels" not in answer for answer in answers[1:-1])
        # The message says what is wrong, and where if that was found out before anything was scored.
        for answer, words in zip(
            answers[1:-1],
            ("bad.png", "post 2, image: the file", "post 3: ", "post 4: ", "post 5: ", "post 6: "),
            strict=True,
        ):
            assert words in answer["error"]
        shown = run(capsys, *base)[1]
        assert shown.count("    error: ") == 6 and shown.count(TEXT) == 5
        # Stopped among the errors it resumes where it was, and counts those that are there.
        add = answer_file.AnswerFile.add

        def stop_after_three(answers, answer):
            if answers.errors == 3:
                raise KeyboardInterrupt
            add(answers, answer)

        with monkeypatch.context() as patch:
            patch.setattr(answer_file.AnswerFile, "add", stop_after_three)
            assert run(capsys, *base, "--output", output)[0] == 130
        code, out, err = run(capsys, *base, "--output", output, "--json")
        assert code == 3 and "going on after post 4 of 8" in err
        assert json.loads(out) == {"output": str(output), "posts": 8, "errors": 6}
        found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        assert [list(answer) for answer in found] == [list(answer) for answer in answers]

    def test_a_line_that_is_no_json_is_named_and_the_others_are_answered(self, capsys, folder, tmp_path):
        sound = json.dumps({"text": TEXT, "mention": [0, 4]})
        path = tmp_path / "posts.jsonl"
        path.write_text(f'{sound}\n\n{{"text": \n{"[" * 100_000}\n{sound}\n', encoding="utf-8")
        base = ["predict", "--model", folder / "model", "--input", path, "--labels", *LABELS]
        code, out, err = run(capsys, *base, "--json")
        answers = json.loads(out)
        assert code == 3 and ["error" in answer for answer in answers] == [False, True, True, False]
        assert f"{path}, line 3: " in answers[1]["error"] and f"{path}, line 4: " in answers[2]["error"]
        assert f"{path}, line 3: " in err and answers[0] == answers[3]
        path.write_text("{\n", encoding="utf-8")
        code, out, err = run(capsys, *base)
        assert code == 2 and out == "" and f"{path}, line 1: " in err

    def test_a_broken_image_can_be_left_out(self, capsys, folder, mixed):
        base = ["predict", "--model", folder / "model", "--input", mixed, "--labels", *LABELS, "--json"]
        code, out, _ = run(capsys, *base, "--on_broken_image", "text_only")
        answers = json.loads(out)
        assert code == 3 and ["error" in answer for answer in answers] == [*[False] * 3, *[True] * 4, False]
        assert ["image_error" in answer for answer in answers[:3]] == [False, True, True]
        alone = {entry["label"]: entry["score"] for entry in answers[0]["labels"]}
        for answer in answers[1:3]:
            assert {entry["label"]: entry["score"] for entry in answer["labels"]} == pytest.approx(alone, abs=1e-5)

    def test_a_broken_image_in_a_parquet_file(self, capsys, folder, tmp_path):
        import datasets

        with (folder / "one.png").open("rb") as file:
            sound = file.read()
        rows = [
            {"id": str(number), "text": TEXT, "mentions": [[0, 4]], "label": "boat", "source": "x",
             "image": {"bytes": content, "path": None}}
            for number, content in enumerate((sound, sound[:60], sound))
        ]  # fmt: skip
        data = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
        data.to_parquet(str(tmp_path / "posts.parquet"))
        code, out, _ = run(capsys, "predict", "--model", folder / "model", "--input", tmp_path / "posts.parquet",
                           "--labels", *LABELS, "--json")  # fmt: skip
        assert code == 3 and ["error" in answer for answer in json.loads(out)] == [False, True, False]

    def test_half_a_surrogate_pair_does_not_end_the_run(self, capsys, folder, tmp_path):
        posts = [{"text": "half \ud800", "mention": [0, 4]}, {"text": TEXT, "mention": [0, 4]}]
        (tmp_path / "posts.json").write_text(json.dumps(posts), encoding="utf-8")
        base = ["predict", "--model", folder / "model", "--input", tmp_path / "posts.json", "--labels", *LABELS]
        code, out, _ = run(capsys, *base, "--json")
        assert code == 3 and out.encode() and "surrogate" in json.loads(out)[0]["error"]
        code, out, _ = run(capsys, *base)
        assert code == 3 and out.startswith("half \\ud800\n    error: ") and TEXT in out.encode().decode()
        code, out, _ = run(capsys, *base, "--output", tmp_path / "answers.jsonl")
        answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text("utf-8").splitlines()]
        assert code == 3 and [answer["text"] for answer in answers] == ["half \ud800", TEXT]

    def test_the_posts_are_not_replaced_by_the_answers(self, capsys, folder, tmp_path):
        path = self.write(tmp_path, "jsonl")
        (tmp_path / "again.jsonl").hardlink_to(path)
        before = path.read_bytes()
        for output in (path, tmp_path / "again.jsonl"):
            code, out, err = run(capsys, "predict", "--model", folder / "model", "--input", path, "--labels", *LABELS,
                                 "--output", output, "--overwrite")  # fmt: skip
            assert (code, out) == (2, "") and "--output: another file than --input must be named" in err
        assert path.read_bytes() == before

    def test_a_second_run_with_one_output_is_refused(self, capsys, folder, tmp_path, monkeypatch):
        base = ["predict", "--model", folder / "model", "--input", self.write(folder, "json"), "--labels", *LABELS,
                "--output", tmp_path / "answers.jsonl"]  # fmt: skip
        add, told = answer_file.AnswerFile.add, []

        def begin_another(answers, answer):
            if not told:  # once: it waits for the lock
                told.append(run(capsys, *base))
            add(answers, answer)

        monkeypatch.setattr(answer_file.AnswerFile, "add", begin_another)
        assert run(capsys, *base)[0] == 0
        ((code, out, err),) = told
        assert (code, out) == (1, "") and "--output: a run that is still alive" in err
        assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]

    def test_a_file_with_two_colons_in_its_name_is_a_file(self, capsys, folder, tmp_path):
        (tmp_path / "a::b.png").write_bytes((folder / "one.png").read_bytes())
        post = {"text": TEXT, "mention": [0, 4], "image": "a::b.png"}
        (tmp_path / "posts.json").write_text(json.dumps([post]), encoding="utf-8")
        code, out, _ = run(capsys, "predict", "--model", folder / "model", "--input", tmp_path / "posts.json",
                           "--labels", *LABELS, "--json")  # fmt: skip
        assert code == 0 and json.loads(out)[0]["image"] == str(tmp_path / "a::b.png")

    def test_broken_posts_only_are_refused_before_a_model_is_loaded(self, capsys, tmp_path):
        (tmp_path / "bad.png").write_bytes(b"no picture")
        (tmp_path / "posts.json").write_text(json.dumps(self.BROKEN[1:]), encoding="utf-8")
        code, out, err = run(capsys, "predict", "--model", "nobody/nothing", "--input", tmp_path / "posts.json",
                             "--labels", *LABELS)  # fmt: skip
        assert code == 2 and out == "" and "post 0, image: the file" in err and "and 4 more broken posts" in err


class TestMisuse:
    """Every one of these is told before a model is loaded, in one line, with nothing on standard output."""

    GOOD = {"--model": ["{folder}/model"], "--text": [TEXT], "--mention-text": ["Mura"], "--labels": LABELS}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"--text": None}, "either --text or --input must be given, got neither"),
            ({"--text": [" "]}, "--text: a post with words in it is needed"),
            ({"--labels": None}, "--labels must be given with --text"),
            ({"--labels": ["boat", "boat "]}, r"--labels: labels must be distinct \(got twice: 'boat '\)"),
            ({"--mention-text": None}, "--mention, or --head and --tail, must be given"),
            ({"--head-text": ["greets"]}, r"must be given .* got \['mention', 'head'\]"),
            ({"--mention-text": ["Kelo"]}, "'Kelo' occurs 2 times in the text, at 0, 22; --mention-index 1 to 2 says"),
            ({"--mention-text": ["Kelo"], "--mention-index": ["3"]}, "--mention-index must be from 1 to 2"),
            ({"--mention-text": ["mura"]}, "'mura' does not occur in the text; did you mean 'Mura'?"),
            ({"--mention-text": ["Zed"]}, "'Zed' does not occur in the text"),
            ({"--mention-text": None, "--mention": ["4", "99"]}, "--mention: .*99"),
            ({"--mention-text": None, "--mention": ["4", "x"]}, "argument --mention: invalid int value: 'x'"),
            ({"--mention": ["0", "4"]}, "--mention and --mention-text exclude each other, got both"),
            ({"--head-index": ["1"]}, "--head-index goes with --head-text, got 1 without"),
            ({"--image": ["nowhere.png"]}, "--image: the file 'nowhere.png' does not exist"),
            ({"--top-k": ["0"]}, r"top_k: an integer of at least 1, or None, is needed \(got 0\)"),
            ({"--threshold": ["2"]}, "threshold: a score between 0 and 1 is needed"),
            ({"--function-to-apply": ["tanh"]}, "function_to_apply: one of softmax, sigmoid, none is needed"),
            ({"--hypothesis-template": ["a"]}, "hypothesis_template: a string with exactly one"),
            ({"--descriptions": ["nowhere.json"]}, "the file 'nowhere.json' does not exist"),
            ({"--descriptions": ["{folder}/list.json"]}, "a JSON object is needed"),
            ({"--label-types": ["{folder}/types.json"]}, r"label_types\['greets'\]: types of the head"),
            ({"--device": ["tpu9"]}, "device: 'tpu9' cannot be used here"),
            ({"--dtype": ["int8"]}, "dtype must be one of float32, bfloat16, float16, auto, got 'int8'"),
            ({"--model": ["./nowhere"]}, "model: the folder ./nowhere does not exist"),
            ({"--model": ["{folder}"]}, "holds no config.json; did you mean .*model?"),
            ({"--output": ["a.json"]}, "--output goes with --input"),
            ({"--batch-size": ["0"]}, "--batch-size must be at least 1, got 0"),
            ({"--input": ["x.json"]}, "either --text or --input must be given, got both"),
            ({"--lables": ["x"]}, r"arguments: --lables .did you mean --labels.. \(mgvmoe --help lists the flags\)"),
        ],
    )  # fmt: skip
    def test_one_post(self, capsys, folder, change, message):
        (folder / "list.json").write_text("[1]")
        (folder / "types.json").write_text('{"greets": ["person"]}')
        flags = {**self.GOOD, **change}
        words = [word for flag, values in flags.items() if values is not None for word in (flag, *values)]
        code, out, err = run(capsys, "predict", *[word.replace("{folder}", str(folder)) for word in words])
        assert code == 2 and out == ""
        assert re.search(message, err) and err.startswith("mgvmoe") and err.count("\n") == 1, err

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.txt", "", "--input: a file that ends in .jsonl, .json, .csv, .tsv, .parquet is needed"),
            ("a.json", None, "--input: the file .* does not exist"),
            ("a.json", "{", "a.json: no JSON: "),
            ("a.json", "{}", "a.json: a JSON list of posts is needed, got dict"),
            ("a.json", "[]", "holds no post"),
            ("a.jsonl", '\n{"text": 5, "mention": [0, 1]}', "line 2: text: a string"),
            ("a.jsonl", "\n[]\n", "a.jsonl, line 2: inputs: each post must be a dict"),
            ("a.json", '[{"text": "Kelo", "mention": [0, 9]}]', "a.json, post 0: mentions: "),
            ("a.json", '[{"text": "Kelo", "mentoin": [0, 4]}]', r"post 0: .*\(got none; unknown columns: mentoin\)"),
            ("a.csv", "text,mention\nKelo,Mura\n", "a.csv, row 0: mentions: the words 'Mura' must occur once"),
            ("a.json", '[{"text": "Kelo", "mention": [0, 4], "image": "no.png"}]', "post 0, image: the file .*no.png"),
            ("a.json", '[{"text": "Kelo", "mention": [0, 4], "candidate_labels": []}]', "post 0: candidate_labels: a"),
        ],
    )
    def test_files(self, capsys, folder, tmp_path, name, content, message):
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
        code, out, err = run(capsys, "predict", "--model", folder / "model", "--input", tmp_path / name, "--labels",
                             *LABELS)  # fmt: skip
        assert code == 2 and out == "" and re.search(message, err) and err.count("\n") == 1, err

    def test_posts_without_labels_and_outputs_that_cannot_be(self, capsys, folder, tmp_path):
        (tmp_path / "a.json").write_text('[{"text": "Kelo", "mention": [0, 4]}]')
        base = ["predict", "--model", folder / "model", "--input", tmp_path / "a.json"]
        assert "needs its own, or --labels" in run(capsys, *base)[2]
        base += ["--labels", "boat"]
        assert "ends in .json, .jsonl" in run(capsys, *base, "--output", "a.txt")[2]
        assert "is a folder" in run(capsys, *base, "--output", _folder(tmp_path / "b.json"))[2]
        assert "the folder '/no/where' does not exist" in run(capsys, *base, "--output", "/no/where/a.json")[2]
        assert "--text: these are in the file" not in run(capsys, *base, "--text", "x")[2]
        assert "--image: these are in the file" in run(capsys, *base, "--image", "x")[2]

    def test_types_need_a_model_that_reads_them(self, capsys, folder, tmp_path):
        (tmp_path / "types.json").write_text('{"greets": ["person", "person"]}')
        code, _, err = run(
            capsys, "predict", "--model", folder / "model", "--text", TEXT, "--head", 0, 4, "--tail", 12, 16,
            "--labels", *RELATIONS, "--label-types", tmp_path / "types.json",
        )  # fmt: skip
        assert code == 2 and '--label-types: a model with score="similarity" is needed' in err

    def test_a_model_that_cannot_be_had_or_is_another_fails(self, capsys, folder, tmp_path):
        base = ["--text", TEXT, "--mention-text", "Mura", "--labels", *LABELS]
        # No network in the tests.
        code, out, err = run(capsys, "predict", "--model", "nobody/nothing", *base)
        assert code == 1 and out == "" and "nobody/nothing" in err and err.count("\n") == 1
        scratch_model()[0].mgvmoe.text_model.save_pretrained(tmp_path / "bert")
        scratch_model()[1].save_pretrained(tmp_path / "bert")
        code, _, err = run(capsys, "predict", "--model", tmp_path / "bert", *base)
        assert code == 1 and "must be a model of this package (mgvmoe), got 'bert'" in err


@pytest.mark.slow
def test_as_a_program(folder):
    """One process: what the user types, and what a pipe of the shell reads."""
    command = [sys.executable, "-m", "modeling_mgvmoe", "predict", "--model", str(folder / "model"), "--json",
               "--text", TEXT, "--mention-text", "Mura", "--labels", *LABELS]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0 and len(json.loads(done.stdout)["labels"]) == 4
    assert "Traceback" not in done.stderr


def _folder(path):
    path.mkdir()
    return path
