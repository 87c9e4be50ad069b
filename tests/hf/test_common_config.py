"""transformers' `ConfigTester` over our configuration."""

import unittest

import pytest

from modeling_mgvmoe import MGVMoEConfig

from .test_common_modeling import MGVMoEModelTester
from .upstream import common_tests

pytestmark = pytest.mark.hf

configuration = common_tests("test_configuration_common")

FIELDS = {"num_experts": 5, "fusion": "query", "adversary": "none", "graph_temperature": 7.0, "freeze_vision": False}


class ConfigCommonTest(unittest.TestCase):
    def test_config(self):
        self.model_tester = MGVMoEModelTester(**FIELDS)  # read by the tester
        tester = configuration.ConfigTester(
            self,
            config_class=MGVMoEConfig,
            has_text_modality=False,  # the vocabulary is the text encoder's
            common_properties=["hidden_size", "num_experts", "projection_dim"],
            **FIELDS,
        )
        tester.run_common_tests()
