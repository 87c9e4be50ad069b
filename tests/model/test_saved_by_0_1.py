"""Folders that version 0.1 saved still load, with the scores that they had (`fixtures/make_saved_by_0_1.py`).

Logits equal those of 0.1 to the last bit where processor, instruction set and torch are those they were computed with.
Elsewhere float32 rounds otherwise: the logits in double precision then agree to 1e-9, those in float32 to 16 times the
distance that 0.1's own float32 logits have from its double ones.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_mgvmoe import MGVMoEForZeroShotIE
from modeling_mgvmoe.configuration_mgvmoe import DELETED
from tests.fixtures.make_saved_by_0_1 import (
    FOLDER,
    LOSSES,
    SCORES,
    processor_arguments,
    processor_identity,
    results_of,
)

MADE_WITH = json.loads((FOLDER / "made_with.json").read_text(encoding="utf-8"))
SAME_MACHINE = (MADE_WITH["processor"], MADE_WITH["torch"]) == (processor_identity(), torch.__version__)


@pytest.fixture(autouse=True)
def one_thread():
    """One thread, as the fixture was made: sums are then in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def saved(score: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Inputs of the model and what 0.1 made of them."""
    tensors = load_file(FOLDER / f"{score}.safetensors")
    results = {name: tensors.pop(name) for name in ("logits", "double.logits", *(f"double.{loss}" for loss in LOSSES))}
    return tensors, results


@pytest.mark.parametrize("score", SCORES)
def test_a_folder_of_0_1_gives_the_scores_of_0_1(score):
    model, report = AutoModel.from_pretrained(FOLDER / score, output_loading_info=True)
    assert isinstance(model, MGVMoEForZeroShotIE) and model.config.score == score and not model.training
    assert not any(report.values()), report
    # Names inside the two encoders are transformers' own, which renames some of them in its files.
    stored = load_file(FOLDER / score / "model.safetensors")
    ours = {name for name in stored if not name.startswith(("mgvmoe.text_model.", "mgvmoe.vision_model."))}
    assert ours < set(model.state_dict())
    inputs, expected = saved(score)
    found = results_of(model, inputs)
    if SAME_MACHINE:
        assert torch.equal(found["logits"], expected["logits"])
    rounding = (expected["logits"] - expected["double.logits"]).abs().max().item()
    assert 0 < rounding < 1e-4
    torch.testing.assert_close(found["logits"], expected["logits"], rtol=0, atol=16 * rounding)
    for name, value in expected.items():
        if name.startswith("double."):
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=f"{name}: got {found[name]}")


@pytest.mark.parametrize("score", SCORES)
def test_a_processor_of_0_1_makes_the_same_inputs(score):
    inputs, _ = saved(score)
    found = AutoProcessor.from_pretrained(FOLDER / score)(**processor_arguments(score))
    assert set(found) == set(inputs)
    for name, value in inputs.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6 if value.is_floating_point() else 0)


def test_a_folder_of_0_1_saved_again_has_the_same_tensors(tmp_path):
    AutoModel.from_pretrained(FOLDER / "similarity").save_pretrained(tmp_path)
    new, old = (load_file(folder / "model.safetensors") for folder in (tmp_path, FOLDER / "similarity"))
    assert set(new) == set(old) and all(torch.equal(new[name], old[name]) for name in old)


# Values that a folder of 0.1 cannot have had without using the option.
USED = {
    "graph_memory": 64,
    "graph_neighbours": 5,
    "none_loss_coef": 1.0,
    "num_experts_per_tok": 2,
    "spatial_merge_size": 2,
}


@pytest.mark.parametrize("name", DELETED)
def test_a_model_that_used_a_deleted_option_is_refused_by_name(name, tmp_path):
    fields = json.loads((FOLDER / "projection" / "config.json").read_text(encoding="utf-8"))
    assert fields[name] == DELETED[name]
    config = AutoConfig.from_pretrained(FOLDER / "projection")
    assert not hasattr(config, name) and name not in config.to_dict()
    (tmp_path / "config.json").write_text(json.dumps({**fields, name: USED[name]}), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^(config: )?{name} must be .*{USED[name]}"):
        AutoConfig.from_pretrained(tmp_path)
