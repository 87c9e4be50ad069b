"""Card, repository folder and handler; what goes over the wire is in test_hub.py."""

import ast
import base64
import importlib.util
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from examples import push_to_hub
from modeling_mgvmoe.data.sketchbook import generate_posts
from modeling_mgvmoe.data.splits import SPLITS
from modeling_mgvmoe.handler import read_image
from modeling_mgvmoe.publishing.repository import (
    NEEDED,
    CardFacts,
    build_repository,
    check_repo_id,
    code_blocks,
    default_license,
    find_source,
    is_own_data,
    make_card,
    read_evaluation,
    recipe,
    runtime_requirements,
    stale_files,
    usage,
)
from modeling_mgvmoe.training.arguments import parse_arguments, read_recipe
from modeling_mgvmoe.training.run_metadata import read_run_record
from tests.support.from_scratch import posts
from tests.support.published_run import RECIPE, SCORES, make_run
from tests.support.small_runs import small_data

EVALUATION = {
    "protocol": "unseen", "seeds": [0, 1], "dataset": "`sketchbook`", "notes": ["A quick look."],
    "machine": "Linux x86_64, 2 CPU cores, 1 threads",
    "command": "`python examples/evaluate.py --model /somewhere/runs/demo/model --dataset sketchbook`",
    "summary": {"typing": {
        "majority class": {"accuracy": {"mean": 0.25, "std": 0.0}},
        "MG-VMoE": {"accuracy": {"mean": 0.91234, "std": 0.02}, "macro_f1": {"mean": 0.9, "std": 0.01}},
    }},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, as examples/train.py leaves it."""
    folder = tmp_path_factory.mktemp("run")
    make_run(folder)
    (folder / "unseen.json").write_text(json.dumps(EVALUATION))
    return folder


@pytest.fixture(scope="module")
def repository(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    source = find_source(str(run), [str(run / "unseen.json")])
    names = build_repository(source, str(folder), CardFacts("kelo/boats"))
    return folder, names


def test_a_record_names_no_place_of_a_machine_and_repeats_the_run(run):
    text = (run / "run.json").read_text()
    assert str(run) not in text and "output_dir" not in text
    record = read_run_record(str(run))
    assert record["dataset"] == {"name": "sketchbook", "split": "seed 0", "label_set_version": None}
    assert record["posts"] == {name: len(small_data().posts[name]) for name in SPLITS}
    assert record["labels"]["test"] == {task: list(names) for task, names in small_data().labels["test"].items()}
    path = run / "again.yaml"
    path.write_text(recipe(record))
    assert read_recipe(str(path))["seed"] == 7
    again = parse_arguments(["--config", str(path)])
    first = parse_arguments(["--config", str(RECIPE), "--seed", "7"])
    for own, expected in zip(again, first, strict=True):
        assert {**vars(own), "output_dir": ""} == {**vars(expected), "output_dir": ""}


def test_the_card_says_what_was_measured(repository):
    folder, _ = repository
    card = ModelCard.load(folder / "README.md")
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["license"] == "apache-2.0" and front["language"] == "en" and front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "zero-shot-classification" and front["datasets"] == ["sketchbook"]
    assert "zero-shot-multimodal-ie" in front["tags"] and "base_model" not in front
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["type"] == "sketchbook" and result["dataset"]["split"] == "test"
    assert [(own["type"], own["value"]) for own in result["metrics"]] == [("accuracy", 0.9123), ("f1", 0.9)]
    assert re.search(r"\| MG-VMoE +\| typing +\| +0.912 ± 0.020 +\| +0.900 ± 0.010", card.text)
    assert "/somewhere" not in card.text and "--model model --dataset sketchbook" in card.text
    assert "> A quick look." in card.text
    assert "1,234, of which 1,000 were trained" in card.text
    assert "3 for typing: " in card.text


def test_an_evaluation_on_another_dataset_is_of_that_name(run):
    record = read_run_record(str(run))
    evaluations = [{**EVALUATION, "dataset": "`/somewhere/data/mnre`"}]
    card = make_card(CardFacts("kelo/boats", record=record, evaluations=evaluations))
    assert {result.dataset_type for result in card.data.eval_results} == {"mnre"}
    assert card.data.eval_results[0].dataset_name == "mnre, unseen classes, typing"
    assert "### mnre: unseen, seeds 0, 1\n" in card.text and card.data.datasets == ["sketchbook"]


def test_without_an_evaluation_the_card_says_so(run):
    record = read_run_record(str(run))
    card = make_card(CardFacts("kelo/boats", record=record, validation={"typing": SCORES}))
    assert "Not tested on unseen test classes. On the 4 validation classes" in card.text
    assert "typing: accuracy 0.750, macro-F1 0.700 on 40 posts (chance 0.250, majority class 0.500)" in card.text
    assert card.data.eval_results is None
    bare = make_card(
        CardFacts(
            "kelo/boats", license="mit", base_model=["google/vit"], datasets=["kelo/posts"], notes=["Only boats."]
        )
    )
    assert "Nothing was measured for this card." in bare.text and "There is no record of the training" in bare.text
    assert "- Only boats." in bare.text and bare.data.datasets == ["kelo/posts"]


def record_of(name, relation=(), typing=()):
    """The record of a run on some data, with these unseen classes."""
    labels = {"typing": list(typing), "relation": list(relation)}
    return {
        "arguments": {"model": {}, "data": {}, "training": {}},
        "dataset": {"name": name, "split": None, "label_set_version": None},
        "labels": dict.fromkeys(SPLITS, labels),
    }


def several(*keys):
    """The record of a run on several datasets, whose labels are listed under "name/task"."""
    names = {"typing": ["city", "law"], "relation": ["peer of", "awarded"]}
    labels = {key: names[key.rpartition("/")[2]] for key in keys}
    return {**record_of("a,b"), "labels": dict.fromkeys(SPLITS, labels)}


def asked(record):
    """What the card's code asks the pipeline: (post, labels) of each line."""
    calls = [line.value.args[0] for line in ast.parse(usage(record)).body]
    return [(ast.literal_eval(call.args[0]), ast.literal_eval(call.keywords[0].value)) for call in calls]


@pytest.mark.parametrize("name", ["mnre", "wikidiverse", "my tweets", "sketchbook"])
def test_the_licence_of_weights_is_asked_for(name):
    """Not for those of the sketchbook, but for those of a folder that is only called so."""
    record = record_of(name, relation=["peer of"])
    with pytest.raises(ValueError, match=f"^license: .*trained on {name}"):
        make_card(CardFacts("kelo/boats", record=record))
    with pytest.raises(ValueError, match="^license: .*no run.json"):
        default_license(None)
    assert make_card(CardFacts("kelo/boats", record=record, license="mit")).data.license == "mit"
    record = record_of(name, relation=["greets above at dusk"])
    assert is_own_data(record) is (name == "sketchbook")
    record["arguments"]["model"]["model_name_or_path"] = "model"  # weights of which nothing is known
    assert not is_own_data(record)


def test_the_licence_of_the_sketchbook_is_ours(run):
    assert default_license(read_run_record(str(run))) == "apache-2.0"


@pytest.mark.parametrize(
    ("record", "tasks", "right"),
    [
        (record_of("mnre", relation=["location contains", "awarded", "peer of"]), [2], {"peer of", "awarded"}),
        (record_of("twitter10000", typing=["law", "sports team", "city"]), [1], {"city", "sports team"}),
        (record_of("mine", relation=["eats", "paints"]), [2], {"member of"}),
        (record_of("mine", relation=["eats"], typing=["person", "boat"]), [1, 2], {"person", "member of"}),
        (None, [1, 2], {"person", "member of"}),
        (several("tweets/typing", "news/relation", "wiki/relation"), [1, 2], {"city", "peer of"}),
    ],
    ids=["mnre", "twitter10000", "relations", "both", "unknown", "several datasets"],
)
def test_the_example_of_the_card_fits_its_labels(record, tasks, right):
    """A pair where relations were trained, a mention where types were; a right label and, where known, the run's."""
    found = asked(record)
    assert [len({"mention", "head", "tail"} & set(post)) for post, _ in found] == tasks
    for post, labels in found:
        assert len(labels) == len(set(labels)) > 1 and right & set(labels)
        for key in {"mention", "head", "tail"} & set(post):
            start, end = post[key]
            assert post["text"][start:end].strip() == post["text"][start:end] != ""
    if record is not None and record["dataset"]["name"] != "mine":
        assert set(found[0][1]) <= {name for names in record["labels"]["test"].values() for name in names}


def test_the_example_of_a_sketchbook_model_is_of_the_sketchbook(run):
    record = read_run_record(str(run))
    for post, labels in asked(record):
        task = "typing" if "mention" in post else "relation"
        assert labels == record["labels"]["test"][task]
        (drawn,) = generate_posts(task, "test", labels=labels[:1], posts_per_class=1)
        assert post["text"] == drawn["text"]


@pytest.mark.parametrize("field", ["base_model", "datasets"])
def test_names_that_are_none_on_the_hub(field):
    with pytest.raises(ValueError, match=f"{field} must hold names on the Hub"):
        CardFacts("kelo/boats", **{field: ["runs/here/bert"]})


@pytest.mark.parametrize(
    ("content", "rule"),
    [("[", "a JSON file is needed"), ("{}", "has no command, dataset"),
     (json.dumps({**EVALUATION, "summary": {"typing": {"other": {}}}}), "has no scores of MG-VMoE")],
)  # fmt: skip
def test_a_file_that_is_no_evaluation(tmp_path, content, rule):
    (tmp_path / "e.json").write_text(content)
    with pytest.raises(ValueError, match=rule):
        read_evaluation(str(tmp_path / "e.json"))


def test_the_repository_is_complete(repository):
    folder, names = repository
    assert set(NEEDED) | {"model.safetensors", "metrics.json", "run.json", "evaluation.json"} <= set(names)
    assert names == sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    requirements = (folder / "requirements.txt").read_text().split()
    assert requirements == runtime_requirements()
    assert {re.match(r"[\w_-]+", line)[0] for line in requirements} == {
        "torch", "transformers", "huggingface_hub", "safetensors", "numpy", "pillow"
    }  # fmt: skip


def test_weights_in_pieces(run, tmp_path):
    names = build_repository(find_source(str(run / "model")), str(tmp_path), CardFacts("kelo/boats"), "50KB")
    shards = [name for name in names if name.endswith(".safetensors")]
    assert len(shards) > 1 and "model.safetensors.index.json" in names and "model.safetensors" not in names
    assert "run.json" in names  # of the run above


def test_what_is_not_there(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .*nowhere does not exist"):
        find_source(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        find_source(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="evaluation: the file none.json does not exist"):
        find_source(str(run), ["none.json"])
    shutil.copytree(run / "model", tmp_path / "model")
    (tmp_path / "model/processor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no processor"):
        find_source(str(tmp_path))


@pytest.mark.parametrize("repo_id", ["boats", "kelo/boats/one", "kelo/bo ats", "", "kelo/-boats"])
def test_repo_ids(repo_id):
    with pytest.raises(ValueError, match="repo_id"):
        check_repo_id(repo_id)


def test_files_of_an_earlier_push_go():
    old = [
        ".gitattributes",
        "README.md",
        "model-00001-of-00002.safetensors",
        "old_module.py",
        "notes.md",
        "logs/a.json",
    ]
    assert stale_files(old, ["README.md", "model.safetensors"]) == [
        "model-00001-of-00002.safetensors",
        "old_module.py",
    ]


@pytest.mark.parametrize(
    ("flags", "rule"),
    [(["--repo_id", "boats"], "repo_id must be"),
     (["--repo_id", "k/b", "--evaluation", "no.json"], "evaluation: the file no.json"),
     (["--repo_id", "k/b", "--base_model", "a/b/c"], "base_model must hold"),
     (["--repo_id", "k/b", "--private", "--public"], "--public: not allowed with argument --private")],
)  # fmt: skip
def test_wrong_flags_are_refused_before_anything_is_loaded(run, flags, rule, capsys):
    with pytest.raises(SystemExit) as stop:
        push_to_hub.main(["--model", str(run), *flags])
    assert stop.value.code == 2
    assert rule in capsys.readouterr().err


@pytest.mark.parametrize(
    ("own", "flags", "private"),
    [(True, [], False), (True, ["--private"], True), (False, [], True), (False, ["--public"], False)],
)
def test_only_weights_of_our_own_data_are_public_unless_asked_for(run, tmp_path, own, flags, private, capsys):
    model = run
    if not own:
        shutil.copytree(run / "model", tmp_path / "run" / "model")
        record = record_of("mnre", relation=["peer of"])
        (tmp_path / "run" / "run.json").write_text(json.dumps(record))
        model = tmp_path / "run"
        with pytest.raises(SystemExit):
            push_to_hub.read_flags(["--model", str(model), "--repo_id", "k/b", *flags])
        assert "license: " in capsys.readouterr().err
        flags = [*flags, "--license", "cc-by-nc-4.0"]
    read, _, facts = push_to_hub.read_flags(["--model", str(model), "--repo_id", "k/b", *flags])
    assert read.private is private
    assert facts.license == ("apache-2.0" if own else "cc-by-nc-4.0")


@pytest.mark.slow
def test_a_dry_run_lists_what_would_go(run, tmp_path, capsys):
    flags = ["--model", str(run), "--repo_id", "kelo/boats", "--dry_run", "--output_dir", str(tmp_path / "built")]
    assert push_to_hub.main(flags) is None
    printed = capsys.readouterr().out
    assert re.search(r"kelo/boats, public, \d+ files:", printed)
    for name in NEEDED:
        assert re.search(rf"\d B|kB|MB  {re.escape(name)}", printed)
    assert re.search(r"the card's code, run on them without this package, printed:\n  \[\{'label': ", printed)
    assert printed.rstrip().endswith("dry run: nothing was sent")
    assert "model-index" not in printed  # nothing was evaluated
    assert (tmp_path / "built/README.md").is_file()
    with pytest.raises(SystemExit):
        push_to_hub.main(flags)
    assert "output_dir" in capsys.readouterr().err


@pytest.mark.slow
def test_a_repository_that_does_not_load_is_not_sent(run, tmp_path, monkeypatch):
    from modeling_mgvmoe.publishing import repository

    built = repository.build_repository

    def broken(source, folder, *rest):
        names = built(source, folder, *rest)
        (Path(folder) / "objectives.py").write_text("raise RuntimeError('broken on purpose')\n")
        return names

    monkeypatch.setattr(push_to_hub, "build_repository", broken)
    monkeypatch.setattr(push_to_hub, "push_folder", lambda *rest: pytest.fail("it was sent"))
    with pytest.raises(SystemExit, match="the card's code fails on the repository: .*broken on purpose"):
        push_to_hub.main(["--model", str(run), "--repo_id", "kelo/boats"])


@pytest.fixture(scope="module")
def handler(repository):
    folder, _ = repository
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def ask(handler, request):
    """JSON in, JSON out."""
    return json.loads(json.dumps(handler(json.loads(json.dumps(request)))))


def test_the_handler_bounds_labels_and_draws(handler, monkeypatch):
    monkeypatch.setitem(type(handler).__call__.__globals__, "MAX_LABELS", 2)
    request = {"inputs": {"text": "Kelo sails", "mention": [0, 4], "candidate_labels": None}, "parameters": {}}
    request["parameters"]["candidate_labels"] = ["boat", "bird", "cake"]
    assert "candidate_labels" in ask(handler, request)["error"]
    for wrong in (10**12, 0, True, 2.5):
        request["parameters"] = {"candidate_labels": ["boat", "bird"], "num_samples": wrong}
        assert "num_samples" in ask(handler, request)["error"]
    request["parameters"] = {"candidate_labels": ["a > b", "a > c"], "label_separator": ">", "label_descriptions": [1]}
    assert "label_descriptions" in ask(handler, request)["error"]


def test_the_handler_answers_as_the_pipeline(handler):
    labels = ["boat", "bird", "cake"]
    request = [{**post, "image": encoded(post["image"]) if post.get("image") else None} for post in posts()]
    answers = ask(handler, {"inputs": request, "parameters": {"candidate_labels": labels, "top_k": 2}})
    expected = handler.pipeline(posts(), candidate_labels=labels, top_k=2, batch_size=8)
    assert answers == json.loads(json.dumps(expected))
    alone = ask(handler, {"inputs": request[0], "parameters": {"candidate_labels": labels, "top_k": 2}})
    assert [own["label"] for own in alone] == [own["label"] for own in expected[0]]
    as_url = {**request[0], "image": "data:image/png;base64," + request[0]["image"]}
    assert ask(handler, {"inputs": as_url, "parameters": {"candidate_labels": labels, "top_k": 2}}) == alone
    for span in ([0, 4], {"start": 0, "end": 4}):
        spans, words = ({"text": "Kelo sails", "mention": one} for one in (span, "Kelo"))
        parameters = {"candidate_labels": labels}
        assert ask(handler, {"inputs": spans, "parameters": parameters}) == ask(
            handler, {"inputs": words, "parameters": parameters}
        )


KELO = {"text": "Kelo", "mention": [0, 4]}
A = {"candidate_labels": ["a"]}


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (["x"], "a JSON object with 'inputs'"),
        ({}, "a JSON object with 'inputs'"),
        ({"inputs": KELO, "parameters": [1]}, "parameters must be an object"),
        ({"inputs": KELO, "parameters": {"device": 1}}, "parameters may be candidate_labels"),
        ({"inputs": []}, "a list of 1 to 256, got 0"),
        ({"inputs": ["Kelo"]}, r"inputs\[0\] must be an object"),
        ({"inputs": KELO}, "candidate_labels: a non-empty list"),
        ({"inputs": {**KELO, "mention": [0, 9]}, "parameters": A}, "mention"),
        ({"inputs": {**KELO, "candidate_labels": ["a"] * 10_001}}, "10,000 at most"),
        ({"inputs": {**KELO, "image": "/etc/hostname"}, "parameters": A}, r"inputs\[0\].image must be base64"),
        ({"inputs": {**KELO, "image": "../boat.png"}, "parameters": A}, r"inputs\[0\].image must be base64"),
        ({"inputs": {**KELO, "image": "abcd"}, "parameters": A}, "cannot read image <3 bytes>"),
        ({"inputs": {**KELO, "image": "http://127.0.0.1/a.png"}, "parameters": A}, "127.0.0.1, which is not public"),
    ],
)
def test_a_wrong_request_is_answered_in_words(handler, request_, rule):
    answer = ask(handler, request_)
    assert set(answer) == {"error"}
    assert re.search(rule, answer["error"]), answer


def test_addresses_can_be_forbidden(repository, handler, monkeypatch):
    handler.allow_image_urls = False
    request = {"inputs": {**KELO, "image": "https://example.org/a.png"}, "parameters": A}
    assert "only with allow_image_urls" in ask(handler, request)["error"]
    handler.allow_image_urls = True


def test_an_image_of_a_request():
    assert read_image(None, 0) is None
    assert read_image("https://example.org/a.png", 0) == "https://example.org/a.png"
    assert read_image(encoded(Image.new("RGB", (1, 1))), 0).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="20,971,520 bytes at most"):
        read_image("A" * (28 * 2**20), 0)
    with pytest.raises(ValueError, match="must not be empty"):
        read_image("data:image/png;base64,", 0)


def test_code_blocks():
    assert code_blocks("a\n```python\nx = 1\n```\n```yaml\ny: 2\n```\n", "python") == ["x = 1\n"]
