"""Command lines that are wrong: every script and every command says so in one line, and does not end with 0."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from transformers import HfArgumentParser

from modeling_mgvmoe.cli.main import main as mgvmoe
from modeling_mgvmoe.inference import model_folder
from modeling_mgvmoe.training.arguments import ARGUMENT_CLASSES, _flags
from tests.support.from_scratch import scratch_model

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "configuration" / "recipes"
# In the flags "M" is a model, "T" a folder of bad files, "RUN" a new folder and "R" the first words of a training.
TRAIN = ["--config", str(RECIPES / "sketchbook.yaml"), "--posts_per_class", "1", "--eval_posts_per_class", "1",
         "--output_dir", "T/run"]  # fmt: skip
CACHE = ["--config", str(RECIPES / "sketchbook_cached.yaml"), "--posts_per_class", "2"]
POST = ["post", "--model", "M", "--posts", "T/posts.json", "--output", "T/out.html"]
SKETCHBOOK = ["--model", "M", "--dataset", "sketchbook"]
COMMANDS = {
    "train": [
        ([], "A model is needed: --config with a recipe, --model_name_or_path"),
        (["--config", "T/none.yaml"], "config: the file 'T/none.yaml' does not exist"),
        (["--config", "T/full"], "config: the file 'T/full' does not exist"),
        (["--config", "T/bad.yaml"], "T/bad.yaml: a recipe in YAML is needed"),
        (["--config", "T/key.yaml"], "T/key.yaml: unknown key 'trainig'; did you mean 'training'?"),
        ([*TRAIN, "--nope", "3"], "unrecognized arguments: --nope (did you mean --"),
        ([*TRAIN, "--lerning_rate", "3"], "--lerning_rate (did you mean --learning_rate?)"),
        (
            ["--config", str(RECIPES / "mgvmoe_small.yaml"), "--output_dir", "T/run"],
            "needs encoders: --text_model_name_or_path and --vision_model_name_or_path",
        ),
        ([*TRAIN, "--max_train_steps", "x"], "invalid int value: 'x'"),
        ([*TRAIN, "--max_train_steps", "-1"], "max_train_steps must be at least 1, got -1"),
        ([*TRAIN, "--learning_rate", "nan"], "learning_rate must be greater than 0, got nan"),
        ([*TRAIN, "--per_device_train_batch_size", "0"], "per_device_train_batch_size must be at least 1, got 0"),
        ([*TRAIN, "--seed", "-1"], "seed must be between 0 and 2**32 - 1, got -1"),
        ([*TRAIN, "--num_threads", "0"], "num_threads must be at least 1, got 0"),
        ([*TRAIN, "--mixed_precision", "x"], "invalid choice: 'x'"),
        ([*TRAIN, "--lr_scheduler_type", "x"], "invalid choice: 'x'"),
        ([*TRAIN[:2], "--posts_per_class", "0", "--output_dir", "RUN"], "posts_per_class must be an integer of at"),
        ([*TRAIN, "--model_config", "{"], "a JSON object is needed, got '{'"),
        ([*TRAIN, "--model_config", "[]"], "a JSON object is needed, got '[]'"),
        ([*TRAIN, "--model_config", '{"num_expert": 8}'], "unknown key 'num_expert'; did you mean 'num_experts'?"),
        ([*TRAIN, "--model_config", '{"num_experts": -1}'], "num_experts must not be negative, got -1"),
        ([*TRAIN, "--model_config", '{"num_experts": "8"}'], "'num_experts' expected int, got str"),
        ([*TRAIN, "--dataset", "T/none"], "dataset: 'T/none' does not exist"),
        ([*TRAIN, "--dataset", "T/full"], "dataset: T/full/train.parquet does not exist"),
        ([*TRAIN, "--dataset", "T/file"], "dataset: a file that ends in .jsonl, .json, .csv, .tsv, .parquet is"),
        ([*TRAIN, "--output_dir", "T/file"], "output_dir: a folder is needed, got 'T/file'"),
        ([*TRAIN, "--output_dir", "T/file/x"], "output_dir: a folder is needed, got 'T/file/x', and 'T/file' is a"),
        ([*TRAIN, "--image_feature_cache", "T/none"], "image_feature_cache: T/none/header.json does not exist"),
        ([*TRAIN, "--resume_from_checkpoint", "T/none"], "resume_from_checkpoint: there is no folder T/none"),
        ([*TRAIN, "--report_to", "x"], "report_to must name trackers out of jsonl"),
        ([*TRAIN, "--max_length", "2"], "max_length: at least 5 is needed"),
        (["--model_name_or_path", "T/none"], "model_name_or_path: the folder T/none does not exist"),
        (["--model_name_or_path", "T/full"], "model_name_or_path: T/full holds no config.json"),
        (
            ["--text_model_name_or_path", "T/none", "--vision_model_name_or_path", "M"],
            "text_model_name_or_path: the folder T/none does not exist",
        ),
    ],
    "evaluate": [
        ([], "the following arguments are required: --model, --dataset"),
        (["--model", "T/none", "--dataset", "sketchbook"], "model: the folder T/none does not exist"),
        (["--model", "T/full", "--dataset", "sketchbook"], "model: T/full holds no config.json"),
        (["--model", "T/file", "--dataset", "sketchbook"], "model: the folder T/file does not exist"),
        (["--model", "M", "--dataset", "T/none"], "a folder or a file of rows is needed, 'T/none' is none"),
        ([*SKETCHBOOK, "--protocol", "x"], "protocol must be one of unseen, seen, generalised, open, got 'x'"),
        ([*SKETCHBOOK, "--output_dir", "T/file"], "output_dir: a folder is needed, got 'T/file'"),
        ([*SKETCHBOOK, "--max_posts", "0"], "batch_size and max_posts must be at least 1, got 64 and 0"),
        ([*SKETCHBOOK, "--seeds", "1", "1"], "seeds must be one or more different numbers, got [1, 1]"),
        ([*SKETCHBOOK, "--seeds", "x"], "argument --seeds: invalid int value: 'x'"),
        ([*SKETCHBOOK, "--device", "x"], "device: 'x' cannot be used here"),
        ([*SKETCHBOOK, "--dtype", "int8"], "dtype must be one of float32, bfloat16, float16, auto, got 'int8'"),
    ],
    "explain": [
        ([], "the following arguments are required: command"),
        (["x"], "invalid choice: 'x'"),
        (["post", "--number_of", "5"], "unrecognized arguments: --number_of (did you mean --number?)"),
        (["experts", "--posts", "5"], "unrecognized arguments: --posts (did you mean --"),
        ([*POST, "--model", "T/none"], "model: the folder T/none does not exist"),
        ([*POST, "--posts", "T/none"], "posts: the file 'T/none' does not exist"),
        ([*POST, "--posts", "T/full"], "posts: the file 'T/full' does not exist"),
        ([*POST, "--posts", "T/bad.json"], "T/bad.json: a JSON file is needed"),
        ([*POST, "--posts", "T/list.json"], "posts: 'T/list.json' must hold a list of posts, got [3]"),
        ([*POST, "--posts", "T/object.json"], "posts: 'T/object.json' must hold a list of posts, got {}"),
        ([*POST, "--posts", "T/none.json"], "posts: 'T/none.json' must hold a list of posts, got []"),
        ([*POST, "--number", "5"], "number must be one of 0 to 1, got 5"),
        ([*POST, "--number", "1"], "candidate_labels: a non-empty list of labels is needed"),
        ([*POST, "--device", "x"], "device: 'x' cannot be used here"),
        ([*POST, "--output", "T/file/x.html"], "output: a folder is needed, got 'T/file', and 'T/file' is a file"),
        ([*POST, "--output", "T"], "output: the name of a file is needed, 'T' is a folder"),
        ([*POST, "--output", "T/x.png"], "output must end in .html, got 'T/x.png'"),
        ([*POST, "--threshold", "2"], "threshold: a score between 0 and 1 is needed (got 2.0)"),
        (["experts", "--model", "M", "--dataset", "T/none"], "a folder or a file of rows is needed, 'T/none' is none"),
        (["experts", *SKETCHBOOK, "--max_posts", "-1"], "max_posts must be at least 1, got -1"),
        (["experts", *SKETCHBOOK, "--split", "x"], "argument --split: invalid choice: 'x'"),
    ],
    "export_onnx": [
        ([], "the following arguments are required: --model, --output_dir"),
        (["--outputdir", "RUN"], "unrecognized arguments: --outputdir (did you mean --output_dir?)"),
        (["--model", "T/none", "--output_dir", "RUN"], "model: the folder T/none does not exist"),
        (["--model", "T/full", "--output_dir", "RUN"], "model: T/full holds no config.json"),
        (["--model", "M", "--output_dir", "T/full"], "output_dir: T/full is not empty; overwrite replaces it"),
        (["--model", "M", "--output_dir", "T/file"], "output_dir: a folder is needed, got 'T/file'"),
        (["--model", "M", "--output_dir", "T/file", "--overwrite"], "output_dir: a folder is needed, got 'T/file'"),
    ],
    "extract": [
        ([], "the following arguments are required: --output"),
        (["--outptu", "RUN"], "unrecognized arguments: --outptu (did you mean --output?)"),
        (["--output", "RUN"], "--input is needed, files or folders of posts"),
        (["--output", "RUN", "--input", "T/none"], "input: 'T/none' does not exist"),
        (["--output", "RUN", "--input", "T/file"], "input: a file must end with .parquet or .jsonl, got 'T/file'"),
        (["--output", "RUN", "--input", "T/posts.json"], "input: a file must end with .parquet or .jsonl"),
        (["--output", "T/file", "--input", "T/posts.json"], "output: a folder is needed, got 'T/file'"),
        (["--output", "RUN", "--export_only"], "'RUN' holds no extracted graph"),
        (["--output", "RUN", "--formats", "x"], "argument --formats: invalid choice: 'x'"),
        (["--output", "RUN", "--input", "T/bad.parquet"], "T/bad.parquet cannot be read as Parquet"),
    ],
    "graph_report": [
        ([], "the following arguments are required: --graph"),
        (["--graph", "T/none"], "graph: 'T/none' holds no extracted graph"),
        (["--graph", "T/file"], "graph: 'T/file' holds no extracted graph"),
        (["--graph", "T", "--entities", "1"], "--entities must be at least 2, got 1"),
        (["--graph", "T", "--entities", "x"], "argument --entities: invalid int value: 'x'"),
        (["--graph", "T", "--output_dir", "T/file"], "output_dir: a folder is needed, got 'T/file'"),
    ],
    "link_prediction": [
        ([], "the following arguments are required: --graph"),
        (["--graph", "T/none"], "graph: 'T/none' holds no extracted graph"),
        (["--graph", "T", "--epochs", "0"], "--epochs must be at least 1, got 0"),
    ],
    "make_splits": [
        (["--nope"], "unrecognized arguments: --nope"),
        (["--output_dir", "T/file"], "output_dir: a folder is needed, got 'T/file'"),
    ],
    "predict": [
        ([], "the following arguments are required: --model, --posts"),
        (["--model", "T/none", "--posts", "T/posts.json"], "--model T/none, --posts T/posts.json: "),
        (["--model", "M", "--posts", "T/none"], "--posts: the file 'T/none' does not exist"),
        (["--model", "M", "--posts", "T/bad.json"], "--posts: 'T/bad.json' must be JSON"),
        (["--model", "M", "--posts", "T/list.json"], "--posts: 'T/list.json' must hold a list of posts, got [3]"),
        (["--model", "M", "--posts", "T/object.json"], "--posts: 'T/object.json' must hold a list of posts, got {}"),
    ],
    "prepare_data": [
        ([], "the following arguments are required: dataset"),
        (["x"], "argument dataset: invalid choice: 'x'"),
        (["mnre"], "the following arguments are required: --output_dir, --data"),
        (["mnre", "--data", "T/none", "--output_dir", "RUN"], "folder: none of T/none/train.txt"),
        (["wikidiverse", "--data", "T/full", "--output_dir", "RUN"], "folder: the file 'T/full/train.json' does not"),
        (
            ["conll", "--data", "T/none", "--output_dir", "RUN", "--train-domains", "a", "--test-domain", "b"],
            "folder: the folder 'T/none' does not exist",
        ),
        (["sketchbook", "--output_dir", "T/full"], "output_dir: 'T/full' is not empty; --overwrite replaces it"),
        (["sketchbook", "--output_dir", "T/file"], "output_dir: 'T/file' is no folder"),
        (["sketchbook", "--output_dir", "RUN", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--batch_size", "3"], "the following arguments are required: --cache-image-features"),
        (["--cache-image-features", "RUN", "--config", "T/none"], "config: the file 'T/none' does not exist"),
        (["--cache-image-features", "T/file", *CACHE], "cache-image-features: a folder is needed, got 'T/file'"),
        (["--cache-image-features", "RUN", "--batch_size", "0", *CACHE], "batch_size must be at least 1, got 0"),
        (["--cache-image-features", "RUN", "--shard-size", "0", *CACHE], "shard_size must be at least 1, got 0"),
        (["--cache-image-features", "RUN", "--num_workers", "-1", *CACHE], "num_workers must be at least 0, got -1"),
    ],
    "push_to_hub": [
        ([], "the following arguments are required: --model, --repo_id"),
        (["--model", "M", "--repo_id", "a b"], "repo_id: Repo id must use alphanumeric chars"),
        (["--model", "T/none", "--repo_id", "a/b"], "model: the folder T/none does not exist"),
        (["--model", "T/full", "--repo_id", "a/b"], "model: T/full holds no config.json"),
        (["--model", "M", "--repo_id", "a/b", "--evaluation", "T/none"], "evaluation: the file T/none does not exist"),
        (["--model", "M", "--repo_id", "a/b", "--output_dir", "T/full"], "output_dir: 'T/full' is not empty"),
        (["--model", "M", "--repo_id", "a/b", "--output_dir", "T/file"], "output_dir: a folder is needed, got"),
        (["--model", "M", "--repo_id", "a/b", "--license", "mit", "--evaluation", "T/bad.json"],
         "T/bad.json: a JSON file is needed"),
        (["--model", "M", "--repo_id", "a/b"], "license: name the licence of these weights"),
        (["--model", "T/damaged", "--repo_id", "a/b", "--license", "mit", "--dry_run"], "model.safetensors: damaged"),
    ],
    "real_posts": [
        ([], "--data_dir or the environment variable MGVMOE_DATA must name the folder"),
        (["--data_dir", "T/none", "--text_model", "M"], "--data_dir: T/none/mnre/train.txt does not"),
    ],
    "sketch_world": [
        ([], "the following arguments are required: --output_dir"),
        (["--output_dir", "T/file"], "output_dir: a folder is needed, got 'T/file'"),
        (["--output_dir", "RUN", "--posts", "0"], "posts must be at least 1, and image_share between"),
        (["--output_dir", "RUN", "--image_share", "nan"], "image_share between 0 and 1, got 3000 and nan"),
        (["--output_dir", "RUN", "--people", "1"], "acquaintances must be in [1, 1), the number of people, got 8"),
        (["--output_dir", "RUN", "--people", "x"], "argument --people: invalid int value: 'x'"),
    ],
    "demo": [(["--output_dir"], "expected one argument"), (["--output_dir", "T/file"], "output_dir: a folder is")],
    "app": [
        (["--model", "T/none"], "model: the folder T/none does not exist"),
        (["--model", "M", "--device", "x"], "device: 'x' cannot be used here"),
        (["--model", "M", "--revision", "main"], "revision: a folder has none"),
        (["--model", "M", "--examples", "T/none"], "examples: the file 'T/none' does not exist"),
        (["--model", "M", "--examples", "T/bad.json"], "T/bad.json: a JSON file is needed"),
        (["--model", "M", "--write_space", "T/file"], "write_space: T/file holds something"),
        (["--model", "M", "--threshold", "0.5"], "threshold must be at least 1"),
    ],
    # More of these in test_predict.py.
    "mgvmoe": [
        ([], "the following arguments are required: COMMAND"),
        (["nope"], "invalid choice: 'nope'"),
        (["evaluate", "--model", "T/damaged", "--dataset", "sketchbook", "--output-dir", "RUN"], "damaged"),
        (["predict", "--model", "T/damaged", "--text", "Kelo", "--mention", "0", "4", "--labels", "a"], "damaged"),
        (["predict", "--model", "M", "--input", "T/bad.parquet"], "T/bad.parquet: it cannot be read as Parquet"),
        (["predict", "--model", "M", "--input", "T/list.json", "--labels", "a"], "T/list.json, post 0: "),
        (["predict", "--model", "M", "--input", "T"], "--input: a file that ends in"),
        (["predict", "--model", "M", "--labels", "a"], "either --text or --input must be given, got neither"),
    ],
}  # fmt: skip
CASES = [(name, number) for name, cases in COMMANDS.items() for number in range(len(cases))]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model, and files of every kind that is wrong."""
    folder = tmp_path_factory.mktemp("commands")
    model, processor = scratch_model()
    for name in ("M", "T/damaged"):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    (folder / "T/damaged/model.safetensors").write_bytes(b"x" * 100)
    (folder / "T/full").mkdir()
    (folder / "T/number").mkdir()
    posts = [{"text": "Kelo sails", "mention": [0, 4], "candidate_labels": ["a", "b"]}]
    posts.append({"text": "Kelo sails", "mention": [0, 4]})
    for name, content in {
        "file": "x", "full/x": "x", "bad.json": "{", "list.json": "[3]", "object.json": "{}", "none.json": "[]",
        "bad.yaml": "a: [", "key.yaml": "trainig: {}", "bad.parquet": "x", "number/config.json": "3",
        "posts.json": json.dumps(posts),
    }.items():  # fmt: skip
        (folder / "T" / name).write_text(content)
    return folder


@pytest.fixture(scope="module")
def scripts():
    loaded = {}

    def load(name):
        if name not in loaded:
            spec = importlib.util.spec_from_file_location(f"bad_inputs_{name}", ROOT / "examples" / f"{name}.py")
            loaded[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded[name])
        return loaded[name]

    return load


@pytest.mark.parametrize(("name", "number"), CASES)
def test_wrong_command_line(places, scripts, capfd, monkeypatch, own_module_cache, name, number):
    flags, message = COMMANDS[name][number]
    flags = [str(places / flag) if flag in ("M", "T", "RUN") or flag.startswith("T/") else flag for flag in flags]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.delenv("MGVMOE_DATA", raising=False)
    monkeypatch.setattr(model_folder, "find_spec", lambda name: name)  # as if every extra were installed
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
    before = {path for path in places.rglob("*") if path.is_file()}
    if name == "mgvmoe":
        try:
            code = mgvmoe(flags)
        except SystemExit as end:  # of the parser
            code = end.code
        said = capfd.readouterr().err
    else:
        main = scripts(name).main
        with pytest.raises(SystemExit) as end:
            main(flags) if name not in ("demo", "predict") else main()
        code, said = end.value.code, capfd.readouterr().err
        if isinstance(code, str):  # which Python prints, and makes a 1
            code, said = 1, f"{said}{code}\n"
    assert code not in (0, None)
    assert "Traceback" not in said
    # One line but for argparse's list of flags.
    assert message in said.strip().splitlines()[-1].replace(f"{places}/", ""), said[-600:]
    # What was there is there, and nothing was begun.
    assert {path for path in places.rglob("*") if path.is_file()} == before
    assert (places / "T" / "file").read_text() == "x"


def test_every_script_has_cases():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} | {"mgvmoe"} == set(COMMANDS)


@pytest.mark.parametrize(
    ("name", "where", "flags"),
    [
        ("evaluate", "modeling_mgvmoe.evaluation.runs.run_evaluation", SKETCHBOOK),
        ("export_onnx", "modeling_mgvmoe.cli.export.load_model", ["--model", "M", "--output_dir", "RUN"]),
        ("extract", "modeling_mgvmoe.cli.extract.PostFiles", ["--input", "T", "--output", "RUN"]),
        ("train", "modeling_mgvmoe.training.build.load_data", TRAIN),
        ("push_to_hub", "modeling_mgvmoe.publishing.repository.CardFacts", ["--model", "M", "--repo_id", "a/b"]),
        ("mgvmoe", "modeling_mgvmoe.evaluation.runs.run_evaluation", ["evaluate", *SKETCHBOOK]),
    ],
)
def test_ctrl_c_is_one_line_and_130(places, scripts, capfd, monkeypatch, name, where, flags):
    def stopped(*given, **more):
        raise KeyboardInterrupt

    flags = [str(places / flag) if flag in ("M", "T", "RUN") or flag.startswith("T/") else flag for flag in flags]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
    if name != "mgvmoe":
        script = scripts(name)
        if hasattr(script, where.rpartition(".")[2]):
            monkeypatch.setattr(script, where.rpartition(".")[2], stopped)
    monkeypatch.setattr(where, stopped)
    if name == "mgvmoe":
        code = mgvmoe(flags)
    else:
        with pytest.raises(SystemExit) as end:
            script.main(flags)
        code = end.value.code
    said = capfd.readouterr().err
    assert code == 130 and said.count("\n") == 1 and said.endswith(": stopped\n"), said


def test_the_flags_of_a_training_are_those_of_its_parser():
    parser = HfArgumentParser(ARGUMENT_CLASSES)
    parser.add_argument("--config")
    expected = {flag for action in parser._actions for flag in action.option_strings} - {"-h"}
    assert expected <= set(_flags()) and {flag.replace("_", "-") for flag in _flags()} == {
        flag.replace("_", "-") for flag in expected
    }
