"""The files for `accelerate launch`: read by accelerate itself, and what it makes of them."""

from pathlib import Path

import pytest
import yaml
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import (
    _validate_launch_command,
    launch_command_parser,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)
from accelerate.utils import DeepSpeedPlugin, DistributedType
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

FOLDER = Path(__file__).resolve().parents[2] / "configuration" / "accelerate"
KINDS = {
    "cpu": DistributedType.NO,
    "gpu": DistributedType.NO,
    "multi_gpu": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "deepspeed_zero2": DistributedType.DEEPSPEED,
    "deepspeed_zero3": DistributedType.DEEPSPEED,
}


def path_of(name):
    return str(FOLDER / f"{name}.yaml")


def launched(name):
    """Arguments of `accelerate launch` as they are after its own checks."""
    arguments = launch_command_parser().parse_args(["--config_file", path_of(name), "examples/train.py"])
    return _validate_launch_command(arguments)[0]


def test_every_file_is_known():
    assert {path.stem for path in FOLDER.iterdir()} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_the_file(name):
    config = load_config_from_file(path_of(name))  # it refuses keys that it does not know
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == KINDS[name]
    assert config.use_cpu == (name == "cpu")
    assert config.mixed_precision == (None if name == "cpu" else "bf16")
    assert (config.num_processes > 1) == (name not in ("cpu", "gpu"))
    # A file that was not run here says so in its first line.
    first = Path(path_of(name)).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# Untested") == (name != "cpu")


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_one_process(name):
    _, environment = prepare_simple_launcher_cmd_env(launched(name))
    assert environment["ACCELERATE_USE_CPU"] == str(name == "cpu")
    assert environment["ACCELERATE_MIXED_PRECISION"] == ("no" if name == "cpu" else "bf16")


def test_fsdp2_as_the_processes_get_it(monkeypatch):
    arguments = launched("fsdp2")
    assert arguments.num_processes == 2
    for name, value in prepare_multi_gpu_env(arguments).items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert plugin.transformer_cls_names_to_wrap == ["BertLayer", "ViTLayer"]
    assert not plugin.cpu_ram_efficient_loading
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    classes = {
        type(module).__name__
        for model in (BertModel(BertConfig(**tiny)), ViTModel(ViTConfig(**tiny)))
        for module in model.modules()
    }
    assert set(plugin.transformer_cls_names_to_wrap) <= classes


@pytest.mark.parametrize(("name", "stage"), [("deepspeed_zero2", 2), ("deepspeed_zero3", 3)])
def test_deepspeed(name, stage):
    values = load_config_from_file(path_of(name)).deepspeed_config
    assert values["zero_stage"] == stage
    assert values.get("zero3_save_16bit_model", False) == (stage == 3)  # without it nothing could be saved
    # Every key is one that the plugin has, or its own word for one.
    known = set(DeepSpeedPlugin.__dataclass_fields__) | {"zero3_init_flag", "zero3_save_16bit_model"}
    assert set(values) <= known
    assert yaml.safe_load(Path(path_of(name)).read_text(encoding="utf-8"))["deepspeed_config"] == values
