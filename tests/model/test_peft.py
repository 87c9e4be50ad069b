"""Adapters of PEFT in the model: where they train, how fast, and that they are called as the layers they stand for."""

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model

from modeling_mgvmoe import MGVMoEForZeroShotIE
from modeling_mgvmoe.data.feature_cache import check_frozen
from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.optimization import make_optimizer
from tests.support.tiny import doubled, tiny_inputs, tiny_model

ATTENTION = ["query", "value", "q_proj", "v_proj"]


def adapted(model=None, targets=ATTENTION, **options):
    return get_peft_model(tiny_model() if model is None else model, LoraConfig(target_modules=targets, **options))


def adapters_of_the_tower(model):
    return {name: value for name, value in model.named_parameters() if "vision_model" in name and "lora_" in name}


@pytest.mark.parametrize("loaded", [False, True])
def test_adapters_in_a_frozen_tower_train_and_the_tower_does_not(loaded, tmp_path):
    plain = tiny_model()
    if loaded:
        plain.save_pretrained(tmp_path)
        plain = MGVMoEForZeroShotIE.from_pretrained(tmp_path)
    own = {name: value.clone() for name, value in plain.mgvmoe.vision_model.named_parameters()}
    assert plain.config.freeze_vision and not any(one.requires_grad for one in plain.mgvmoe.vision_model.parameters())
    model = adapted(plain).train().eval().train()
    before = {name: value.detach().clone() for name, value in adapters_of_the_tower(model).items()}
    assert len(before) == 8  # two layers, two projections, two matrices
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], 0.1)
    for _ in range(2):  # in the first step B is 0, and A has no gradient
        optimizer.zero_grad()
        model(**tiny_inputs()).loss.backward()
        optimizer.step()
    assert not [name for name, value in adapters_of_the_tower(model).items() if torch.equal(value, before[name])]
    after = {name.replace(".base_layer", ""): value for name, value in plain.mgvmoe.vision_model.named_parameters()}
    assert all(torch.equal(after[name], value) for name, value in own.items())


def test_dropout_of_adapters_is_on_and_that_of_the_frozen_tower_is_off():
    model = adapted(lora_dropout=0.5).train()
    tower = model.base_model.model.mgvmoe.vision_model
    training = {name for name, module in tower.named_modules() if module.training}
    assert training and all("lora_" in name or name.endswith(("q_proj", "v_proj", "base_layer")) for name in training)
    assert not any(module.training for module in model.eval().modules())


def test_dropout_of_adapters_is_on_in_a_frozen_text_encoder():
    model = adapted(tiny_model(freeze_text=True), lora_dropout=0.5).train()
    encoder = model.base_model.model.mgvmoe.text_model
    training = {name for name, module in encoder.named_modules() if module.training}
    dropouts = {name for name, module in encoder.named_modules() if "lora_dropout.default" in name}
    assert dropouts and dropouts <= training
    assert not any(
        encoder.get_submodule(name).training for name in ("embeddings.dropout", "encoder.layer.0.output.dropout")
    )


def test_features_of_a_tower_with_adapters_are_not_cached():
    plain = tiny_model()
    check_frozen(plain)
    adapted(plain)
    with pytest.raises(ValueError, match="image_feature_cache: .* no trained parameters"):
        check_frozen(plain)


@pytest.mark.parametrize("fusion", ["additive", "query"])
def test_adapters_of_all_linear_layers_change_nothing_until_they_are_trained(fusion):
    inputs = doubled(tiny_inputs())
    expected = tiny_model(fusion=fusion).double()(**inputs)
    model = adapted(tiny_model(fusion=fusion).double(), "all-linear")
    found = model.eval()(**inputs)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-9, atol=1e-9)
    model.train()(**inputs).loss.backward()
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained and trained == {name for name, value in model.named_parameters() if value.grad is not None}


def test_a_task_type_that_hands_on_embeddings_of_none():
    model = adapted(task_type=TaskType.FEATURE_EXTRACTION)
    inputs = tiny_inputs(labels=False)
    torch.testing.assert_close(model(**inputs).logits, tiny_model()(**inputs).logits)
    with pytest.raises(TypeError, match="inputs_embeds"):
        model(**inputs, inputs_embeds=torch.zeros(4, 11, 32))


def test_adapters_learn_with_the_rate_of_their_part():
    arguments = TrainingArguments(learning_rate=1e-5, head_learning_rate=1e-3)
    optimizer = make_optimizer(adapted(targets=[*ATTENTION, "mention_projection"]), arguments)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {
        "text": 1e-5, "vision": 1e-5, "heads": 1e-3
    }  # fmt: skip
