"""`examples/extract.py` with a real, tiny model: from files to a graph, killed, stopped, shared among processes."""

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from modeling_mgvmoe.cli.extract import _parser, extract_command
from modeling_mgvmoe.graph.hetero_data import load_hetero_data
from modeling_mgvmoe.graph.model_extractor import ExtractionOptions, ModelExtractor, processor_fingerprint
from modeling_mgvmoe.graph.runner import extract_in_bulk
from modeling_mgvmoe.graph.tables import GraphTables
from tests.support.commands import run
from tests.support.from_scratch import scratch_model
from tests.support.graph_data import contents, some_posts, write_posts

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "examples" / "extract.py")
LABELS = {"typing_labels": ["boat", "bird", "cake"], "relation_labels": ["greets", "chases"]}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a model, posts and labels, and the flags that name them."""
    folder = tmp_path_factory.mktemp("inputs")
    model, processor = scratch_model()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    posts = some_posts(60)
    posts[7]["mentions"] = [[0, 400]]
    write_posts(folder / "posts.parquet", posts)
    (folder / "labels.json").write_text(json.dumps(LABELS))
    return ["--input", str(folder / "posts.parquet"), "--model", str(folder / "model"), "--batch_size", "4",
            "--part_size", "10"]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "graph"
    patch = pytest.MonkeyPatch()
    patch.setenv("ACCELERATE_USE_CPU", "true")
    summary = extract_command([*inputs, "--output", str(folder)])
    patch.undo()
    assert summary["posts"] == 59 and summary["errors: mentions"] == 1
    return folder


def test_it_is_what_the_model_extracts(inputs, undisturbed):
    model, processor = scratch_model()
    posts = [post for number, post in enumerate(some_posts(60)) if number != 7]
    expected = model.extract(
        posts, LABELS["typing_labels"], LABELS["relation_labels"], processor=processor, batch_size=32
    )
    graph = GraphTables(undisturbed)
    found = [post for part in graph.parts for post in graph.posts(part)]
    for one, other in zip(found, expected, strict=True):
        assert one["id"] == other["id"]
        for name in ("mentions", "relations"):
            assert [entry["label"] for entry in one[name]] == [entry["label"] for entry in other[name]]
            scores = [[score["score"] for score in entry["scores"]] for entry in one[name]]
            # Other batches in single precision: 1e-5 of logits of order 10, a few times over.
            assert scores == [
                pytest.approx([score["score"] for score in entry["scores"]], abs=1e-4) for entry in other[name]
            ]
    assert sum(len(post["relations"]) for post in found) > 100


def test_all_forms_come_of_a_finished_graph_without_a_model(undisturbed, capsys):
    forms = ["json_lines", "n_triples", "hetero_data"]
    extract_command(["--output", str(undisturbed), "--export_only", "--formats", *forms])
    assert capsys.readouterr().out.count("written: ") == 3
    with open(undisturbed / "graph.jsonl", encoding="utf-8") as file:
        assert sum(1 for _ in file) == 59
    data = load_hetero_data(undisturbed / "hetero_data")
    assert data["post"].num_nodes == 59 and data["entity_type"].name.tolist() == LABELS["typing_labels"]
    for name in ("graph.jsonl", "graph.nt"):
        (undisturbed / name).unlink()
    for path in (undisturbed / "hetero_data").iterdir():
        path.unlink()
    (undisturbed / "hetero_data").rmdir()


def test_image_features_are_the_mean_of_the_towers_tokens(inputs, tmp_path):
    extract_command([*inputs, "--output", str(tmp_path), "--image_features", "--num_workers", "2"])
    posts = pq.read_table(tmp_path / "posts").to_pylist()
    model, processor = scratch_model()
    pixels = processor.encode_images([some_posts(60)[5]["image"]])[0]
    with torch.no_grad():
        expected = model.get_image_features(torch.from_numpy(pixels)[None]).mean(1)[0]
    assert posts[5]["image_features"] == pytest.approx(expected.tolist(), abs=1e-4)
    assert posts[6]["image_features"] is None


def test_the_script_says_that_some_posts_have_an_error(inputs, tmp_path, capsys, monkeypatch):
    """One post of 60 has a span outside of its text."""
    for name in ("LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    main = runpy.run_path(SCRIPT)["main"]
    flags = [*inputs, "--output", str(tmp_path / "graph"), "--part_size", "60", "--batch_size", "32"]
    for _ in range(2):  # the second has nothing to do
        with pytest.raises(SystemExit) as end:
            main(flags)
        assert end.value.code == 3 and "59 posts" in capsys.readouterr().out
    for flag in ("--export_only", "--export-only"):
        assert main(["--output", str(tmp_path / "graph"), flag, "--formats", "n_triples"])["errors"] == 1
    code, out, _ = run(capsys, "extract", *flags, "--json")
    assert code == 3 and json.loads(out)["posts"] == 59
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(flags)["errors"] == 1


def test_the_flag_of_broken_images_and_its_old_name(capsys):
    for flag, told in (("--on_broken_image", ""), ("--on_broken_picture", "is now called --on_broken_image")):
        flags = _parser(None).parse_args(["--output", "x", flag, "text_only"])
        assert flags.on_broken_image == "text_only" and told in capsys.readouterr().err
    assert _parser(None).parse_args(["--output", "x"]).on_broken_image == "error"


def test_the_flag_of_image_features_and_its_old_name(capsys):
    for flag, is_old in (("--image_features", False), ("--picture_features", True)):
        assert _parser(None).parse_args(["--output", "x", flag]).image_features is True
        assert ("is now called --image_features" in capsys.readouterr().err) is is_old
    assert _parser(None).parse_args(["--output", "x"]).image_features is False


def refused(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        extract_command(flags)
    assert stop.value.code in (1, 2)
    return capsys.readouterr().err


def test_what_does_not_go_together_is_refused_in_words(inputs, undisturbed, tmp_path, capsys):
    out = ["--output", str(tmp_path / "graph")]
    assert "--input is needed" in refused(out, capsys)
    assert "'gone.parquet' does not exist" in refused([*out, "--input", "gone.parquet"], capsys)
    assert "batch_size must be at least 1, got 0" in refused([*inputs, *out, "--batch_size", "0"], capsys)
    assert "base_iri must be an absolute IRI" in refused([*inputs, *out, "--base_iri", "here"], capsys)
    assert "threshold must be one number, or one for types and one for relations" in refused(
        [*inputs, *out, "--threshold", "0.1", "0.2", "0.3"], capsys
    )
    assert "top_k: an integer of at least 1 is needed (got 0)" in refused([*inputs, *out, "--top_k", "0"], capsys)
    assert "holds no extracted graph" in refused([*out, "--export_only", "--formats", "n_triples"], capsys)
    lines = tmp_path / "lines.parquet"
    pq.write_table(pq.read_table(inputs[1]).drop_columns(["mentions"]), lines)
    assert "has no column 'mentions'; --mention_finder" in refused([*inputs, *out, "--input", str(lines)], capsys)
    assert f"labels: --labels FILE is needed, for there is no {tmp_path / 'labels.json'}" in refused(
        [*inputs, *out, "--input", inputs[1].replace(str(Path(inputs[1]).parent), str(tmp_path))]
        if (tmp_path / "posts.parquet").write_bytes(Path(inputs[1]).read_bytes())
        else [],
        capsys,
    )
    assert not (tmp_path / "graph").exists()
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**LABELS, "typing_labels": ["boat", "robot"]}))
    message = refused([*inputs, "--output", str(undisturbed), "--labels", str(other)], capsys)
    assert "belongs to another run: labels.typing was ['boat', 'bird', 'cake'] and is ['boat', 'robot']" in message
    assert "options.top_k was None and is 2" in refused(
        [*inputs, "--output", str(undisturbed), "--top_k", "2"], capsys
    )


def test_another_model_is_another_run(inputs, undisturbed, tmp_path, capsys):
    model, processor = scratch_model()
    with torch.no_grad():
        model.mgvmoe.vision_model.layernorm.bias[0] += 1e-3
    for folder in ("weights", "processor"):
        model.save_pretrained(tmp_path / folder)
        processor.save_pretrained(tmp_path / folder)
        model, processor = scratch_model()
        processor.hypothesis_template = "a {}"
    for folder, what in (("weights", "model was "), ("processor", "processor was ")):
        message = refused([*inputs, "--output", str(undisturbed), "--model", str(tmp_path / folder)], capsys)
        assert f"belongs to another run: {what}" in message


def test_a_model_and_its_saved_and_loaded_self_are_one(inputs, undisturbed):
    _, processor = scratch_model()
    identity = json.loads((undisturbed / "_run" / "run.json").read_text())
    assert identity["processor"] == processor_fingerprint(processor)
    assert extract_command([*inputs, "--output", str(undisturbed)])["posts"] == 59


def test_mentions_are_found_where_there_are_none(inputs, tmp_path):
    lines = [{"id": "1", "text": "Kelo greets Mura"}, {"id": "2", "text": "Mura", "mentions": []}]
    (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def names(text):
        starts = [place for place, char in enumerate(text) if char.isupper()]
        return [{"start": start, "end": start + 4} for start in starts]

    from modeling_mgvmoe.graph.model_extractor import CandidateLabels
    from modeling_mgvmoe.graph.post_files import PostFiles
    from modeling_mgvmoe.graph.runner import BulkArguments

    extractor = ModelExtractor(
        *scratch_model(), CandidateLabels(("boat", "bird"), ("greets",)), ExtractionOptions(), names
    )
    arguments = BulkArguments(output=str(tmp_path / "graph"), needs_mentions=False)
    extract_in_bulk(PostFiles([tmp_path / "posts.jsonl"]), extractor, arguments, extractor.identity)
    mentions = pq.read_table(tmp_path / "graph" / "mentions").to_pylist()
    assert [(one["post_id"], one["text"]) for one in mentions] == [("1", "Kelo"), ("1", "Mura")]


def test_paths_and_rejection_get_into_the_tables(inputs, tmp_path):
    paths = {"typing_labels": ["thing > boat", "thing > cake", "animal > bird"], "label_separator": ">"}
    (tmp_path / "labels.json").write_text(json.dumps(paths))
    flags = ["--labels", str(tmp_path / "labels.json"), "--threshold", "0.5", "--top_k", "2"]
    summary = extract_command([*inputs, "--output", str(tmp_path / "graph"), *flags])
    mentions = pq.read_table(tmp_path / "graph" / "mentions").to_pylist()
    labels = {mention["label"] for mention in mentions}
    assert None in labels and len(labels) > 1 and summary["mentions rejected"] > 0
    for mention in mentions:
        assert len(mention["scores"]) == 2 and len(mention["levels"]) == 2
        assert (mention["label"] is None) == (mention["score"] < 0.5)
    assert summary["relations"] == 0


def test_a_model_that_can_extract_nothing_is_refused_before_the_first_post(inputs, tmp_path, capsys):
    message = refused([*inputs, "--output", str(tmp_path / "graph"), "--max_length", "3"], capsys)
    assert "model: it cannot extract from so simple a text as 'this and that'" in message
    assert not (tmp_path / "graph").exists()


def environment(threads=1):
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": str(threads)}  # fmt: skip


def start(flags, launcher=()):
    return subprocess.Popen(
        [sys.executable, *launcher, SCRIPT, *flags], cwd=ROOT, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell's background jobs ignore it, and their children with them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def ended(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def many(inputs, tmp_path_factory):
    """Flags for posts that take some seconds, and the graph of an undisturbed run in its own process."""
    folder = tmp_path_factory.mktemp("many")
    write_posts(folder / "posts.parquet", some_posts(1500), row_group_size=400)
    (folder / "labels.json").write_text(json.dumps(LABELS))
    flags = ["--input", str(folder / "posts.parquet"), *inputs[2:6], "--part_size", "50"]
    code, out, err = ended(start([*flags, "--output", str(folder / "graph")]))
    assert code == 0, err
    return flags, contents(folder / "graph")


def wait_for(folder, parts, process):
    while process.poll() is None and len(list(folder.glob("posts/rows-*"))) < parts:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_that_is_really_killed_ends_with_the_same_bytes(many, tmp_path):
    # Twice; test_runner.py stops a run at every operation on a file.
    flags, expected = many
    draw = random.Random(0)
    flags = [*flags, "--output", str(tmp_path / "graph")]
    for _ in range(2):
        process = start(flags)
        # At its first part, then at any moment.
        wait_for(tmp_path / "graph", 1 + len(list((tmp_path / "graph").glob("posts/rows-*"))), process)
        time.sleep(draw.uniform(0, 1.0))
        process.kill()
        ended(process)
    assert not (tmp_path / "graph" / "summary.json").exists()
    code, out, err = ended(start(flags))
    assert code == 0, err
    assert contents(tmp_path / "graph") == expected


@pytest.mark.slow
def test_a_signal_prints_the_command_that_goes_on(many, tmp_path):
    # Ctrl-C here, SIGTERM in the test below.
    flags, expected = many
    signum = signal.SIGINT
    process = start([*flags, "--output", str(tmp_path / "graph"), "--overwrite"])
    wait_for(tmp_path / "graph", 1, process)
    process.send_signal(signum)
    code, out, err = ended(process)
    assert code == 128 + signum, err
    assert f"{signum.name}: finishing the batch; again to stop at once" in err
    command = out.splitlines()[-1]
    assert out.splitlines()[-2] == "To go on:" and "--overwrite" not in command
    done = subprocess.run(
        command, shell=True, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "graph") == expected


@pytest.mark.slow
def test_two_processes_and_then_one_make_the_same_graph(many, tmp_path):
    flags, expected = many
    flags = [*flags, "--output", str(tmp_path / "graph")]
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    process = start(flags, two)
    wait_for(tmp_path / "graph", 3, process)
    process.send_signal(signal.SIGTERM)
    code, out, err = ended(process)
    assert code != 0 and "To go on:" in out and "torch.distributed.run" in out.splitlines()[-1], err
    code, out, err = ended(start(flags))
    assert code == 0 and "1 process" in out, err
    assert contents(tmp_path / "graph") == expected
    code, out, err = ended(start([*flags[:-1], str(tmp_path / "other")], two))
    assert code == 0 and "2 processes" in out and "1,500 posts in" in out, err
    assert contents(tmp_path / "other") == expected
