import pytest
import torch

from modeling_mgvmoe.training.arguments import ModelArguments
from modeling_mgvmoe.training.build import build_model, train_tokenizer
from tests.support.small_runs import small_data, small_trainee


def test_the_tokenizer_is_the_same_every_time_and_knows_every_letter():
    texts = ["Kelo sails at dawn", "Mura sails, Kelo sails: Éta!", "dusk dawn dusk"]
    first, second = (train_tokenizer(texts, 50, 64) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert sorted(first.get_vocab().values()) == list(range(50))
    assert first.convert_tokens_to_ids(["[PAD]", "[CLS]", "[unused1]"]) == [0, 2, 5]
    assert first.tokenize("Sails") == ["sails"]
    assert first.tokenize("kirt") == ["k", "##i", "##r", "##t"]
    assert "[UNK]" not in first.tokenize("s e t a : !")
    assert first.tokenize("zebra") == ["[UNK]"]
    assert first.decode(first(texts[2])["input_ids"], skip_special_tokens=True) == texts[2]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def test_a_model_that_was_saved_in_half_precision_is_trained_in_single(tmp_path):
    model, processor = small_trainee(dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    built, _ = build_model(ModelArguments(model_name_or_path=str(tmp_path)), small_data())
    assert {weight.dtype for weight in built.parameters()} == {torch.float32}
