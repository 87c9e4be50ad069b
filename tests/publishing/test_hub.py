"""Push, load and push again: the real client over HTTP to a Hub on 127.0.0.1, in processes without this package."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_mgvmoe.pipeline_mgvmoe import ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.publishing.repository import push_folder
from tests.support.from_scratch import LABELS, drawing
from tests.support.loopback_hub import READ_TOKEN, TOKEN, LoopbackHub
from tests.support.published_run import make_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
REPO = "kelo/boats"

LOAD = """
import json, sys
sys.modules["modeling_mgvmoe"] = None
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
torch.set_num_threads(1)
repositories, posts, labels = json.loads(sys.argv[1])
found = []
for repo, revision in repositories:
    where = {"trust_remote_code": True, "revision": revision}
    config = AutoConfig.from_pretrained(repo, **where)
    model = AutoModel.from_pretrained(repo, **where)
    processor = AutoProcessor.from_pretrained(repo, **where)
    pipe = pipeline(model=repo, **where)
    inputs = processor(text=[post["text"] for post in posts], images=[post["image"] for post in posts],
                       mentions=[post["mention"] for post in posts], candidate_labels=labels, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    scores = pipe(posts, candidate_labels=labels)
    found.append({"type": config.model_type, "logits": logits.tolist(), "scores": scores})
print(json.dumps(found))
"""

PUSH_AGAIN = (
    LOAD
    + """
model.push_to_hub("kelo/again")
processor.push_to_hub("kelo/again")
pipe.push_to_hub("kelo/pipe")
model.push_to_hub("kelo/pieces", max_shard_size="50KB")
processor.push_to_hub("kelo/pieces")
"""
)

ERRORS = """
import importlib.metadata, json, os, sys
sys.modules["modeling_mgvmoe"] = None
from transformers import AutoModel, pipeline
version = importlib.metadata.version
found = {}
for repo, revision, *more in json.loads(sys.argv[1]):
    if more == ["old"]:
        importlib.metadata.version = lambda name: "5.0.0" if name == "transformers" else version(name)
    elif more:
        os.environ["HF_TOKEN"] = more[0]
    with_pipeline = lambda repo, **more: pipeline(model=repo, **more)
    for name, load in (("model", AutoModel.from_pretrained), ("pipeline", with_pipeline)):
        try:
            load(repo, trust_remote_code=True, revision=revision)
        except Exception as error:
            found[f"{name} {repo} {revision}"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def python(code, hub, cache, *arguments, token=TOKEN, **more):
    """What a fresh process printed last, as JSON, or its error."""
    environment = {**os.environ, "PYTHONPATH": "", **hub.environment(cache, token), **more}
    for name in ("HF_TOKEN",) if token is None else ():
        environment.pop(name, None)
    command = [
        sys.executable,
        "-c",
        code,
        *(json.dumps(own) if not isinstance(own, str) else own for own in arguments),
    ]
    done = subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def push(hub, cache, run, *flags, token=TOKEN, **more):
    """examples/push_to_hub.py in its own process."""
    environment = {**os.environ, **hub.environment(cache, token), "PYTHONPATH": str(ROOT), **more}
    if token is None:
        environment.pop("HF_TOKEN", None)
    command = [sys.executable, str(ROOT / "examples/push_to_hub.py"), "--model", str(run), *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as running:
        yield running


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *make_run(folder)


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("posts")
    drawing(1).save(folder / "1.png")
    return [
        {"text": "Kelo sails at dawn", "image": str(folder / "1.png"), "mention": [0, 4]},
        {"text": "in the harbour Mura sails", "image": None, "mention": [15, 19]},
    ]


@pytest.fixture(scope="module")
def expected(run, posts):
    _, model, processor = run
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    scores = ZeroShotMultimodalIEPipeline(model=model, processor=processor)(posts, candidate_labels=LABELS)
    torch.set_num_threads(threads)
    return json.loads(json.dumps(scores))


@pytest.fixture(scope="module")
def pushed(hub, run, tmp_path_factory):
    """The first push: a new, private repository."""
    done = push(hub, tmp_path_factory.mktemp("cache"), run[0], "--repo_id", REPO, "--private")
    assert done.returncode == 0, done.stderr
    return re.search(r'pin it with revision="(\w{40})"', done.stdout)[1]


def test_all_goes_in_one_commit(hub, pushed):
    repository = hub.repositories["model", REPO]
    assert repository.private
    assert [message for _, _, message in repository.log] == ["initial commit", "Model, processor, code and card"]
    assert repository.branches["main"] == pushed
    files = hub.files(REPO)
    assert {
        "README.md",
        "config.json",
        "model.safetensors",
        "handler.py",
        "pipeline_mgvmoe.py",
        "metrics.json",
    } <= set(files)
    assert b"kelo/boats" in files["README.md"]


def test_it_loads_elsewhere_with_equal_scores_and_can_be_pushed_from_there(hub, pushed, posts, expected, tmp_path):
    (first,) = python(PUSH_AGAIN, hub, tmp_path, [[[REPO, pushed]], posts, LABELS])
    assert first["type"] == "mgvmoe"
    assert first["scores"] == expected
    pieces = hub.files("kelo/pieces")
    assert sum(name.endswith(".safetensors") for name in pieces) > 1
    repositories = ("kelo/again", "kelo/pipe", "kelo/pieces")
    (tmp_path / "elsewhere").mkdir()
    found = python(LOAD, hub, tmp_path / "elsewhere", [[[repo, "main"] for repo in repositories], posts, LABELS])
    for repo, again in zip(repositories, found, strict=True):
        assert "handler.py" in hub.files(repo), repo
        assert (again["scores"], again["logits"]) == (first["scores"], first["logits"]), repo


def test_a_commit_pins_the_weights_and_the_code(hub, run, pushed, posts, expected, tmp_path):
    """A later push changes `main`; who named the commit gets what it was."""
    _, model, processor = run
    other = tmp_path / "other/model"
    with torch.no_grad():
        model.mgvmoe.experts.expert_means.weight.add_(1.0)
        model.save_pretrained(other, max_shard_size="50KB")
        model.mgvmoe.experts.expert_means.weight.sub_(1.0)
    processor.save_pretrained(other)
    (tmp_path / "cache").mkdir()
    done = push(
        hub,
        tmp_path / "cache",
        other,
        "--repo_id",
        REPO,
        "--commit_message",
        "Second",
        "--max_shard_size",
        "50KB",
        "--license",
        "apache-2.0",
    )
    assert done.returncode == 0, done.stderr
    assert hub.repositories["model", REPO].branches["main"] != pushed
    assert "model.safetensors" not in hub.files(REPO)  # or it would be loaded instead of the pieces
    assert "metrics.json" not in hub.files(REPO)  # those of another model
    pinned, newest = python(LOAD, hub, tmp_path / "cache", [[[REPO, pushed], [REPO, "main"]], posts, LABELS])
    assert pinned["scores"] == expected != newest["scores"]


def test_a_branch_and_a_pull_request(hub, run, pushed, tmp_path):
    before = hub.repositories["model", REPO].branches["main"]
    done = push(hub, tmp_path, run[0], "--repo_id", REPO, "--revision", "next")
    assert done.returncode == 0, done.stderr
    assert "next" in hub.repositories["model", REPO].branches
    assert hub.repositories["model", REPO].branches["main"] == before


PUSHES = """
import json, os, sys
from modeling_mgvmoe.publishing.repository import push_folder
found = []
for token in json.loads(sys.argv[2]):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        push_folder(sys.argv[1], ["config.json"], "kelo/new", private=False)
    except (ConnectionError, ValueError) as error:
        found.append(str(error))
print(json.dumps(found))
"""


def test_what_stops_a_push_is_said_in_words(hub, run, tmp_path):
    # What the example makes of an error is below.
    folder = str(run[0] / "model")
    found = python(PUSHES, hub, tmp_path, folder, [None, "hf_wrong", READ_TOKEN], PYTHONPATH=str(ROOT))
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    found += python(PUSHES, hub, tmp_path, folder, [TOKEN], **away)
    rules = (
        "token: there is none. Run `hf auth login`",
        "token: the Hub does not know it",
        "repo_id: this token may not write to kelo/new",
        "the Hub cannot be reached",
    )
    assert len(found) == len(rules) and all(rule in words for rule, words in zip(rules, found, strict=True)), found
    assert ("model", "kelo/new") not in hub.repositories
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):  # as in all tests of this process
        push_folder(folder, ["config.json"], "kelo/new", private=False, token=TOKEN)


def test_a_public_repository_is_not_taken_for_a_private_one(hub, run, pushed, tmp_path):
    hub.repositories["model", "kelo/public"] = type(hub.repositories["model", REPO])("model", "kelo/public", False)
    done = push(hub, tmp_path, run[0], "--repo_id", "kelo/public", "--private")
    assert done.returncode == 1 and "kelo/public is there already and public" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_stops_loading_is_said_in_words(hub, pushed, tmp_path):
    code = hub.repositories["model", REPO]
    files = code.commits[pushed]
    without = hub.repositories["model", "kelo/codeless"] = type(code)("model", "kelo/codeless", False)
    without.commit("main", {name: own for name, own in files.items() if not name.endswith(".py")}, [], "no code")
    hub.repositories["model", "kelo/gated"] = type(code)("model", "kelo/gated", False)
    hub.gate("kelo/gated")
    wanted = [["kelo/nothing", "main"], ["kelo/codeless", "main"], [REPO, "nowhere"], [REPO, pushed, "old"],
              ["kelo/gated", "main", READ_TOKEN], [REPO, "main", "hf_wrong"]]  # fmt: skip
    found = python(ERRORS, hub, tmp_path, wanted)
    for kind in ("model", "pipeline"):
        assert (
            "kelo/nothing is not a local folder and is not a valid model identifier"
            in found[f"{kind} kelo/nothing main"]
        )
        assert "does not appear to have a file named configuration_mgvmoe.py" in found[f"{kind} kelo/codeless main"]
        assert "gated repo" in found[f"{kind} kelo/gated main"]
        assert "nowhere is not a valid git identifier" in found[f"{kind} {REPO} nowhere"]
        too_old = found[f"{kind} {REPO} {pushed}"]
        assert "ImportError: transformers>=5.16 is required" in too_old
        assert "found transformers==5.0.0.\nMG-VMoE needs it: pip install -U transformers" in too_old
    refused = found[f"model {REPO} main"]
    assert "Invalid credentials" in refused or "not a valid model identifier" in refused


def test_no_network_is_said_in_words(hub, pushed, tmp_path):
    found = python(ERRORS, hub, tmp_path, [[REPO, "main"]], HF_ENDPOINT="http://127.0.0.1:9")
    assert "We couldn't connect to 'http://127.0.0.1:9'" in found[f"model {REPO} main"]


DATASET = """
import json, sys
from datasets import load_dataset
posts = load_dataset("kelo/posts")
first = posts["test"][0]
pixels = list(first["image"].convert("RGB").resize((2, 2)).tobytes())
print(json.dumps({"counts": {name: len(own) for name, own in posts.items()}, "text": first["text"],
                  "label": first["label"], "mentions": first["mentions"], "pixels": pixels}))
"""


READ_BACK = """
import json
from modeling_mgvmoe.data.zero_shot_data import read_data
data = read_data("kelo/posts")
try:
    read_data("kelo/nothing")
except FileNotFoundError as found:
    error = str(found)
print(json.dumps({"counts": {name: len(posts) for name, posts in data.posts.items()}, "unseen": data.unseen,
                  "test": data.posts["test"][0]["label"], "error": error}))
"""


def test_a_data_set_goes_and_comes_back(hub, tmp_path):
    from datasets import load_dataset

    environment = {**os.environ, **hub.environment(tmp_path), "PYTHONPATH": str(ROOT)}
    folder = tmp_path / "sketchbook"
    command = [sys.executable, str(ROOT / "examples/prepare_data.py"), "sketchbook", "--output_dir", str(folder),
               "--push-to-hub", "kelo/posts", "--private", "--posts_per_class", "1",
               "--eval_posts_per_class", "1"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert hub.repositories["dataset", "kelo/posts"].private
    assert json.loads(hub.files("kelo/posts", kind="dataset")["labels.json"])["dataset"] == "sketchbook"
    found = python(DATASET, hub, tmp_path)
    own = load_dataset("parquet", data_files=str(folder / "test.parquet"), cache_dir=str(tmp_path / "own"))["train"]
    assert found["counts"]["test"] == len(own)
    assert (found["text"], found["label"], found["mentions"]) == (own[0]["text"], own[0]["label"], own[0]["mentions"])
    assert found["pixels"] == list(own[0]["image"].convert("RGB").resize((2, 2)).tobytes())
    back = python(READ_BACK, hub, tmp_path, PYTHONPATH=str(ROOT))
    assert back["counts"] == {name: found["counts"][name] for name in ("train", "validation", "test")}
    assert back["unseen"] and back["test"] == found["label"] and "'kelo/nothing'" in back["error"]
