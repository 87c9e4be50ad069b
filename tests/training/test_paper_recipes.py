"""The recipes of the paper's setting, from prepared posts to a saved model, on tiny encoders."""

import json
from pathlib import Path

import pytest
import torch

from examples import prepare_data, train
from modeling_mgvmoe import MGVMoEForZeroShotIE
from modeling_mgvmoe.training.arguments import parse_arguments
from tests.support.evaluation_data import drawn_posts

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "configuration" / "recipes"


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """A cased BERT of one layer that knows the markers, and a ViT of one layer."""
    from transformers import BertModel, ViTImageProcessorPil, ViTModel

    from modeling_mgvmoe.training.build import train_tokenizer
    from tests.support.tiny import tiny_text_config, tiny_vision_config

    folder = tmp_path_factory.mktemp("encoders")
    texts = [post["text"] for split in drawn_posts()[0].values() for post in split]
    tokenizer = train_tokenizer(texts, 300, 128)
    torch.manual_seed(0)
    text = BertModel(tiny_text_config(vocab_size=len(tokenizer), max_position_embeddings=128), add_pooling_layer=False)
    vision = ViTModel(tiny_vision_config(num_hidden_layers=1), add_pooling_layer=False)
    for name, parts in (("text", (text, tokenizer)), ("vision", (vision, ViTImageProcessorPil(
            size={"height": 8, "width": 8}, do_convert_rgb=True)))):  # fmt: skip
        for part in parts:
            part.save_pretrained(folder / name)
    return folder


def write_posts(folder, task):
    """One task's drawn posts as prepared folders hold them."""
    import datasets

    from modeling_mgvmoe.data.schema import post_features, task_of

    folder.mkdir()
    for split in ("train", "validation", "test"):
        kept = [post for post in drawn_posts()[0][split] if task_of(post) == task]
        datasets.Dataset.from_list(kept, features=post_features()).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), [("paper_met", "typing"), ("paper_mre", "relation")])
def test_from_posts_over_the_feature_cache_to_a_saved_model(tmp_path, encoders, name, task, capsys):
    flags = [
        "--config", RECIPES / f"{name}.yaml", "--dataset", write_posts(tmp_path / "posts", task),
        "--text_model_name_or_path", encoders / "text", "--vision_model_name_or_path", encoders / "vision",
        "--image_feature_cache", tmp_path / "features", "--output_dir", tmp_path / "run",
        "--max_train_steps", 3, "--eval_steps", 2, "--num_threads", 1,
    ]  # fmt: skip
    # In this process: each of the two would import all anew.
    flags = [str(flag) for flag in flags]
    prepare_data.main(["--cache-image-features", *flags])
    train.main(flags)
    assert "best validation macro-F1" in capsys.readouterr().out
    model = MGVMoEForZeroShotIE.from_pretrained(tmp_path / "run" / "model")
    values = json.loads((ROOT / "configuration" / "models" / f"{name}.json").read_text(encoding="utf-8"))
    for key in ("num_experts", "projection_dim", "max_mentions", "fusion", "adversary", "kl_loss_coef", "margin"):
        assert getattr(model.config, key) == values[key]
    history = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))["history"]
    assert [entry["step"] for entry in history] == [2, 3]
    assert history[0]["alignment_loss"] > 0  # the images took part


@pytest.mark.parametrize("name", ["paper_met", "paper_mre"])
def test_the_recipe_is_the_reference(name):
    """DESIGN's list of the reference's values: encoders, length, batch, rate, sampling, patience; and no claim."""
    model, data, training = parse_arguments(["--config", str(RECIPES / f"{name}.yaml")])
    assert model.text_model_name_or_path == "bert-base-cased"
    assert model.vision_model_name_or_path == "google/vit-base-patch16-384"
    assert (model.max_length, model.mention_style, data.label_words) == (128, "markers", "name")
    assert (training.per_device_train_batch_size, training.learning_rate, training.weight_decay) == (16, 1e-5, 0.0)
    assert (training.class_balanced, training.class_order, training.early_stopping_patience) == (True, "in_turn", 10)
    assert (training.lr_scheduler_type, training.warmup_ratio, training.max_grad_norm) == ("constant", 0.0, 0.0)
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    assert "THE FULL RUN HAS NOT BEEN DONE" in text
