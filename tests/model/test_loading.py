"""Every pair of a text encoder and a vision encoder: training, saving, loading, attention back ends, dtypes."""

import copy
import warnings

import pytest
import torch
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from modeling_mgvmoe import MGVMoEConfig, MGVMoEForZeroShotIE, MGVMoEModel
from modeling_mgvmoe.configuration_mgvmoe import DEFAULTS_0_1
from tests.support.encoders import IMAGE_SIZE, VISION, VISION_SIZES
from tests.support.tiny import INITIALIZER_RANGE, tiny_config, tiny_inputs, tiny_model

TEXT_SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 40,
    "initializer_range": INITIALIZER_RANGE,
}
TEXT = {
    "bert": {},
    "roberta": {},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
    "modernbert": {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
    },
}
# Tokens of a 32-pixel image: 4 x 4 patches of 8 pixels, with a class token where there is one; Swin halves its
# 8 x 8 once; MobileNetV2's output stride is 8.
TOKENS = {"vit": 17, "dinov2": 17, "siglip_vision_model": 16, "swin": 16, "mobilenet_v2": 16}
# Has no attention (MobileNetV2), or only its own (DeBERTa-v2).
EAGER_ONLY = ("deberta-v2", "mobilenet_v2")
# The frozen tower is the default; half of the pairs train it. Every encoder is in two pairs of the default tests.
PAIRS = [
    pytest.param(text, vision, (i + j) % 2 == 0, marks=[] if (j - i) % len(VISION) < 2 else pytest.mark.slow)
    for i, text in enumerate(TEXT)
    for j, vision in enumerate(VISION)
]


@pytest.mark.parametrize(("name", "kind"), [("vision_config", "vit_mae"), ("text_config", "reformer")])
def test_an_encoder_that_draws_in_evaluation_is_refused(name, kind):
    with pytest.raises(ValueError, match=f"{name} must be repeatable in evaluation, got .* '{kind}'"):
        MGVMoEForZeroShotIE(tiny_config(**{name: CONFIG_MAPPING[kind]()}))


@pytest.mark.parametrize("name", VISION)
def test_encoders_are_repeatable_in_evaluation(name):
    config = pair_config("bert", name)
    model, inputs = tiny_model(config), pair_inputs(config)
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)


def text_config(name: str, **overrides):
    return CONFIG_MAPPING[name](**{**TEXT_SIZES, **TEXT[name], **overrides})


def vision_config(name: str, **overrides):
    return CONFIG_MAPPING[name](**{**VISION[name], **overrides})


def pair_config(text: str = "bert", vision: str = "vit", **overrides) -> MGVMoEConfig:
    return tiny_config(text_config=text_config(text), vision_config=vision_config(vision), **overrides)


def pair_inputs(config: MGVMoEConfig) -> dict[str, torch.Tensor]:
    inputs = tiny_inputs(config)
    inputs["pixel_values"] = torch.randn(4, 3, IMAGE_SIZE, IMAGE_SIZE)
    return inputs


def attention(model) -> tuple[str, str]:
    """The back ends that the two backbones themselves use."""
    return (
        model.mgvmoe.text_model.config._attn_implementation,
        model.mgvmoe.vision_model.config._attn_implementation,
    )


def expected_attention(*names: str) -> tuple[str, ...]:
    return tuple("eager" if name in EAGER_ONLY else "sdpa" for name in names)


@pytest.mark.parametrize("text, vision, freeze_vision", PAIRS)
def test_pair_runs_trains_and_loads_bitwise(text, vision, freeze_vision, tmp_path):
    config = pair_config(text, vision, freeze_vision=freeze_vision)
    model, inputs = tiny_model(config), pair_inputs(config)

    output = model.train()(**inputs)
    assert output.image_router_probs.shape[1] == TOKENS[vision]
    assert torch.isfinite(output.loss)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        is_frozen = freeze_vision and name.startswith("mgvmoe.vision_model.")
        assert parameter.requires_grad is not is_frozen, name
        # DDP stops at a parameter that waits for a gradient in vain.
        assert (parameter.grad is None) is is_frozen, name
        assert is_frozen or torch.isfinite(parameter.grad).all(), name

    model.eval().save_pretrained(tmp_path)
    loaded, information = MGVMoEForZeroShotIE.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(information.values())
    with torch.no_grad():
        expected, output = model(**inputs), loaded(**inputs)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.loss, expected.loss)
    assert attention(model) == attention(loaded) == expected_attention(text, vision)
    assert {parameter.requires_grad for parameter in loaded.mgvmoe.vision_model.parameters()} == {not freeze_vision}


@pytest.mark.parametrize(
    "vision, exception",
    [
        # Used only for the pooled output, and no option leaves it out.
        ("clip_vision_model", "post_layernorm"),
        # Used only with masked patches, and no option leaves it out.
        ("dinov2_with_registers", "mask_token"),
    ],
)
def test_known_parts_without_a_gradient_when_the_tower_is_trained(vision, exception):
    sizes = VISION_SIZES if vision == "clip_vision_model" else VISION["dinov2"]
    config = tiny_config(
        text_config=text_config("bert"), vision_config=CONFIG_MAPPING[vision](**sizes), freeze_vision=False
    )
    model = tiny_model(config).train()
    model(**pair_inputs(config)).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without and all(exception in name for name in without)


class TestWidth:
    @pytest.mark.parametrize("vision", VISION)
    def test_width_is_read_off_the_configuration(self, vision):
        config = pair_config("bert", vision)
        features = tiny_model(config).get_image_features(pair_inputs(config)["pixel_values"])
        assert features.shape == (4, TOKENS[vision], config.vision_width)

    @pytest.mark.parametrize("multiplier", [0.35, 1.4])
    @pytest.mark.parametrize("finegrained", [True, False])
    def test_width_of_mobilenet_is_the_one_of_its_last_layer(self, multiplier, finegrained):
        tower = vision_config("mobilenet_v2", depth_multiplier=multiplier, finegrained_output=finegrained)
        config = tiny_config(vision_config=tower)
        with torch.device("meta"):
            states = AutoModel.from_config(tower)(torch.zeros(1, 3, 32, 32)).last_hidden_state
        assert states.shape[1] == config.vision_width

    def test_wrong_given_width_is_refused_when_features_come(self):
        config = pair_config(vision_hidden_size=25)
        model = tiny_model(config)
        with pytest.raises(ValueError, match=r"image_features must be \(B, Li, 25\), got \(4, 17, 24\)"):
            inputs = pair_inputs(config)
            del inputs["pixel_values"]
            model(**inputs, image_features=torch.zeros(4, 17, 24))


class TestAttentionBackEnd:
    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_explicit_back_end_reaches_both_backbones(self, implementation, tmp_path):
        config = pair_config("roberta", "siglip_vision_model")
        model, inputs = tiny_model(config), pair_inputs(config)
        model.save_pretrained(tmp_path)
        loaded = MGVMoEForZeroShotIE.from_pretrained(tmp_path, attn_implementation=implementation)
        assert attention(loaded) == (implementation, implementation)
        assert loaded.config._attn_implementation == implementation
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-4)

    def test_back_end_can_be_named_for_each_backbone_and_changed_later(self, tmp_path):
        config = pair_config()
        model, inputs = tiny_model(config), pair_inputs(config)
        model.save_pretrained(tmp_path)
        each = {"text_config": "eager", "vision_config": "sdpa"}
        loaded = MGVMoEForZeroShotIE.from_pretrained(tmp_path, attn_implementation=each)
        assert attention(loaded) == ("eager", "sdpa")
        loaded.set_attn_implementation("sdpa")
        assert attention(loaded) == ("sdpa", "sdpa")
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)

    def test_eager_works_for_backbones_that_have_nothing_else(self, tmp_path):
        config = pair_config("deberta-v2", "mobilenet_v2")
        model, inputs = tiny_model(config), pair_inputs(config)
        model.save_pretrained(tmp_path)
        loaded = MGVMoEForZeroShotIE.from_pretrained(tmp_path, attn_implementation="eager")
        assert attention(loaded) == ("eager", "eager")
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


class TestDtype:
    def test_bfloat16_loads_and_runs(self, tmp_path):
        config = pair_config()
        model, inputs = tiny_model(config), pair_inputs(config)
        model.save_pretrained(tmp_path)
        loaded = MGVMoEForZeroShotIE.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
        output = loaded.train()(**inputs)  # images in single precision are narrowed on the way
        assert output.logits.dtype == torch.bfloat16
        output.loss.backward()
        assert torch.isfinite(output.loss)
        # bfloat16 keeps 8 bits: 0.4 % of scores up to 30, a few times over.
        torch.testing.assert_close(loaded.eval()(**inputs).logits.float(), model(**inputs).logits, rtol=0, atol=1.5)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_dtype_of_a_sub_configuration_does_not_give_a_mixed_model(self, dtype):
        config = tiny_config(
            text_config=text_config("bert", dtype=dtype), vision_config=vision_config("vit", dtype=dtype)
        )
        model = MGVMoEForZeroShotIE(config)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert torch.isfinite(model(**pair_inputs(config)).loss)

    def test_saved_half_precision_comes_back_as_it_was(self, tmp_path):
        config = pair_config()
        tiny_model(config).to(torch.bfloat16).save_pretrained(tmp_path)
        loaded = MGVMoEForZeroShotIE.from_pretrained(tmp_path)
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
        assert torch.isfinite(loaded(**pair_inputs(config)).loss)


class TestComposing:
    def folders(self, tmp_path, text="bert", vision="vit", dtype=None):
        """Two saved checkpoints, as a hub would give them: with their poolers, and of different dtypes if asked."""
        torch.manual_seed(5)
        towers = []
        for kind, config in (("text", text_config(text)), ("vision", vision_config(vision))):
            tower = AutoModel.from_config(config).eval()
            if dtype is not None and kind == "vision":
                tower.to(dtype)
            tower.save_pretrained(tmp_path / kind)
            towers.append(tower)
        return *towers, str(tmp_path / "text"), str(tmp_path / "vision")

    def check_equal(self, backbone, source):
        theirs = source.state_dict()
        ours = backbone.state_dict()
        assert ours
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name

    @pytest.mark.parametrize("model_class", [MGVMoEModel, MGVMoEForZeroShotIE])
    def test_weights_of_both_sources_arrive_bitwise(self, tmp_path, model_class):
        text, vision, text_id, vision_id = self.folders(tmp_path)
        model = model_class.from_text_vision_pretrained(
            text_id, vision_id, **{**DEFAULTS_0_1, "num_experts": 2, "projection_dim": 5}
        )
        base = getattr(model, "mgvmoe", model)
        self.check_equal(base.text_model, text)
        self.check_equal(base.vision_model, vision)
        assert not any("pooler" in name for name, _ in model.named_parameters())
        assert (model.config.num_experts, model.config.projection_dim) == (2, 5)
        assert base.text_model.config is model.config.text_config
        assert (base.experts.router.weight.std() > 0) and not base.experts.router.bias.any()

    @pytest.mark.parametrize("vision", ["dinov2", "siglip_vision_model", "swin", "mobilenet_v2"])
    def test_other_towers_arrive_bitwise_without_their_unused_parts(self, tmp_path, vision):
        text, tower, text_id, vision_id = self.folders(tmp_path, "roberta", vision)
        model = MGVMoEForZeroShotIE.from_text_vision_pretrained(text_id, vision_id, projection_dim=5)
        self.check_equal(model.mgvmoe.text_model, text)
        self.check_equal(model.mgvmoe.vision_model, tower)
        names = [name for name, _ in model.mgvmoe.vision_model.named_parameters()]
        assert not any(part in name for name in names for part in ("mask_token", "head.", "pooler"))

    def test_composed_model_runs_is_saved_and_loaded_bitwise(self, tmp_path):
        *_, text_id, vision_id = self.folders(tmp_path, "roberta", "siglip_vision_model")
        model = MGVMoEForZeroShotIE.from_text_vision_pretrained(text_id, vision_id, **DEFAULTS_0_1).eval()
        model.save_pretrained(tmp_path / "composed")
        loaded = MGVMoEForZeroShotIE.from_pretrained(tmp_path / "composed")
        inputs = pair_inputs(model.config)
        assert torch.equal(loaded(**inputs).loss, model(**inputs).loss)
        assert attention(model) == attention(loaded) == ("sdpa", "sdpa")

    def test_frozen_tower_is_frozen_after_composing(self, tmp_path):
        *_, text_id, vision_id = self.folders(tmp_path)
        for freeze in (True, False):
            model = MGVMoEForZeroShotIE.from_text_vision_pretrained(text_id, vision_id, freeze_vision=freeze)
            assert {value.requires_grad for value in model.mgvmoe.vision_model.parameters()} == {not freeze}

    def test_checkpoints_of_different_dtypes_give_one(self, tmp_path):
        *_, text_id, vision_id = self.folders(tmp_path, dtype=torch.float16)
        model = MGVMoEForZeroShotIE.from_text_vision_pretrained(text_id, vision_id)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}

    def test_encoders_in_the_wrong_order_are_refused(self, tmp_path):
        *_, text_id, vision_id = self.folders(tmp_path)
        for number, pair in enumerate([(vision_id, text_id), (text_id, text_id), (vision_id, vision_id)]):
            name = ("text_id", "vision_id", "text_id")[number]
            with pytest.raises(ValueError, match=f"^{name} must be a .* encoder"):
                MGVMoEForZeroShotIE.from_text_vision_pretrained(*pair)
        whole = AutoModel.from_config(CONFIG_MAPPING["clip"](text_config=TEXT_SIZES, vision_config=VISION_SIZES))
        whole.save_pretrained(tmp_path / "whole")
        with pytest.raises(ValueError, match="text_id must be a text encoder, got 'clip'"):
            MGVMoEForZeroShotIE.from_text_vision_pretrained(str(tmp_path / "whole"), vision_id)

    def test_scores_that_are_random_come_with_one_warning(self, tmp_path):
        *_, text_id, vision_id = self.folders(tmp_path)
        with pytest.warns(UserWarning, match="score=.* random until the model is trained") as caught:
            model = MGVMoEForZeroShotIE.from_text_vision_pretrained(text_id, vision_id, **DEFAULTS_0_1)
        assert len(caught) == 1 and caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            MGVMoEForZeroShotIE(model.config)
            MGVMoEModel.from_text_vision_pretrained(text_id, vision_id)
            best = MGVMoEForZeroShotIE.from_text_vision_pretrained(text_id, vision_id)
        # What is put together without more is the best setting: residual experts that move nothing yet.
        assert (best.config.score, best.config.expert_type, best.config.freeze_text) == (
            "similarity",
            "residual",
            True,
        )
        assert not any(own.requires_grad for own in best.mgvmoe.text_model.parameters())

    def test_unknown_keywords_are_refused_by_name(self, tmp_path):
        with pytest.raises(TypeError, match=r"got \['num_expert', 'vison'\], which MGVMoEConfig does not have"):
            MGVMoEForZeroShotIE.from_text_vision_pretrained("nowhere", "nowhere", vison=1, num_expert=4)

    @pytest.mark.parametrize("family", ["clip", "siglip"])
    def test_configuration_of_a_text_image_model_is_unwrapped(self, family, tmp_path):
        text = {**TEXT_SIZES, "hidden_size": 24, "num_attention_heads": 3}
        whole = CONFIG_MAPPING[family](
            text_config={**text, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}, vision_config=VISION_SIZES
        )
        config = tiny_config(text_config=text_config("bert"), vision_config=copy.deepcopy(whole))
        assert config.vision_config.model_type == f"{family}_vision_model"
        assert config.vision_width == 24
        assert torch.isfinite(tiny_model(config)(**pair_inputs(config)).loss)

        source = AutoModel.from_config(whole)
        source.save_pretrained(tmp_path / "whole")
        AutoModel.from_config(text_config("bert")).save_pretrained(tmp_path / "text")
        model = MGVMoEForZeroShotIE.from_text_vision_pretrained(str(tmp_path / "text"), str(tmp_path / "whole"))
        assert model.config.vision_config.model_type == f"{family}_vision_model"
        self.check_equal(model.mgvmoe.vision_model, source.vision_model)

    def test_composing_leaves_the_attention_of_both_sources_as_it_was(self, tmp_path):
        text, vision, *_ = self.folders(tmp_path, "bert", "swin")
        ids, mask = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[1, 1, 1, 0]])
        before = text(ids, attention_mask=mask).last_hidden_state
        config = MGVMoEConfig(text_config=text.config, vision_config=vision.config)
        model = MGVMoEForZeroShotIE(config, text_model=text, vision_model=vision)
        assert attention(model) == ("sdpa", "sdpa")
        # A backbone without a back end would let padding in.
        assert torch.equal(text(ids, attention_mask=mask).last_hidden_state, before)
        torch.testing.assert_close(before[:, :3], text(ids[:, :3]).last_hidden_state, rtol=1e-5, atol=1e-5)

    def test_keywords_reach_the_two_checkpoints(self, tmp_path):
        *_, text_id, vision_id = self.folders(tmp_path)
        model = MGVMoEForZeroShotIE.from_text_vision_pretrained(
            text_id,
            vision_id,
            text_kwargs={"attn_implementation": "eager"},
            vision_kwargs={"attn_implementation": "eager"},
        )
        assert attention(model) == ("eager", "eager")
