"""transformers' `ProcessorTesterMixin` over our processor."""

import functools
import unittest
from unittest import mock

import pytest
from transformers import BertTokenizerFast, ViTImageProcessorPil

from modeling_mgvmoe import MGVMoEProcessor

from .upstream import common_tests, expect_failures

pytestmark = pytest.mark.hf

processing = common_tests("test_processing_common")

EXPLICIT = (
    "transformers keeps options of a call in typed dictionaries; ours are arguments with their defaults, "
    "which help() shows and which a call may give instead of the processor's own"
)
GROUPS = "ours takes its few options of text as arguments and refuses text_kwargs and common_kwargs by TypeError"
DIFFERENCES = {
    "test_call_arguments_default_none": EXPLICIT,
    "test_call_arguments_not_in_attributes": EXPLICIT,
    "test_call_arguments_not_in_processor_kwargs": EXPLICIT,
    "test_init_arguments_not_in_processor_kwargs": EXPLICIT,
    "test_flat_kwarg_applied_when_modality_dict_lacks_it": GROUPS,
    "test_overlapping_text_image_kwargs_handling_0_images": GROUPS,
    "test_structured_kwargs_nested_from_dict_0_images": GROUPS,
    "test_subprocessor_defaults_0_text": "ours puts markers around the mentions, which the tokenizer alone does not",
    "test_subprocessor_defaults_preserved_by_kwargs_0_images": (
        "the length is the processor's, which windows posts around their mentions, and not the tokenizer's"
    ),
}


@expect_failures(DIFFERENCES)
class ProcessorCommonTest(processing.ProcessorTesterMixin, unittest.TestCase):
    processor_class = MGVMoEProcessor

    @classmethod
    def _setup_tokenizer(cls):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "[unused2]", "[unused3]", "[unused4]"]
        words += ["lower", "newer", "upper", "older", "longer", "string"]
        return BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})

    @classmethod
    def _setup_image_processor(cls):
        return ViTImageProcessorPil(size={"height": 30, "width": 30}, do_convert_rgb=True)

    def setUp(self):
        """The mixin knows of posts and images only: each post gets a mention, image text, and labels with types."""
        call = MGVMoEProcessor.__call__

        @functools.wraps(call)
        def call_with_mentions(processor, *args, text=None, **kwargs):
            if text is not None:
                span, labels = (0, 5), ["older string", "newer"]
                kwargs["mentions"] = span if isinstance(text, str) else [span] * len(text)
                kwargs["candidate_labels"] = [labels] if isinstance(text, str) else [labels] * len(text)
                kwargs["label_descriptions"] = {"newer": ["newer", "longer string"]}
                kwargs["label_types"] = {"newer": ("older", "lower")}
                kwargs["type_descriptions"] = {"older": ["older", "upper"]}
                kwargs["image_text"] = "upper string" if isinstance(text, str) else ["upper string"] * len(text)
            return call(processor, *args, text=text, **kwargs)

        patch = mock.patch.object(MGVMoEProcessor, "__call__", call_with_mentions)
        patch.start()
        self.addCleanup(patch.stop)
