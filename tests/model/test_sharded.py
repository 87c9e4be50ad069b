"""The model spread over two processes with FSDP2's `fully_shard`, on CPUs, against one process."""

import json
import os
import socket

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from modeling_mgvmoe.training.optimization import parameter_groups
from tests.support.documents import ROOT
from tests.support.loop_runs import loop_run
from tests.support.small_runs import TERMS, without_noise
from tests.support.tiny import doubled, tiny_inputs, tiny_model

PROCESSES, POSTS = 2, 4


def stepped(model, inputs):
    """Loss, gradients and weights of one optimizer step."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-2, eps=1e-5)
    output = model(**inputs)
    output.loss.backward()
    whole = getattr(torch.distributed.tensor, "DTensor", ())

    def full(tensor):
        return tensor.full_tensor() if isinstance(tensor, whole) else tensor

    found = {"loss": output.loss.detach()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"gradient of {name}"] = full(parameter.grad).clone()
    optimizer.step()
    return found | {f"weight {name}": full(value).detach().clone() for name, value in model.named_parameters()}


def trainee():
    return tiny_model(freeze_vision=False).double().train()


def whole_batch():
    inputs = doubled(tiny_inputs(batch_size=POSTS))
    generator = torch.Generator().manual_seed(0)
    for name, length in (("text_noise", 11), ("image_noise", 5)):
        inputs[name] = torch.randn(POSTS, length, 32, generator=generator, dtype=torch.double)
    return inputs


def environment(process, port):
    os.environ |= {"RANK": str(process), "LOCAL_RANK": str(process), "WORLD_SIZE": str(PROCESSES),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
                   "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # of the process that forked this one


def work(process, port, folder):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    environment(process, port)
    torch.distributed.init_process_group("gloo")
    mesh, model = init_device_mesh("cpu", (PROCESSES,)), trainee()
    # What accelerate wraps under TRANSFORMER_BASED_WRAP.
    layers = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    names = sorted({type(layer).__name__ for layer in layers})
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    share = POSTS // PROCESSES
    shared = ("candidate_input_ids", "candidate_attention_mask")
    inputs = {
        name: value if name in shared else value[process * share : (process + 1) * share]
        for name, value in whole_batch().items()
    }
    found = stepped(model, inputs)
    facts = {
        "layers": names,
        "sharded": [sum(p.to_local().numel() for p in model.parameters()), sum(p.numel() for p in model.parameters())],
    }
    (folder / f"{process}.json").write_text(json.dumps(facts), encoding="utf-8")
    save_file({name: value.contiguous() for name, value in found.items()}, folder / f"{process}.safetensors")
    torch.distributed.destroy_process_group()


def train_sharded(process, port, folder):
    """The training loop as accelerate runs it with configuration/accelerate/fsdp2.yaml."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    environment(process, port)
    accelerator = Accelerator(mixed_precision="no", gradient_accumulation_steps=2)
    config = load_config_from_file(str(ROOT / "configuration/accelerate/fsdp2.yaml")).fsdp_config
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=config["fsdp_version"],
        auto_wrap_policy=config["fsdp_auto_wrap_policy"].lower(),
        transformer_cls_names_to_wrap=config["fsdp_transformer_layer_cls_to_wrap"].split(","),
        state_dict_type=config["fsdp_state_dict_type"],
        reshard_after_forward=config["fsdp_reshard_after_forward"],
        cpu_ram_efficient_loading=config["fsdp_cpu_ram_efficient_loading"],
    )
    # Accelerate itself takes this turn for GPUs only.
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    assert accelerator.is_fsdp2
    with without_noise():
        found, weights = loop_run(folder / "loop", PROCESSES, accelerator)
    assert any(type(value).__name__ == "DTensor" for value in weights.values())
    (folder / f"loop {process}.json").write_text(json.dumps(found), encoding="utf-8")
    accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


def start(function, folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Forked, for importing all this takes seconds; with a GPU, which does not survive a fork, anew.
    method = "spawn" if torch.cuda.is_available() else "fork"
    torch.multiprocessing.start_processes(function, (port, folder), nprocs=PROCESSES, start_method=method)


@pytest.mark.slow
def test_a_sharded_step_equals_one_process(tmp_path):
    start(work, tmp_path)
    expected = stepped(trainee(), whole_batch())
    for process in range(PROCESSES):
        facts = json.loads((tmp_path / f"{process}.json").read_text())
        assert facts["layers"] == ["BertEmbeddings", "BertLayer", "ViTEmbeddings", "ViTLayer"]
        own, whole = facts["sharded"]
        assert own < 0.6 * whole  # half, and what padding adds
        found = load_file(tmp_path / f"{process}.safetensors")
        assert set(found) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.slow
def test_a_sharded_training_equals_one_process_and_saves_a_whole_model(tmp_path, monkeypatch):
    start(train_sharded, tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with without_noise():
        expected, _ = loop_run(tmp_path / "alone", 1)
    for process in range(PROCESSES):
        found = json.loads((tmp_path / f"loop {process}.json").read_text())
        for entry, other in zip(found["history"], expected["history"], strict=True):
            assert {name: entry[name] for name in TERMS} == pytest.approx(
                {name: other[name] for name in TERMS}, rel=1e-9
            )
            assert entry["validation"] == other["validation"]
    folders = [tmp_path / name / "model" for name in ("loop", "alone")]
    saved, own = (load_file(folder / "model.safetensors") for folder in folders)
    assert set(saved) == set(own)
    for name, value in own.items():
        torch.testing.assert_close(
            saved[name], value, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
    # The same files, so that it loads without FSDP and without this package.
    assert {path.name for path in folders[0].iterdir()} == {path.name for path in folders[1].iterdir()}
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert configs[0] == configs[1]
    # Whoever spreads the model writes no checkpoints, and says so where one is asked for (test_checkpoints.py).
    assert not (tmp_path / "loop" / "checkpoints").exists()
