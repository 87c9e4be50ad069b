"""What a saved folder must be so that transformers alone, without this package, loads it: rules, and trials."""

import ast
import functools
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
from modeling_mgvmoe.processing_mgvmoe import MGVMoEProcessor
from tests.support.from_scratch import LABELS, RELATIONS, posts, scratch_model
from tests.support.small_tokenizers import SAMPLE, SETTINGS, roberta

PACKAGE = Path(modeling_mgvmoe.__file__).parent
LIBRARIES = {"torch", "transformers", "numpy", "PIL", "huggingface_hub", "safetensors"}
# What transformers reads as a relative import, in whatever line it stands.
READ_AS_IMPORT = re.compile(r"^\s*(?:import\s+\.(\S+)\s*$|from\s+\.(\S+)\s+import)", re.MULTILINE)
TEXT_FILES = {"config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}


# The rules for files that travel


def relative_imports(tree):
    return {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}


@functools.cache
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


# Trials in fresh processes. Starting one takes ten seconds: each does all it can. Folders do not get in each other's
# way: transformers names the modules of their code after them.

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
for task in json.loads(sys.argv[1]):
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
            modules = type(part).__module__.split(".")
            assert type(part).__name__ == kind and modules[:2] == ["transformers_modules", name], type(part)
        assert config.to_dict() == model.config.to_dict() and config.num_experts == 3
        inputs = processor(**task["inputs"], return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits
        save_file({**inputs, "logits": logits}, task["home"] + "/output/" + name + ".safetensors")
        found[name] = pipe(task["posts"], batch_size=2, top_k=2)
        graph_pipe = pipeline("multimodal-graph-extraction", model=folder, trust_remote_code=True)
        assert type(graph_pipe).__name__ == "MultimodalGraphExtractionPipeline"
        graphs[name] = [graph_pipe(task["graph_posts"], **task["graph_labels"], batch_size=2)]
        graphs[name].append(model.extract(task["graph_posts"], **task["graph_labels"], processor=processor))
        if name in task["save_again"]:
            model.save_pretrained(task["home"] + "/again")
            processor.save_pretrained(task["home"] + "/again")
            pipe.save_pretrained(task["home"] + "/pipeline_again")
    errors = {}
    for folder in task["incomplete"]:
        try:
            pipeline(model=folder, trust_remote_code=True)
        except ValueError as error:
            errors[folder] = str(error)
    processor = AutoProcessor.from_pretrained(task["processor"], trust_remote_code=True)
    assert type(processor).__module__.startswith("transformers_modules"), type(processor)
    alone = [processor.max_length, processor.hypothesis_template, processor.typing_markers]
    alone.append(processor(**task["sample"])["input_ids"])
    processor.save_pretrained(task["processor"] + "_again")
    print(json.dumps({"rankings": found, "errors": errors, "graphs": graphs, "processor": alone}))
assert not [name for name in sys.modules if name.partition(".")[0] in ("modeling_mgvmoe", "torch_geometric")]
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
    of_bytes = MGVMoEProcessor(processor.image_processor, roberta(), **SETTINGS)
    of_bytes.save_pretrained(home / "processor")
    return {
        "home": home,
        "posts": chosen,
        "inputs": inputs,
        "expected": {**expected, "logits": logits},
        "rankings": pipe(chosen, batch_size=2, top_k=2),
        "processor": [32, "it is {}", ["<m1>", "<m2>"], of_bytes(**SAMPLE)["input_ids"]],
        "graph_posts": [{"text": "Kelo greets Mura", "mentions": [[0, 4], [12, 16]], "image": str(home / "0.png")}],
        "graph_labels": {"typing_labels": LABELS, "relation_labels": RELATIONS},
    }


@pytest.fixture(scope="module")
def loaded(saved):
    """What the saved folders give without the package, and then those that were saved again without it."""
    home = saved["home"]
    (home / "output").mkdir()

    def task(folders, save_again, incomplete, processor):
        own = {key: saved[key] for key in ("posts", "inputs", "graph_posts", "graph_labels")}
        own |= {"folders": {name: str(home / name) for name in folders}, "save_again": save_again, "sample": SAMPLE}
        return own | {"incomplete": [str(home / name) for name in incomplete], "home": str(home),
                      "processor": str(home / processor)}  # fmt: skip

    tasks = [
        task(["parts", "pipeline"], ["parts"], ["incomplete", "tokenizer_only"], "processor"),
        task(["again", "pipeline_again"], [], [], "processor_again"),
    ]
    process = start(WITHOUT_THE_PACKAGE, home, json.dumps(tasks))
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    return [json.loads(line) for line in output.splitlines() if line.startswith('{"rankings"')]


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
    assert loaded[0]["rankings"][name] == saved["rankings"]
    model, processor = scratch_model()
    graphs = model.extract(saved["graph_posts"], **saved["graph_labels"], processor=processor)
    assert graphs[0]["relations"] and loaded[0]["graphs"][name] == [graphs, graphs]


@pytest.mark.parametrize("name", ["again", "pipeline_again"])
def test_saved_without_the_package_it_loads_again(saved, loaded, name):
    assert_bitwise_equal(saved, name)
    assert loaded[1]["rankings"][name] == saved["rankings"]
    code = {path.name for path in (saved["home"] / "parts").glob("*.py")}
    assert code == {path.name for path in (saved["home"] / name).glob("*.py")}


def test_a_processor_alone_with_another_tokenizer_loads_and_is_saved_again(saved, loaded):
    assert [own["processor"] for own in loaded] == [saved["processor"]] * 2
    codes = [{path.name for path in (saved["home"] / name).glob("*.py")} for name in ("processor", "processor_again")]
    assert codes[0] == codes[1] and {"processing_mgvmoe.py", "spans.py", "images.py", "labels.py"} < codes[0]


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("incomplete", "no processor_config.json, no tokenizer_config.json, no tokenizer.json"),
        ("tokenizer_only", "no processor_config.json"),
    ],
)
def test_a_folder_without_processor_says_so(saved, loaded, name, missing):
    folder = saved["home"] / name
    assert f"The folder {str(folder)!r} has {missing}. Save one beside the model" in loaded[0]["errors"][str(folder)]


# The Auto classes are there before the package: every other test has imported the package first.
REGISTERED = """
import sys
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
import modeling_mgvmoe as package
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder)
model = AutoModel.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
pipe = pipeline("zero-shot-multimodal-ie", model=model, processor=processor)
assert AutoModel.from_config(config).num_parameters() == model.num_parameters()
assert type(config) is package.MGVMoEConfig
assert type(model) is package.MGVMoEForZeroShotIE and type(model.config) is package.MGVMoEConfig
assert type(processor) is package.MGVMoEProcessor
assert type(pipe) is package.ZeroShotMultimodalIEPipeline
assert not [name for name in sys.modules if name.startswith("transformers_modules")]
"""


@pytest.mark.slow
def test_auto_classes_know_the_package_without_being_told_to_trust(saved):
    process = start(REGISTERED, saved["home"], str(saved["home"] / "parts"), with_package=True)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
