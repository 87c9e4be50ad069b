"""transformers' `ModelTesterMixin` and `TrainingTesterMixin` over both of our models."""

import functools
import unittest
from unittest import mock

import pytest
import torch
from transformers.testing_utils import torch_device
from transformers.utils import ModelOutput

from modeling_mgvmoe import MGVMoEConfig, MGVMoEForZeroShotIE, MGVMoEModel

from .upstream import common_tests, expect_failures

pytestmark = pytest.mark.hf

modeling = common_tests("test_modeling_common")
training = common_tests("test_training_mixin")
# transformers knows from this table which classes are base models, without a loss.
modeling.MODEL_MAPPING_NAMES = {**modeling.MODEL_MAPPING_NAMES, "mgvmoe": "MGVMoEModel"}

IMAGE_FEATURES = (
    "our get_image_features returns the tensor that forward takes as image_features, so that it can be cached; "
    "the test wants the vision encoder's whole output"
)
EXPERTS = (
    "our experts all see every token and have forms of their own (tests/model/test_variational_experts.py); "
    "the test wants transformers' two for routed experts, and an output of a name that ours do not have"
)
DIFFERENCES = {
    "test_eager_matches_batched_and_grouped_inference_0_fp16": EXPERTS,
    "test_eager_matches_batched_and_grouped_inference_1_fp32": EXPERTS,
    "test_eager_matches_batched_and_grouped_inference_2_bf16": EXPERTS,
    "test_get_image_features_output_0": IMAGE_FEATURES,
    "test_get_image_features_output_1": IMAGE_FEATURES,
    "test_get_image_features_output_2": IMAGE_FEATURES,
    "test_get_image_features_hidden_states": IMAGE_FEATURES,
    "test_get_image_features_attentions": IMAGE_FEATURES,
}


class MGVMoEModelTester:
    """Tiny posts and configurations, in the form that the mixins expect.

    The number of candidates is no multiple of the number of posts, or the mixins would take candidates for posts.
    """

    batch_size = 3
    seq_length = 7
    num_candidates = 4
    candidate_length = 5
    is_training = True
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    num_hidden_states_types = 2  # hidden_states and vision_hidden_states
    text_config = {
        "model_type": "bert",
        "vocab_size": 99,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "intermediate_size": 37,
        "max_position_embeddings": 40,
    }
    vision_config = {
        "model_type": "vit",
        "image_size": 30,
        "patch_size": 10,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
    }

    def __init__(self, **config_kwargs):
        self.config_kwargs = config_kwargs

    def get_config(self):
        values = {"num_experts": 3, "projection_dim": 20, "freeze_vision": False, **self.config_kwargs}
        return MGVMoEConfig.paper("mre", text_config=self.text_config, vision_config=self.vision_config, **values)

    def prepare_config_and_inputs_for_common(self):
        attention_mask = torch.ones(self.batch_size, self.seq_length, dtype=torch.long, device=torch_device)
        attention_mask[-1, -2:] = 0
        inputs = {
            "input_ids": modeling.ids_tensor([self.batch_size, self.seq_length], self.text_config["vocab_size"]),
            "attention_mask": attention_mask,
            "mention_positions": torch.tensor([[5, 3], [4, -1], [4, 3]], device=torch_device),
            "pixel_values": self.drawings(self.batch_size),
        }
        return self.get_config(), inputs

    def drawings(self, number):
        return modeling.floats_tensor([number, 3, self.vision_config["image_size"], self.vision_config["image_size"]])

    def candidates(self):
        words = torch.arange(self.num_candidates * self.candidate_length, device=torch_device)
        return words.view(self.num_candidates, -1) + 1


class CommonTests(modeling.ModelTesterMixin, training.TrainingTesterMixin):
    """Every test of the mixins, over the configuration that `config_kwargs` make."""

    all_model_classes = (MGVMoEModel, MGVMoEForZeroShotIE)
    additional_model_inputs = ["mention_positions", "pixel_values"]
    test_can_init_all_missing_weights_before_2023 = True
    training_overfit_seq_length = 8
    _is_composite = True
    model_tester = None
    config_kwargs = {}

    def setUp(self):
        self.model_tester = MGVMoEModelTester(**self.config_kwargs)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if model_class is MGVMoEForZeroShotIE:
            inputs["candidate_input_ids"] = self.model_tester.candidates()
            if return_labels:
                posts = torch.arange(len(inputs["input_ids"]), device=torch_device)
                inputs["labels"] = posts % self.model_tester.num_candidates
        return inputs

    def test_model_outputs_equivalence(self):
        """The mixin subtracts every output from itself, which torch refuses for `image_mask`: it gets a number."""
        forward = MGVMoEModel.forward

        @functools.wraps(forward)
        def forward_without_bool(model, *args, **kwargs):
            output = forward(model, *args, **kwargs)
            if isinstance(output, ModelOutput):
                output.image_mask = output.image_mask.float()
                return output
            return tuple(value.float() if getattr(value, "dtype", None) is torch.bool else value for value in output)

        self.all_model_classes = (MGVMoEForZeroShotIE,)
        super().test_model_outputs_equivalence()
        self.all_model_classes = (MGVMoEModel,)
        with mock.patch.object(MGVMoEModel, "forward", forward_without_bool):
            super().test_model_outputs_equivalence()

    # What `test_training_overfit` needs to know of a model that is none of a language.

    def _get_trainable_model_class(self):
        return MGVMoEForZeroShotIE

    def _create_text_training_batch(self, batch_size, seq_length, vocab_size):
        input_ids = 1 + torch.arange(batch_size * seq_length).view(batch_size, seq_length) % (vocab_size - 1)
        return {
            "input_ids": input_ids,
            "mention_positions": torch.tensor([[5, 3]]).expand(batch_size, -1),
            "pixel_values": self.model_tester.drawings(batch_size).cpu(),  # where the mixin trains
            "candidate_input_ids": self.model_tester.candidates().cpu(),
            "labels": torch.arange(batch_size) % self.model_tester.num_candidates,
        }

    def test_training_overfit(self):
        """The ranking loss alone: the other terms have floors above 0."""
        others = ("kl_loss_coef", "router_entropy_loss_coef", "alignment_loss_coef", "consistency_loss_coef")
        self.model_tester.config_kwargs = {**self.config_kwargs, **dict.fromkeys(others, 0.0)}
        with mock.patch.object(MGVMoEConfig, "vocab_size", self.model_tester.text_config["vocab_size"], create=True):
            super().test_training_overfit()


@expect_failures(DIFFERENCES)
class LearnedAdversaryTest(CommonTests, unittest.TestCase):
    """The paper's form, both encoders trained."""


@expect_failures(DIFFERENCES)
class PowerAdversaryTest(CommonTests, unittest.TestCase):
    """Fusion by query, power iteration, frozen images."""

    config_kwargs = {"fusion": "query", "adversary": "power", "freeze_vision": True}
