"""Damaged, odd and hostile saved folders, Parquet files, run folders and checkpoints, each with what is said."""

import hashlib
import json
import pickle
import re
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from modeling_mgvmoe import MGVMoEConfig, MGVMoEForZeroShotIE, MGVMoEProcessor, ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.cli.predict import read_posts
from modeling_mgvmoe.data import feature_cache
from modeling_mgvmoe.data.atomic_io import whole_folder
from modeling_mgvmoe.data.encoding import PostCollator, encode_posts
from modeling_mgvmoe.data.schema import post_features
from modeling_mgvmoe.data.zero_shot_data import data_from_folder
from modeling_mgvmoe.graph.post_files import ParquetPosts
from modeling_mgvmoe.inference.model_folder import load_model
from modeling_mgvmoe.inference.predict import predict_labels
from modeling_mgvmoe.loading import check_auto_map, check_weights
from modeling_mgvmoe.publishing.repository import CardFacts, build_repository, find_source
from modeling_mgvmoe.spans import encode_segments
from modeling_mgvmoe.training.checkpoints import Checkpointer, Progress, find_fault
from tests.support.from_scratch import LABELS, drawing, scratch_model
from tests.support.tiny import tiny_config, tiny_model

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PROCESSOR, TOKENIZER, TOKENIZER_CONFIG = "processor_config.json", "tokenizer.json", "tokenizer_config.json"
NOT_UTF8, DEEP = b"\xff\xfe\x00", "[" * 100_000
MEANS = "mgvmoe.experts.expert_means.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    model, processor = scratch_model()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for code in folder.glob("*.py"):  # the installed classes load it
        code.unlink()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "case"))


# What may be done to a folder


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def without(name):
    return lambda folder: (folder / name).unlink()


def half(name):
    def change(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return change


def edited(name, **changes):
    """Keys of a JSON file set, removed where `...` is given; "a.b" is b in a."""

    def change(folder):
        content = json.loads((folder / name).read_text())
        for key, value in changes.items():
            *outer, last = key.split(".")
            place = content
            for step in outer:
                place = place[step]
            if value is ...:
                del place[last]
            else:
                place[last] = value
        (folder / name).write_text(json.dumps(content))

    return change


def config(**changes):
    return edited(CONFIG, **changes)


def tensors(function):
    def change(folder):
        save_file(function(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return change


def sharded(change):
    def all_changes(folder):
        scratch_model()[0].save_pretrained(folder, max_shard_size="60KB")
        (folder / WEIGHTS).unlink(missing_ok=True)
        change(folder)

    return all_changes


def indexed(name):
    """One of the index's tensors is said to be in another file, which is there."""

    def change(folder):
        content = json.loads((folder / INDEX).read_text())
        first = min(content["weight_map"])
        content["weight_map"][first] = str(folder / name[1:]) if str(name).startswith("!") else name
        (folder / INDEX).write_text(json.dumps(content))
        shutil.copy(min(folder.glob("model-*.safetensors")), folder.parent / "out.safetensors")

    return sharded(change)


def pickled(name, index=False):
    def change(folder):
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(pickle.dumps(Trap(folder.parent / "unpickled")))
        if index:
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))

    return change


def head_of(length):
    def change(folder):
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + content[8:])

    return change


def longer(folder):
    with open(folder / WEIGHTS, "ab") as file:
        file.write(b"xx")


# Tables: what is done, and what is said, by the class's own `from_pretrained`

NOT_JSON = "config.json: it is not a valid JSON file"
CONFIGS = {
    "missing": (without(CONFIG), "holds no config.json, or one without fields"),
    "empty": (written(CONFIG, ""), NOT_JSON),
    "no JSON": (written(CONFIG, "model"), NOT_JSON),
    "half": (half(CONFIG), NOT_JSON),
    "not UTF-8": (written(CONFIG, NOT_UTF8), NOT_JSON),
    "nested deep": (written(CONFIG, DEEP), NOT_JSON),
    "a list": (written(CONFIG, "[1]"), "config.json: a JSON object is needed, got [1]"),
    "a number": (written(CONFIG, "3"), "config.json: a JSON object is needed, got 3"),
    "null": (written(CONFIG, "null"), "config.json: a JSON object is needed, got None"),
    "no fields": (written(CONFIG, "{}"), "holds no config.json, or one without fields"),
    "another model": (config(model_type="bert"), "must be of model_type 'mgvmoe', got 'bert'"),
    "no model type": (config(model_type=...), "must be of model_type 'mgvmoe', got None"),
    "model type a number": (config(model_type=3), "must be of model_type 'mgvmoe', got 3"),
    "experts in words": (config(num_experts="8"), "'num_experts' expected int, got str (value: '8')"),
    "experts true": (config(num_experts=True), "'num_experts' expected int, got bool"),
    "experts null": (config(num_experts=None), "'num_experts' expected int, got NoneType"),
    "experts a fraction": (config(num_experts=3.0), "'num_experts' expected int, got float"),
    "experts negative": (config(num_experts=-1), "num_experts must not be negative, got -1"),
    "experts without end": (config(num_experts=10**9), "num_experts must be at most 65,536, got 1000000000"),
    "experts no integer of torch": (config(num_experts=10**30), "num_experts must be at most 65,536, got 1000"),
    "dimensions without end": (config(projection_dim=10**12), "projection_dim must be at most 1,048,576"),
    "no dimension": (config(projection_dim=0), "projection_dim must be at least 1, got 0"),
    "mentions without end": (config(max_mentions=10**9), "max_mentions must be at most 1,024, got 1000000000"),
    "memory of 0.1": (config(graph_memory=64), "graph_memory must be 0: this option of version 0.1 was deleted"),
    "fusion": (config(fusion="sum"), "'fusion' expected one of ('additive', 'query'), got sum"),
    "score": (config(score="cosine"), "'score' expected one of ('projection', 'similarity'), got cosine"),
    "margin not a number": (config(margin=float("nan")), "margin must not be negative, got nan"),
    "margin infinite": (config(margin=float("inf")), "margin must be finite, got inf"),
    "temperature infinite": (config(graph_temperature=float("inf")), "graph_temperature must be finite, got inf"),
    "dropout": (config(projection_dropout=2), "projection_dropout must be at least 0 and below 1, got 2"),
    "encoder unknown": (config(**{"text_config.model_type": "x"}), "text_config: model_type must be one that"),
    "encoder a list": (config(**{"text_config.model_type": []}), "text_config: model_type must be one that"),
    "encoder a word": (config(text_config="bert"), "'text_config'"),
    "width negative": (config(**{"text_config.hidden_size": -1}), "text_config.hidden_size must be from 1 to"),
    "width 0": (config(**{"text_config.hidden_size": 0}), "text_config.hidden_size must be from 1 to"),
    "width in words": (config(**{"text_config.hidden_size": "32"}), "'hidden_size' expected int, got str"),
    "layers negative": (config(**{"text_config.num_hidden_layers": -1}), "from 1 to 1,000, got -1"),
    "layers without end": (config(**{"vision_config.num_hidden_layers": 10**6}), "from 1 to 1,000, got 1000000"),
    "patch 0": (config(**{"vision_config.patch_size": 0}), "vision_config.patch_size must be from 1 to"),
    "no word": (config(**{"text_config.vocab_size": 0}), "text_config.vocab_size must be from 1 to"),
    "words without end": (config(**{"text_config.vocab_size": 10**12}), "text_config.vocab_size must be from 1 to"),
    "dtype unknown": (config(dtype="float99"), "dtype must be the name of a type of torch, got 'float99'"),
    "dtype a function": (config(dtype="load"), "dtype must be the name of a type of torch, got 'load'"),
    "pipelines a number": (config(custom_pipelines=3), "custom_pipelines must hold an object for each task, got 3"),
    "pipelines a list": (config(custom_pipelines=[1]), "custom_pipelines must hold an object for each task, got [1]"),
    "quantization a number": (config(quantization_config=3), "quantization_config must be an object, got 3"),
    "code by a path": (config(auto_map={"AutoConfig": "../../evil.X"}), "auto_map['AutoConfig'] must read"),
    "code by a whole path": (config(auto_map={"AutoConfig": "/tmp/evil.X"}), "got '/tmp/evil.X'"),
    "code of a path as repository": (config(auto_map={"AutoModel": "../../a--x.Y"}), "got '../../a--x.Y'"),
    "code a number": (config(auto_map={"AutoModel": 3}), "auto_map['AutoModel'] must read"),
    "code map a word": (config(auto_map="x.Y"), "auto_map must be an object, got 'x.Y'"),
}
SHAPES = "the weights of {folder} must have the shapes that its config.json asks for: "
MODELS = {
    "missing": (without(WEIGHTS), "no file named model.safetensors found in directory"),
    "empty": (written(WEIGHTS, b""), "model.safetensors: damaged: "),
    "half": (half(WEIGHTS), "model.safetensors: damaged: "),
    "two bytes more": (longer, "model.safetensors: damaged: "),
    "head too long": (head_of(2**60), "model.safetensors: damaged: "),
    "head too short": (head_of(3), "model.safetensors: damaged: "),
    "text": (written(WEIGHTS, "no weights at all"), "model.safetensors: damaged: "),
    "a pickle by the name": (
        lambda folder: (folder / WEIGHTS).write_bytes(pickle.dumps(Trap(folder.parent / "unpickled"))),
        "model.safetensors: damaged: ",
    ),
    "a pickle": (pickled("pytorch_model.bin"), "no file named model.safetensors found in directory"),
    "pickles with an index": (pickled("pytorch_model-1.bin", True), "no file named model.safetensors found"),
    "another shape": (tensors(lambda all: {**all, MEANS: torch.zeros(3, 3)}), f"{MEANS} has (3, 3), not (96, 32)"),
    "fewer experts in the config": (config(num_experts=2), "experts.expert_log_variances.bias has (96,), not (64,)"),
    "another width in the config": (
        config(**{"text_config.hidden_size": 36}),
        "must have the shapes that its config.json asks for: candidate_projection.weight has (16, 32), not (16, 36)",
    ),
    "none of the weights": (tensors(lambda all: {"x." + name: all[name] for name in all}), "no tensor of it is one"),
    "whole numbers": (tensors(lambda all: {name: all[name].to(torch.int8) for name in all}), "got I8"),
    "one of whole numbers": (tensors(lambda all: {**all, MEANS: all[MEANS].long()}), f"{MEANS} must be of floating"),
    "heads that do not divide": (config(**{"text_config.num_attention_heads": 5}), "not a multiple of the number"),
    "activation unknown": (config(**{"text_config.hidden_act": "x"}), "no encoder of type 'bert' can be built of it"),
    "attention unknown": (config(attn_implementation="x"), 'attn_implementation="x"` is not supported'),
    "dtype of integers": (config(dtype="int8"), "not a floating-point dtype"),
    "index above": (indexed("../out.safetensors"), "must be the name of a .safetensors file in the same folder"),
    "index by a whole path": (indexed("!../out.safetensors"), "must be the name of a .safetensors file in the same"),
    "index of a pickle": (indexed("out.bin"), "in the same folder, got 'out.bin'"),
    "index of a number": (indexed(3), "in the same folder, got 3"),
    "index of a back slash": (indexed("..\\out.safetensors"), "must be the name of a .safetensors file in the same"),
    "index not JSON": (sharded(written(INDEX, "x")), f"{INDEX}: it is not a valid JSON file"),
    "index a list": (sharded(written(INDEX, "[]")), f"{INDEX}: a JSON object is needed, got []"),
    "index empty": (
        sharded(written(INDEX, "{}")),
        f"{INDEX}: weight_map must name the file of every tensor, got None",
    ),
    "index without files": (sharded(written(INDEX, '{"weight_map": []}')), "weight_map must name the file of every"),
    "a piece missing": (
        sharded(lambda folder: min(folder.glob("model-*.safetensors")).unlink()),
        f"{INDEX}: every file that it names is needed",
    ),
    "a piece cut": (
        sharded(lambda folder: min(folder.glob("model-*.safetensors")).write_bytes(b"123")),
        "-of-00003.safetensors: damaged: ",
    ),
}
PROCESSORS = {
    **{
        f"{file} {what}": (change(file), message.format(file))
        for file in (PROCESSOR, TOKENIZER, TOKENIZER_CONFIG)
        for what, change, message in (
            ("empty", lambda file: written(file, ""), "{}: it is not a valid JSON file"),
            ("half", half, "{}: it is not a valid JSON file"),
            ("a list", lambda file: written(file, "[]"), "{}: a JSON object is needed, got []"),
            ("a number", lambda file: written(file, "3"), "{}: a JSON object is needed, got 3"),
            ("nested deep", lambda file: written(file, DEEP), "{}: it is not a valid JSON file"),
            ("not UTF-8", lambda file: written(file, NOT_UTF8), "{}: it is not a valid JSON file"),
        )
    },
    "no processor_config": (without(PROCESSOR), "Can't load image processor for"),
    "no tokenizer": (without(TOKENIZER), "Couldn't instantiate the backend tokenizer"),
    "vocabulary a word": (edited(TOKENIZER, **{"model.vocab": "x"}), "cannot be read: Exception: invalid type"),
    "kind of tokenizer": (edited(TOKENIZER, **{"model.type": "x"}), "cannot be read: Exception: data did not match"),
    "no model of a tokenizer": (edited(TOKENIZER, model=...), "cannot be read: Exception: Model missing"),
    "negative tokens": (edited(TOKENIZER, **{"model.vocab": {"a": -1}}), "invalid value: integer `-1`"),
    "tokens without end": (edited(TOKENIZER, **{"model.vocab": {"a": 2**33}}), "invalid value: integer `8589934592`"),
    "no pattern": (
        edited(TOKENIZER, pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated",
                                         "invert": False}),
        "end pattern with unmatched parenthesis",
    ),  # fmt: skip
    "class a number": (edited(TOKENIZER_CONFIG, tokenizer_class=3), "cannot be read: AttributeError"),
    "length a word": (edited(TOKENIZER_CONFIG, model_max_length="x"), "cannot be read: TypeError"),
    "padding token a list": (edited(TOKENIZER_CONFIG, pad_token=[1]), "pad_token has to be either str or AddedToken"),
    "padding side": (edited(TOKENIZER_CONFIG, padding_side="up"), "Padding side should be selected"),
    "tokenizer's code by a path": (
        edited(TOKENIZER_CONFIG, auto_map={"AutoTokenizer": ["../../evil.X", None]}),
        "tokenizer_config.json: auto_map['AutoTokenizer'] must read",
    ),
    "max_length negative": (edited(PROCESSOR, max_length=-1), "max_length: a positive integer is needed (got -1)"),
    "max_length a word": (edited(PROCESSOR, max_length="48"), "max_length: a positive integer is needed (got '48')"),
    "mention_style": (edited(PROCESSOR, mention_style="x"), "mention_style: one of markers, prefix is"),
    "hypothesis_template": (edited(PROCESSOR, hypothesis_template="x"), "hypothesis_template: a string with exactly"),
    "markers unknown": (edited(PROCESSOR, typing_markers=["<x>", "<y>"]), "the tokenizer's vocabulary has no '<x>'"),
    "markers a number": (edited(PROCESSOR, typing_markers=3), "cannot be read: TypeError"),
    "markers equal": (edited(PROCESSOR, typing_markers=["a", "a"]), "typing_markers: 2 distinct tokens are needed"),
    "no image processor": (edited(PROCESSOR, image_processor=...), "Can't load image processor for"),
    "image processor a list": (edited(PROCESSOR, image_processor=[]), "cannot be read: AttributeError"),
    "image processor unknown": (
        edited(PROCESSOR, **{"image_processor.image_processor_type": "x"}), "Unrecognized image processor"
    ),
    "pictures without end": (
        edited(PROCESSOR, **{"image_processor.size": {"height": 10**6, "width": 10**6}}),
        "image_processor.size: height and width of 1 or more, 89,478,485 pixels at most, are needed (got 1000000 x",
    ),
    "pictures negative": (
        edited(PROCESSOR, **{"image_processor.size": {"height": -1, "width": 5}}), "are needed (got -1 x 5)"
    ),
    "size a word": (edited(PROCESSOR, **{"image_processor.size": "big"}), "Could not convert size input"),
    "scale infinite": (
        edited(PROCESSOR, **{"image_processor.rescale_factor": float("inf")}),
        "image_processor.rescale_factor: a finite number is needed (got inf)",
    ),
    "scale a word": (edited(PROCESSOR, **{"image_processor.rescale_factor": "x"}), "is needed (got 'x')"),
    "deviation 0": (
        edited(PROCESSOR, **{"image_processor.image_std": [0, 1, 1]}),
        "image_processor.image_std: finite numbers other than 0 are needed (got ",
    ),
    "mean not a number": (
        edited(PROCESSOR, **{"image_processor.image_mean": [float("nan")] * 3}),
        "image_processor.image_mean: finite numbers are needed (got ",
    ),
}  # fmt: skip


def refused(error, folder, message):
    """Said as transformers users expect, in words of the file, with no class of a library below in the front."""
    said = " ".join(str(error.value).split())
    assert " ".join(message.format(folder=folder).split()) in said, said
    assert isinstance(error.value, (OSError, ValueError)), type(error.value)
    assert error.type.__module__.split(".")[0] in ("builtins", "huggingface_hub", "modeling_mgvmoe")
    assert not (folder.parent / "unpickled").exists()


@pytest.mark.parametrize("case", CONFIGS)
def test_config(folder, case):
    change, message = CONFIGS[case]
    change(folder)
    with pytest.raises((OSError, ValueError)) as error:
        MGVMoEConfig.from_pretrained(folder)
    refused(error, folder, message)
    # The model does not begin to load, and nothing is made of default sizes.
    with pytest.raises((OSError, ValueError)) as error:
        MGVMoEForZeroShotIE.from_pretrained(folder)
    refused(error, folder, message)
    with pytest.raises((OSError, ValueError)) as error:
        load_model(str(folder), "cpu")
    assert isinstance(error.value, (OSError, ValueError))


@pytest.mark.parametrize("case", MODELS)
def test_weights(folder, case):
    change, message = MODELS[case]
    change(folder)
    for load in (MGVMoEForZeroShotIE.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises((OSError, ValueError)) as error:
            load(folder)
        refused(error, folder, message)


@pytest.mark.parametrize("case", PROCESSORS)
def test_processor(folder, case):
    change, message = PROCESSORS[case]
    change(folder)
    with pytest.raises((OSError, ValueError)) as error:
        MGVMoEProcessor.from_pretrained(folder)
    refused(error, folder, message)


# What is odd, and right


def loaded_as(folder, expected):
    model = MGVMoEForZeroShotIE.from_pretrained(folder)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    return model


ODD_FOLDERS = {
    "as it was": lambda folder: None,
    "in pieces": sharded(lambda folder: None),
    "a pickle beside": lambda folder: (folder / "pytorch_model.bin").write_bytes(
        pickle.dumps(Trap(folder.parent / "unpickled"))
    ),
    "in double precision": tensors(lambda all: {name: all[name].double() for name in all}),
    "an unknown key": config(num_expert=7),
    "an unknown architecture": config(architectures=["Evil"]),
    "code of another repository": config(auto_map={"AutoModel": "other/repository--module.Class"}),
}


@pytest.mark.parametrize("case", ODD_FOLDERS)
def test_odd_folder_is_loaded(folder, case):
    ODD_FOLDERS[case](folder)
    expected = scratch_model()[0].state_dict()
    if case == "in double precision":
        expected = {name: value.double() for name, value in expected.items()}
    loaded_as(folder, expected)
    assert not (folder.parent / "unpickled").exists()


def test_no_experts_is_a_model_without_them(folder):
    config(num_experts=0)(folder)
    assert MGVMoEForZeroShotIE.from_pretrained(folder).config.num_experts == 0
    # But not what the folder holds: a command refuses the weights that would be left out.
    with pytest.raises(ValueError, match="must hold no other weights than its config.json asks for, it has"):
        load_model(str(folder), "cpu")


def test_some_weights_missing_or_too_many_are_told_and_refused_by_the_commands(folder, caplog):
    tensors(lambda all: {**{name: all[name] for name in all if name != MEANS}, "strange": torch.zeros(1)})(folder)
    with caplog.at_level("WARNING", "transformers"):
        import transformers.utils.logging as transformers_logging

        transformers_logging.enable_propagation()
        MGVMoEForZeroShotIE.from_pretrained(folder)
        transformers_logging.disable_propagation()
    assert "experts.expert_means.weight" in caplog.text
    assert "strange" in caplog.text
    with pytest.raises(ValueError, match=f"must hold all weights, 1 are missing: .*{MEANS}"):
        load_model(str(folder), "cpu")


def test_pickles_are_not_read_even_when_they_are_asked_for(folder):
    with pytest.raises(ValueError, match="use_safetensors must not be False: pickles are not read, got False"):
        MGVMoEForZeroShotIE.from_pretrained(folder, use_safetensors=False)
    torch.save(scratch_model()[0].state_dict(), folder / "pytorch_model.bin")  # harmless, and not read either
    (folder / WEIGHTS).unlink()
    with pytest.raises(OSError, match="no file named model.safetensors"):
        MGVMoEForZeroShotIE.from_pretrained(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_loaded_and_give_no_ranking(folder, value):
    # They are what the file holds, and who looks for the fault must see them; but no answer is made of them.
    tensors(lambda all: {**all, MEANS: torch.full_like(all[MEANS], value)})(folder)
    model, processor = load_model(str(folder), "cpu")
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    with pytest.raises(ValueError, match="logits: post 0 has NaN scores"):
        pipe({"text": "Kelo sails", "mention": (0, 4)}, candidate_labels=LABELS)
    with pytest.raises(ValueError, match="NaN"):
        model.extract([{"text": "Kelo sails", "mentions": [(0, 4)]}], typing_labels=LABELS, processor=processor)
    labels = {"typing": LABELS}
    encoded = encode_posts([{**ROW, "label": LABELS[0]}], processor)
    with pytest.raises(ValueError, match="NaN"):
        predict_labels(model, encoded, PostCollator(processor, labels), 1)


TOKENIZERS = {
    "tokens that the model has not": (
        lambda content: content["model"].update(vocab={t: n + 1000 for t, n in content["model"]["vocab"].items()}),
        "input_ids must be in [0, ",
    ),
    "a token more": (
        lambda content: content["added_tokens"].append(
            {"id": 10**9, "content": "x", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
        ),
        "the processor's tokenizer has",
    ),
    "a pattern that does not end": (
        lambda content: content.update(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
        ),
        "tokenizer: it cannot read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizer_that_does_harm_only_when_it_is_used(folder, case):
    change, message = TOKENIZERS[case]
    content = json.loads((folder / TOKENIZER).read_text())
    change(content)
    (folder / TOKENIZER).write_text(json.dumps(content))
    model, processor = MGVMoEForZeroShotIE.from_pretrained(folder), MGVMoEProcessor.from_pretrained(folder)
    with pytest.raises(ValueError) as error:
        pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
        pipe({"text": "Kelo " + "a" * 40 + " b", "mention": (0, 4)}, candidate_labels=LABELS)
    assert message in str(error.value)


def test_an_error_of_the_tokenizer_that_is_none_of_its_library_is_kept():
    def stopped(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_segments(stopped, type("Rules", (), {"word_sign": ""})(), [type("Segment", (), {"text": "a"})()])


@pytest.mark.parametrize(
    "reference", ["module.Class", "user/name--module.Class", "my-module.Class", None, ["a.B", None]]
)
def test_code_is_named_as_transformers_does(reference):
    check_auto_map(CONFIG, {"AutoModel": reference})


# Parquet

BYTES = {"bytes": b"no picture", "path": None}
ROW = {"id": "1", "text": "Kelo sails", "mentions": [[0, 4]], "label": "boat", "image": None, "source": "x"}


def parquet(folder, **changes):
    """Three files; the first has the changes, and types as they come."""
    for name, label in (("train", "boat"), ("validation", "bird"), ("test", "cake")):
        row = {**ROW, "label": label, **(changes if name == "train" else {})}
        table = pa.Table.from_pylist([{key: value for key, value in row.items() if value is not ...}])
        pq.write_table(table, folder / f"{name}.parquet")
    return folder / "train.parquet"


def damage(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


FILES = {
    "no Parquet": (damage(lambda content: b"no Parquet"), "cannot be read as Parquet"),
    "empty": (damage(lambda content: b""), "cannot be read as Parquet"),
    "half": (damage(lambda content: content[: len(content) // 2]), "cannot be read as Parquet"),
    "footer too long": (damage(lambda content: content[:-8] + b"\xff\xff\xff\x7fPAR1"), "cannot be read as Parquet"),
    "a hole": (damage(lambda content: content[:4] + b"\xff" * 200 + content[204:]), "damaged"),
    "no rows": (lambda path: pq.write_table(pq.read_table(path).slice(0, 0), path), "holds no post"),
    "no columns": (lambda path: pq.write_table(pa.table({}), path), ""),
}


@pytest.mark.parametrize("case", FILES)
def test_parquet_file(tmp_path, monkeypatch, case):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    change, message = FILES[case]
    path = parquet(tmp_path)
    change(path)
    readers = [lambda: data_from_folder(tmp_path), lambda: read_posts(str(path), LABELS)]
    if case != "no rows":  # which one file of several may well have
        readers.append(lambda: list(ParquetPosts(str(path)).rows(0, 1)))
    for read in readers:
        with pytest.raises(ValueError) as error:
            read()
        assert message in str(error.value)
        assert str(path) in str(error.value)


COLUMNS = {
    "no text": ({"text": ...}, "row 0: inputs: a post needs 'text' (got none)"),
    "no mentions": (
        {"mentions": ...},
        "row 0: inputs: a post needs either 'mention', or 'head' and 'tail' (got none)",
    ),
    "no label": ({"label": ...}, "row 0: post '1': label must be a string"),
    "text null": ({"text": None}, "row 0: inputs: a post needs 'text' (got none)"),
    "text a number": ({"text": 3}, "text must be a string that is not empty, got 3"),
    "text a list": ({"text": ["a"]}, "text must be a string that is not empty, got ['a']"),
    "text bytes": ({"text": NOT_UTF8}, "text must be a string that is not empty, got b'"),
    "label a number": ({"label": 3}, "label must be a string that is not empty, got 3"),
    "mentions a word": ({"mentions": "0-4"}, "post '1': mentions: the words '0-4' must occur once"),
    "mentions fractions": (
        {"mentions": [[0.0, 4.0]]},
        "mentions: a span is two integers (start, end) (got [0.0, 4.0]",
    ),
    "mentions nested": ({"mentions": [[[[0]]]]}, "mentions: a span is two integers (start, end) (got [[[0]]])"),
    "mentions far": ({"mentions": [[0, 2**62]]}, "mentions: 0 <= start < end <= 10"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_parquet_columns(tmp_path, monkeypatch, case):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    changes, message = COLUMNS[case]
    path = parquet(tmp_path, **changes)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        data_from_folder(tmp_path)
    assert str(path) in str(error.value)


def test_an_enormous_text_is_a_text(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    parquet(tmp_path, text="Kelo " + "a" * 3_000_000)
    (post,) = data_from_folder(tmp_path).posts["train"]
    assert len(post["text"]) == 3_000_005


ADDRESSES = ["http://127.0.0.1:9/x.png", "https://example.org/x.png", "file:///etc/passwd", "s3://bucket/x.png",
             "hf://datasets/a/b/x.png", "zip://x.png::http://127.0.0.1:9/x.zip", "zip://x.png::x.zip"]  # fmt: skip
PATHS = ["/etc/passwd", "../../../etc/passwd", "nothing.png", "/dev/null"]


def typed(folder, image):
    """As `datasets` writes it: the column says of itself that it holds images."""
    for name, label in (("train", "boat"), ("validation", "bird"), ("test", "cake")):
        row = {**ROW, "label": label, "image": image if name == "train" else None}
        # Not by its own method, which would fetch the image to put it into the file.
        table = Dataset.from_list([row], features=post_features()).with_format("arrow")[:]
        pq.write_table(table.cast(post_features().arrow_schema), folder / f"{name}.parquet")


@pytest.mark.parametrize("address", ADDRESSES)
def test_images_of_a_parquet_file_are_not_fetched(tmp_path, monkeypatch, address):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    typed(tmp_path, {"bytes": None, "path": address})
    message = "row 0: image must hold the image's bytes or the path of a file, got the address"
    for read in (lambda: data_from_folder(tmp_path), lambda: read_posts(str(tmp_path / "train.parquet"), LABELS)):
        with pytest.raises(ValueError, match=message) as error:
            read()
        assert address in str(error.value)


@pytest.mark.parametrize("path", [*PATHS, None])
def test_a_path_or_bytes_that_are_no_image_are_none(tmp_path, monkeypatch, path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    typed(tmp_path, BYTES if path is None else {"bytes": None, "path": path})
    posts = data_from_folder(tmp_path).posts["train"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (encoded,) = encode_posts(posts, scratch_model()[1])
    assert "pixel_values" not in encoded


def test_an_image_inside_the_file_is_read_whatever_its_name_was(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    drawing().save(tmp_path / "x.png")
    typed(tmp_path, {"bytes": (tmp_path / "x.png").read_bytes(), "path": "http://example.org/x.png"})
    (encoded,) = encode_posts(data_from_folder(tmp_path).posts["train"], scratch_model()[1])
    assert "pixel_values" in encoded


# Checkpoints of a training, with the checksums of what is in them


class OneProcess:
    """As much of an accelerator as reading a checkpoint asks for."""

    class distributed_type:  # noqa: N801 - an attribute
        value = "NO"

    scaler, process_index = None, 0

    def unwrap_model(self, model):
        return model


def checkpointer(folder):
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    return Checkpointer(str(folder), {"seed": 0}, OneProcess(), model, optimizer, schedule)


@pytest.fixture
def checkpoint(tmp_path):
    """One after step 1, written by hand, whose checksums can be made anew."""
    run = checkpointer(tmp_path)
    folder = tmp_path / "checkpoints" / "step-00000001"
    run._write(str(folder), Progress(step=1), {"torch": torch.get_rng_state()[None]})
    return folder


def signed(folder):
    names = [path.name for path in folder.iterdir() if path.name != "checksums.json"]
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "checksums.json").write_text(json.dumps(sums))


STATE = "state.json"
NOT_OURS = "was not written by this program"
CHECKPOINTS = {
    "weights that are a pickle": (pickled(WEIGHTS), f"{NOT_OURS} (SafetensorError"),
    "weights of another model": (
        lambda folder: save_file({"weight": torch.zeros(1)}, folder / WEIGHTS), f"{NOT_OURS} (RuntimeError"
    ),
    "an optimizer of other names": (
        lambda folder: save_file({"x.y": torch.zeros(1)}, folder / "optimizer.safetensors"), "invalid literal for int"
    ),
    "an optimizer that is text": (written("optimizer.safetensors", "x" * 99), f"{NOT_OURS} (SafetensorError"),
    "a state that is no JSON": (written(STATE, "{"), f"{NOT_OURS} (JSONDecodeError"),
    "a state nested deep": (written(STATE, DEEP), f"{NOT_OURS} (RecursionError"),
    "a state that is a list": (written(STATE, "[]"), f"{NOT_OURS} (TypeError"),
    "a state without identity": (written(STATE, "{}"), f"{NOT_OURS} (KeyError: 'identity')"),
    "a state of another run": (edited(STATE, identity={"seed": 1}), "belongs to another run: seed was 1 and is 0"),
    "a state without progress": (edited(STATE, progress=...), f"{NOT_OURS} (KeyError: 'progress')"),
    "progress of other fields": (edited(STATE, **{"progress.x": 1}), f"{NOT_OURS} (TypeError"),
    "groups that are none": (edited(STATE, **{"optimizer.param_groups": [3]}), f"{NOT_OURS} (AttributeError"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoint_with_the_right_checksums(checkpoint, case):
    change, message = CHECKPOINTS[case]
    (checkpoint.parent.parent / "unpickled").unlink(missing_ok=True)
    change(checkpoint)
    signed(checkpoint)
    assert find_fault(str(checkpoint)) is None
    with pytest.raises(ValueError) as error:
        checkpointer(checkpoint.parent.parent).load(str(checkpoint))
    assert message in str(error.value)
    assert not list(checkpoint.parents[2].rglob("unpickled"))


def test_a_checkpoint_as_it_was_written_is_read(checkpoint):
    signed(checkpoint)
    assert checkpointer(checkpoint.parent.parent).load(str(checkpoint)).step == 1


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (DEEP, "checksums.json cannot be read"),
        (NOT_UTF8, "checksums.json cannot be read"),
        ("[]", "checksums.json does not list all files"),
        ({"../x": "0"}, "checksums.json lists '../x', which is in another folder"),
        ({"/etc/passwd": "0"}, "checksums.json lists '/etc/passwd', which is in another folder"),
        ({"extra.bin": "0"}, "extra.bin is missing"),
    ],
)
def test_checksums(checkpoint, content, fault):
    path = checkpoint / "checksums.json"
    if isinstance(content, dict):
        content = json.dumps({**content, **json.loads(path.read_text())})
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert find_fault(str(checkpoint)).startswith(fault)


# Feature caches, with the digest of what is in them

HEADER = {
    "format": "mgvmoe-image-features",
    "version": 1,
    "tokens": 2,
    "width": 3,
    "shard_size": 4,
    "pictures": ["a"],
    "shards": [{"file": "shard-00000.npy", "pictures": 1, "sha256": "0"}],
}


@pytest.fixture
def cache(tmp_path):
    values = np.zeros((1, 2, 3), "<f2")
    header = {**HEADER, "format": feature_cache.FORMAT, "version": feature_cache.VERSION}
    feature_cache.write_shard(str(tmp_path), 0, values)
    feature_cache.write_header(str(tmp_path), header)
    assert feature_cache.ImageFeatureCache(tmp_path, verify=False).read([0]).shape == (1, 2, 3)
    return tmp_path, header


CACHES = {
    "a file elsewhere": ({"shards": [{"file": "../x.npy", "pictures": 1, "sha256": "0"}]}, "must be files beside it"),
    "a file by a whole path": ({"shards": [{"file": "/etc/passwd", "pictures": 1}]}, "must be files beside it, got"),
    "no shards": ({"shards": ...}, "a field is missing or of another type: KeyError('shards')"),
    "shards a number": ({"shards": 3}, "a field is missing or of another type: TypeError"),
    "no pictures": ({"pictures": ...}, "KeyError('pictures')"),
    "pictures a number": ({"pictures": 7}, "a field is missing or of another type: TypeError"),
    "more images than features": ({"pictures": ["a", "b"]}, "the shards hold 1 images, got 2 keys"),
    "width null": ({"width": None}, "a field is missing or of another type: TypeError"),
    "width a word": ({"width": "x"}, "invalid literal for int"),
    "width negative": ({"width": -3}, "shape must be (1, 2, -3), got (1, 2, 3)"),
    "width without end": ({"width": 10**12}, "shape must be (1, 2, 1000000000000), got (1, 2, 3)"),
    "another format": ({"format": "x"}, "format must be"),
    "another version": ({"version": 99}, "version must be"),
}


@pytest.mark.parametrize("case", CACHES)
def test_feature_cache_with_the_right_digest(cache, case):
    folder, header = cache
    changes, message = CACHES[case]
    header = {key: value for key, value in {**header, **changes}.items() if value is not ...}
    feature_cache.write_header(str(folder), header)
    with pytest.raises(ValueError) as error:
        feature_cache.ImageFeatureCache(folder, verify=False)
    assert message in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", DEEP.encode(), NOT_UTF8])
def test_feature_cache_with_a_damaged_header(cache, content):
    folder, _ = cache
    (folder / feature_cache.HEADER).write_bytes(content)
    with pytest.raises(ValueError, match=f"{feature_cache.HEADER}: corrupt"):
        feature_cache.ImageFeatureCache(folder, verify=False)


def test_feature_cache_that_is_a_pickle(cache):
    folder, _ = cache
    np.save(folder / "shard-00000.npy", np.array([Trap(folder / "unpickled")], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"shard-00000.npy: truncated or corrupt"):
        feature_cache.ImageFeatureCache(folder, verify=False)
    assert not (folder / "unpickled").exists()


# The record of a run and its numbers, read for the card of a model

RUN = {"arguments": {"model": {}, "data": {}, "training": {}}, "dataset": {"name": "x"},
       "labels": {"train": {}, "validation": {}, "test": {}}}  # fmt: skip
RECORDS = {
    "run.json without arguments": ("run.json", {**RUN, "arguments": 3}),
    "run.json with a dataset that is a word": ("run.json", {**RUN, "dataset": "x"}),
    "run.json with labels that are a list": ("run.json", {**RUN, "labels": []}),
    "run.json a list": ("run.json", []),
    "metrics.json no object": ("metrics.json", 3),
    "metrics.json with a best that is a word": ("metrics.json", {"best": "x", "history": []}),
    "metrics.json damaged": ("metrics.json", "{"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_records_of_a_run(tmp_path, saved, case):
    name, content = RECORDS[case]
    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError) as error:
        build_repository(find_source(str(tmp_path), []), str(tmp_path / "out"), CardFacts("user/name"))
    assert name in str(error.value)


def test_a_folder_takes_no_files_place(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with (
        pytest.raises(FileExistsError, match="notes is no folder, and is not replaced by one"),
        whole_folder(str(tmp_path / "notes"), 0),
    ):
        raise AssertionError("not reached")
    assert (tmp_path / "notes").read_text() == "mine"


def test_whole_numbers_are_weights_of_a_folder_that_says_it_is_quantised(tmp_path):
    """In 4 or 8 bits; and only then: cast to another type they would be wrong in silence."""
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["mgvmoe.experts.router.weight"] = torch.zeros(4, 1, dtype=torch.uint8)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"mgvmoe.experts.router.weight must be of floating point, got U8"):
        check_weights(tmp_path, None)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    check_weights(tmp_path, None)
    # The configuration that is given counts, not the one in the folder.
    with pytest.raises(ValueError, match="must be of floating point"):
        check_weights(tmp_path, tiny_config())
