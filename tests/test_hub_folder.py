"""What a saved folder must be so that transformers alone, without this package, loads it: rules, and trials."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers.dynamic_module_utils import get_imports, get_relative_import_files
from transformers.utils.logging import disable_progress_bar

import modeling_mgvmoe
from modeling_mgvmoe.pipeline_mgvmoe import TASK, ZeroShotMultimodalIEPipeline
from tests.from_scratch import LABELS, RELATIONS, posts, scratch_model

PACKAGE = Path(modeling_mgvmoe.__file__).parent
LIBRARIES = {"torch", "transformers", "numpy", "PIL", "huggingface_hub", "safetensors"}
# What transformers reads as a relative import, in whatever line it stands.
READ_AS_IMPORT = re.compile(r"^\s*(?:import\s+\.(\S+)\s*$|from\s+\.(\S+)\s+import)", re.MULTILINE)
TEXT_FILES = {"config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}


# The rules for files that travel


def relative_imports(tree):
    return {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}


def travelling_files():
    """`modeling_mgvmoe.py` and all it imports relatively, by name."""
    found, waiting = {}, ["modeling_mgvmoe"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
            waiting += relative_imports(ast.parse(found[name]))
    return found


def faults(code):
    """The rules of HF's remote code that a file breaks; each fails only when someone else loads the folder."""
    tree = ast.parse(code)
    optional = {id(node) for top in tree.body if isinstance(top, ast.Try) for node in ast.walk(top)}
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level > 1 or node.module is None or "." in node.module:
                found.append(f"line {node.lineno}: only `from .module import Name` is copied")
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Name) and node.id == "__file__":
            found.append(f"line {node.lineno}: only .py files lie beside the code")
        for name in names:
            root = name.partition(".")[0]
            if root not in LIBRARIES | set(sys.stdlib_module_names) and id(node) not in optional:
                found.append(f"line {node.lineno}: {root} may be missing")
    seen = {first or second for first, second in READ_AS_IMPORT.findall(code)}
    found += [f"{name}: a line of text that reads like an import" for name in seen - relative_imports(tree)]
    return found


@pytest.mark.parametrize("name", sorted(travelling_files()))
def test_a_travelling_file_keeps_the_rules(name):
    assert faults(travelling_files()[name]) == []
    assert set(get_imports(PACKAGE / f"{name}.py")) <= LIBRARIES | set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("from . import helper", "only `from"),
        ("from .sub.helper import f", "only `from"),
        ("from ..helper import f", "only `from"),
        ("from modeling_mgvmoe.helper import f", "modeling_mgvmoe may be missing"),
        ("import torch_geometric.nn", "torch_geometric may be missing"),
        ("def f():\n    import accelerate", "accelerate may be missing"),
        (
            "def f():\n    try:\n        import datasets\n    except ImportError:\n        pass",
            "datasets may be missing",
        ),
        ('"""As in\n\n    from .helper import f\n"""', "helper: a line of text"),
        ("open(__file__)", "only .py files"),
    ],
)
def test_the_rules_find(code, fault):
    assert any(fault in found for found in faults(code))


def test_the_rules_allow():
    code = "import os\ntry:\n    import torch_geometric\nexcept ImportError:\n    pass\nfrom .helper import f\n"
    assert faults(code) == []


def test_every_needed_file_travels():
    needed = {"configuration_mgvmoe", "modeling_mgvmoe", "processing_mgvmoe", "pipeline_mgvmoe"}
    needed |= {getattr(modeling_mgvmoe, name).__module__.rpartition(".")[2] for name in modeling_mgvmoe.__all__}
    assert needed <= set(travelling_files())
    copied = get_relative_import_files(PACKAGE / "modeling_mgvmoe.py")
    assert {Path(path).stem for path in copied} | {"modeling_mgvmoe"} == set(travelling_files())
    # Whoever starts at one of the others finds what this one needs too.
    for start in ("processing_mgvmoe", "pipeline_mgvmoe", "configuration_mgvmoe"):
        assert {Path(path).stem for path in get_relative_import_files(PACKAGE / f"{start}.py")} <= set(
            travelling_files()
        )


def dangers(code):
    """Where a file could run, or unpickle, what somebody else has written."""
    found = []
    for node in ast.walk(ast.parse(code)):
        names = set()
        if isinstance(node, ast.Name):
            names = {node.id} & {"eval", "exec", "compile", "__import__"}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            own = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            names = {name.partition(".")[0] for name in own} & UNPICKLERS
        elif isinstance(node, ast.Attribute):
            names = {ast.unparse(node)} & FOREIGN
        elif isinstance(node, ast.keyword):
            value = getattr(node.value, "value", None)
            right = {"allow_pickle": False, "shell": False, "weights_only": True, "use_safetensors": True}
            names = {node.arg} if node.arg in right and value is not right[node.arg] else set()
        found += [f"line {node.lineno}: {name}" for name in names]
    return found


UNPICKLERS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
FOREIGN = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "pd.read_pickle",
           "os.system", "os.popen", "datasets.load_from_disk", "tarfile.open", "zipfile.ZipFile"}  # fmt: skip
OWN_CODE = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "examples").glob("*.py")])


@pytest.mark.parametrize("path", OWN_CODE, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_nothing_runs_or_unpickles_foreign_data(path):
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    ["eval('1')", "exec(x)", "import pickle", "from pickle import loads", "import dill as d", "torch.load(path)",
     "yaml.load(file)", "np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=asked)", "pd.read_pickle(p)",
     "from joblib.externals import x", "subprocess.run(x, shell=True)", "f(weights_only=False)",
     "tarfile.open(path)", "M.from_pretrained(x, use_safetensors=False)"],
)  # fmt: skip
def test_the_search_for_dangers_finds(code):
    assert dangers(code)


def test_the_search_for_dangers_allows():
    code = "yaml.safe_load(f)\nnp.load(p, allow_pickle=False)\nast.literal_eval(x)\nmodel.eval()\nre.compile('')"
    assert dangers(code) == []


# Trials in fresh processes. Starting one takes seconds: each does all it can.

WITHOUT_THE_PACKAGE = """
import json, sys
from importlib.util import find_spec

class Hiding:  # a finder that does not find what a user of the folder may not have
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("modeling_mgvmoe", "torch_geometric", "datasets", "accelerate"):
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
assert find_spec("modeling_mgvmoe") is find_spec("torch_geometric") is None

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
torch.set_num_threads(1)
task = json.loads(sys.argv[1])
found, graphs = {}, {}
for name, folder in task["folders"].items():
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    pipe = pipeline(model=folder, trust_remote_code=True)
    parts = {
        "MGVMoEConfig": config,
        "MGVMoEForZeroShotIE": model,
        "MGVMoEProcessor": processor,
        "ZeroShotMultimodalIEPipeline": pipe,
    }
    for kind, part in parts.items():
        assert type(part).__name__ == kind and type(part).__module__.startswith("transformers_modules"), type(part)
    assert config.to_dict() == model.config.to_dict() and config.num_experts == 3
    inputs = processor(**task["inputs"], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    save_file({**inputs, "logits": logits}, task["output"] + "/" + name + ".safetensors")
    found[name] = pipe(task["posts"], batch_size=2, top_k=2)
    graph_pipe = pipeline("multimodal-graph-extraction", model=folder, trust_remote_code=True)
    assert type(graph_pipe).__name__ == "MultimodalGraphExtractionPipeline"
    graphs[name] = [graph_pipe(task["graph_posts"], **task["graph_labels"], batch_size=2)]
    graphs[name].append(model.extract(task["graph_posts"], **task["graph_labels"], processor=processor))
    if name in task["save_again"]:
        model.save_pretrained(task["output"] + "/again")
        processor.save_pretrained(task["output"] + "/again")
        pipe.save_pretrained(task["output"] + "/pipeline_again")
errors = {}
for folder in task["incomplete"]:
    try:
        pipeline(model=folder, trust_remote_code=True)
    except ValueError as error:
        errors[folder] = str(error)
assert not [name for name in sys.modules if name.partition(".")[0] in ("modeling_mgvmoe", "torch_geometric")]
print(json.dumps({"rankings": found, "errors": errors, "graphs": graphs}))
"""


def start(code, folder, *arguments, with_package=False):
    """A Python process that knows only what is installed, or else this package too; the Hub is out of reach."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(PACKAGE.parent) if with_package else ""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,  # a question whether to trust the code is an error
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of the model, one saved by its parts and one by the pipeline, and what the model makes of some posts."""
    disable_progress_bar()
    home = tmp_path_factory.mktemp("hub")
    model, processor = scratch_model()
    model.save_pretrained(home / "parts")
    processor.save_pretrained(home / "parts")
    model.save_pretrained(home / "incomplete")
    processor.tokenizer.save_pretrained(home / "tokenizer_only")
    model.save_pretrained(home / "tokenizer_only")
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    pipe.save_pretrained(home / "pipeline")
    chosen = posts()
    for number, post in enumerate(chosen):
        if post.get("image") is not None:
            post["image"].save(home / f"{number}.png")
            post["image"] = str(home / f"{number}.png")
        post.setdefault("candidate_labels", LABELS)
    inputs = {
        "text": [post["text"] for post in chosen],
        "images": [post.get("image") for post in chosen],
        "mentions": [post.get("mention") or post.get("mentions") or [post["head"], post["tail"]] for post in chosen],
        "candidate_labels": [*LABELS, *RELATIONS],
    }
    expected = processor(**inputs, return_tensors="pt")
    with torch.no_grad():
        logits = model(**expected).logits
    # Runs beside the other trials.
    arguments = [str(home / "parts"), json.dumps(IMPORT_ORDERS)]
    registering = start(REGISTERED, home, *arguments, with_package=True)
    yield {
        "home": home,
        "registering": registering,
        "posts": chosen,
        "inputs": inputs,
        "expected": {**expected, "logits": logits},
        "rankings": pipe(chosen, batch_size=2, top_k=2),
        "graph_posts": [{"text": "Kelo greets Mura", "mentions": [[0, 4], [12, 16]], "image": str(home / "0.png")}],
        "graph_labels": {"typing_labels": LABELS, "relation_labels": RELATIONS},
    }
    registering.kill()
    registering.communicate()


def load_without_the_package(saved, folders, save_again=(), incomplete=()):
    task = {key: saved[key] for key in ("posts", "inputs", "graph_posts", "graph_labels")}
    task["folders"] = {name: str(saved["home"] / name) for name in folders}
    task |= {"output": str(saved["home"] / "output"), "save_again": save_again}
    task["incomplete"] = [str(saved["home"] / name) for name in incomplete]
    (saved["home"] / "output").mkdir(exist_ok=True)
    return result(start(WITHOUT_THE_PACKAGE, saved["home"], json.dumps(task)))


@pytest.fixture(scope="module")
def loaded(saved):
    return load_without_the_package(saved, ["parts", "pipeline"], ["parts"], ["incomplete", "tokenizer_only"])


@pytest.fixture(scope="module")
def loaded_again(saved, loaded):
    for name in ("again", "pipeline_again"):
        (saved["home"] / "output" / name).rename(saved["home"] / name)
    return load_without_the_package(saved, ["again", "pipeline_again"])


def assert_bitwise_equal(saved, name):
    found = load_file(saved["home"] / "output" / f"{name}.safetensors")
    assert set(found) == set(saved["expected"])
    for key, value in saved["expected"].items():
        assert torch.equal(found[key], value), key


def test_a_saved_folder_is_complete(saved):
    files = {path.name for path in (saved["home"] / "parts").iterdir()}
    assert files == TEXT_FILES | {f"{name}.py" for name in travelling_files()}
    assert files <= {path.name for path in (saved["home"] / "pipeline").iterdir()}
    config = json.loads((saved["home"] / "parts" / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_mgvmoe.MGVMoEConfig",
        "AutoModel": "modeling_mgvmoe.MGVMoEForZeroShotIE",
    }
    assert list(config["custom_pipelines"]) == [TASK]
    # No trace of the machine it was made on.
    for path in (saved["home"] / "parts").glob("*.json"):
        assert str(saved["home"]) not in path.read_text()


@pytest.mark.parametrize("name", ["parts", "pipeline"])
def test_loads_without_the_package(saved, loaded, name):
    assert_bitwise_equal(saved, name)
    assert loaded["rankings"][name] == saved["rankings"]
    model, processor = scratch_model()
    graphs = model.extract(saved["graph_posts"], **saved["graph_labels"], processor=processor)
    assert graphs[0]["relations"] and loaded["graphs"][name] == [graphs, graphs]


@pytest.mark.parametrize("name", ["again", "pipeline_again"])
def test_saved_without_the_package_it_loads_again(saved, loaded_again, name):
    assert_bitwise_equal(saved, name)
    assert loaded_again["rankings"][name] == saved["rankings"]
    code = {path.name for path in (saved["home"] / "parts").glob("*.py")}
    assert code == {path.name for path in (saved["home"] / name).glob("*.py")}


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("incomplete", "no processor_config.json, no tokenizer_config.json, no tokenizer.json"),
        ("tokenizer_only", "no processor_config.json"),
    ],
)
def test_a_folder_without_processor_says_so(saved, loaded, name, missing):
    folder = saved["home"] / name
    assert f"The folder {str(folder)!r} has {missing}. Save one beside the model" in loaded["errors"][str(folder)]


# Every order of imports in a process of its own, forked off one that has imported what is not under test.
REGISTERED = """
import json, os, sys, traceback
import torch, torch._dynamo, torch.distributed.tensor

CHECKS = '''
config = AutoConfig.from_pretrained(folder)
model = AutoModel.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
import transformers
pipe = transformers.pipeline("zero-shot-multimodal-ie", model=model, processor=processor)
assert AutoModel.from_config(config).num_parameters() == model.num_parameters()
import modeling_mgvmoe as package
assert type(config) is package.MGVMoEConfig
assert type(model) is package.MGVMoEForZeroShotIE and type(model.config) is package.MGVMoEConfig
assert type(processor) is package.MGVMoEProcessor
assert type(pipe) is package.ZeroShotMultimodalIEPipeline
assert not [name for name in sys.modules if name.startswith("transformers_modules")]
'''
folder, orders = sys.argv[1], json.loads(sys.argv[2])
failed = {}
for name, order in orders.items():
    assert "transformers" not in sys.modules
    process = os.fork()
    if process == 0:
        try:
            exec(order + CHECKS, {"folder": folder, "sys": sys})
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    failed[name] = os.waitpid(process, 0)[1] != 0
print(json.dumps(failed))
"""
AUTO = "from transformers import AutoConfig, AutoModel, AutoProcessor\n"
IMPORT_ORDERS = {
    "package first": "import modeling_mgvmoe\n" + AUTO,
    "Auto classes first": AUTO + "from transformers import pipeline\nimport modeling_mgvmoe\n",
    "model file": "import modeling_mgvmoe.modeling_mgvmoe\n" + AUTO,
    "in between": "from transformers import AutoModel\nfrom modeling_mgvmoe import MGVMoEProcessor\n" + AUTO,
}


def test_auto_classes_know_the_package_without_being_told_to_trust(saved):
    output, errors = saved["registering"].communicate(timeout=600)
    failed = json.loads(output.strip().splitlines()[-1])
    assert failed == dict.fromkeys(IMPORT_ORDERS, False), errors[-3000:]
