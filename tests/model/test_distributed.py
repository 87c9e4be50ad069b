"""Several processes against one with the same batch: losses, gradients, weights, and the training loop around them.

The processes are started once for all cases and write what they find; the tests compare it with one process, this one.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from modeling_mgvmoe.distributed import Announcement, gather_rows, number_of_processes, random_generator
from modeling_mgvmoe.training.trackers import read_log
from tests.support.loop_runs import loop_run
from tests.support.small_runs import TERMS, without_noise
from tests.support.tiny import doubled, tiny_config, tiny_inputs, tiny_model

ROOT = Path(__file__).resolve().parents[2]
POSTS, TEXT_LENGTH, IMAGE_TOKENS, HIDDEN_SIZE = 8, 11, 5, 32

# Posts of each process.
SIZES = {2: ([4, 4], [5, 3], [1, 7]), 4: ([2, 2, 2, 2], [3, 1, 2, 2], [1, 4, 1, 2])}


def no_images(posts, processes):
    return torch.zeros(POSTS, dtype=torch.bool)


def most_images(posts, processes):
    return torch.arange(POSTS) != 1


def images_on_the_first_process(posts, processes):
    return torch.arange(POSTS) < posts[0]


def one_image_on_the_last_process(posts, processes):
    return torch.arange(POSTS) == POSTS - 1


# One optimizer step each: which posts have an image, which of SIZES, and whether a process without images gets
# masked ones or none at all.
STEPS = [
    (most_images, 0, "left out"),
    (most_images, 1, "left out"),
    (images_on_the_first_process, 1, "left out"),
    (no_images, 1, "left out"),
    (one_image_on_the_last_process, 2, "left out"),
    (images_on_the_first_process, 0, "masked"),
    (no_images, 0, "masked"),
]

# A whole training of STEPS each: fields of the configuration, dtype, and batches per optimizer step.
CASES = {
    "learned, frozen tower": ({"adversary": "learned"}, torch.double, 1),
    "learned, trained tower": ({"adversary": "learned", "freeze_vision": False}, torch.double, 1),
    "power, trained tower": ({"adversary": "power", "freeze_vision": False}, torch.double, 1),
    "no adversary, query fusion": ({"adversary": "none", "fusion": "query"}, torch.double, 1),
    "accumulation": ({"adversary": "learned", "freeze_vision": False}, torch.double, 2),
    "similarity with types": (
        {"score": "similarity", "objective": "cross_entropy", "adversary": "power", "freeze_vision": False},
        torch.double,
        1,
    ),
    "posts without a class": ({"adversary": "none"}, torch.double, 1),
    "single precision": ({"adversary": "learned", "freeze_vision": False}, torch.float32, 1),
}


def batch_of(step, dtype, processes):
    """The whole batch of a step, its posts per process, and what becomes of images where there are none."""
    drawings, sizes, absent = STEPS[step]
    posts = SIZES[processes][sizes]
    inputs = doubled(tiny_inputs(batch_size=POSTS, text_length=TEXT_LENGTH, seed=step))
    generator = torch.Generator().manual_seed(step)
    for name, length in (("text_noise", TEXT_LENGTH), ("image_noise", IMAGE_TOKENS)):
        inputs[name] = torch.randn(POSTS, length, HIDDEN_SIZE, generator=generator, dtype=torch.double)
    inputs["image_mask"] = drawings(posts, processes)
    return (
        {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()},
        posts,
        absent,
    )


# Cosines times 20, logarithms of probabilities near 0, and a normalised gradient make more of the rounding.
TOLERANCES = {"single precision": 1e-5, "similarity with types": 1e-8, "power, trained tower": 1e-8}

TYPES = ("candidate_types", "type_input_ids", "type_attention_mask")


def with_types(inputs):
    """Two mentions in every other post, and types of heads and tails that two of the labels want."""
    mask = torch.zeros(POSTS, 2, TEXT_LENGTH, dtype=torch.bool)
    mask[:, 0, 1:3] = True
    mask[::2, 1, 3] = True
    allowed = torch.ones(len(inputs["candidate_input_ids"]), 2, 2, dtype=torch.bool)
    allowed[0, 0, 1] = allowed[1, :, 0] = False
    ids = torch.tensor([[7, 8], [9, 10]])
    positions = torch.tensor([[1, 3], [1, -1]] * (POSTS // 2))
    values = (allowed, ids, torch.ones_like(ids))
    return {**inputs, "mention_mask": mask, "mention_positions": positions, **dict(zip(TYPES, values, strict=True))}


def share_of(inputs, start, end, absent):
    """The posts from `start` to `end` as one process would collate them: padded to the longest of its own."""
    shared = ("candidate_input_ids", "candidate_attention_mask", *TYPES)
    own = {name: value if name in shared else value[start:end] for name, value in inputs.items()}
    length = int(own["attention_mask"].sum(1).max())
    for name in ("input_ids", "attention_mask", "text_noise"):
        own[name] = own[name][:, :length]
    if "mention_mask" in own:
        own["mention_mask"] = own["mention_mask"][..., :length]
    if absent == "left out" and not own["image_mask"].any():
        for name in ("pixel_values", "image_mask", "image_noise"):
            del own[name]
    return own


def trained(case, processes, process=None):
    """Terms of every step, gradients of every optimizer step, and weights after it.

    `process` is `None` for the one process that has the whole batch.
    """
    fields, dtype, accumulated = CASES[case]
    # Less of the KL, a sum over some hundred dimensions: beside it the other terms would be rounding.
    model = tiny_model(tiny_config(kl_loss_coef=0.01, **fields)).to(dtype).train()
    wrapped = model if process is None else DistributedDataParallel(model)
    # At the usual eps AdamW makes a full step of a gradient that is nothing but rounding, in single precision anyway.
    optimizer = (
        torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, eps=1e-5)
        if dtype == torch.double
        else torch.optim.SGD(model.parameters(), lr=1e-4)
    )
    found = {}
    for step in range(len(STEPS)):
        inputs, posts, absent = batch_of(step, dtype, processes)
        if fields.get("score") == "similarity":
            inputs = with_types(inputs)
        if case == "posts without a class":
            # On one process all of them, or on all some, as the posts are shared out.
            inputs["labels"][[0, 4, 5, 6] if step % 2 else [4, 5, 6, 7]] = -100
        start, end = (0, POSTS) if process is None else (sum(posts[:process]), sum(posts[: process + 1]))
        # The random direction of the power iteration is that of the first process.
        torch.manual_seed(step + 100 * (process or 0))
        update = (step + 1) % accumulated == 0 or step + 1 == len(STEPS)
        with contextlib.nullcontext() if update or process is None else wrapped.no_sync():
            output = wrapped(**share_of(inputs, start, end, absent))
            (output.loss / accumulated).backward()
        found |= {f"{step} {name}": output[name].detach().clone() for name in ("loss", *TERMS)}
        if update:
            found |= {
                f"{step} gradient of {name}": parameter.grad.clone()
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }
            optimizer.step()
            optimizer.zero_grad()
    return found | {f"weight {name}": value.clone() for name, value in model.state_dict().items()}


# The training loop


LOOP = "loop"

# What the default tests run, in two processes. The slow tests run all, in four: every step more waits for the others.
FAST = (
    "learned, trained tower",
    "accumulation",
    "similarity with types",
    "posts without a class",
    "single precision",
)


# What the processes do


def gathered(process):
    """Rows and gradients by the numbers of the processes: process p has p + 1 rows of one tensor, one of another."""
    rows = (10.0 * process + torch.arange(process + 1.0))[:, None].expand(-1, 2).clone().requires_grad_()
    marks = torch.tensor([process % 2 == 0]).float()
    number = torch.tensor([[process + 0.5]], dtype=torch.double, requires_grad=True)
    announcement = Announcement([process + 1, 1, 1], rows.device)
    all_rows, all_marks, all_numbers = gather_rows(announcement, rows, marks, number)
    # The gradient of a row is the sum of what the processes' losses, all the same, have for it.
    (3 * (torch.arange(len(all_rows))[:, None] * all_rows).sum() + all_numbers.square().sum()).backward()
    return {
        "rows": all_rows.detach(),
        "marks": all_marks,
        "numbers": all_numbers.detach(),
        "gradient of rows": rows.grad,
        "gradient of number": number.grad,
        "random": torch.rand(3, generator=announcement.generator()),
    }


def alone(process):
    """Evaluation, and training mode without gradient, on the first process only: neither may wait for the others."""
    if process == 0:
        model, inputs = tiny_model(adversary="power"), tiny_inputs()
        model(**inputs)
        with torch.no_grad():
            model.train()(**inputs)


def work(process, processes, port, cases, folder):
    """Everything that one of several processes does."""
    os.environ |= {
        "RANK": str(process),
        "LOCAL_RANK": str(process),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "ACCELERATE_USE_CPU": "true",
    }
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # of the process that forked this one
    # Sooner than the default of half an hour, should the processes wait in vain; later than a busy machine needs.
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=300))])
    assert accelerator.num_processes == number_of_processes() == processes
    assert accelerator.process_index == process and torch.distributed.get_backend() == "gloo"

    def keep(name, tensors):
        save_file(
            {key: value.contiguous() for key, value in tensors.items()}, folder / f"{name} {process}.safetensors"
        )

    torch.manual_seed(process)
    keep("gathered", gathered(process))
    alone(process)
    for case in cases:
        keep(case, trained(case, processes, process))
    with without_noise():
        found, weights = loop_run(folder / LOOP, processes)
    keep(LOOP, weights)
    facts = {"found": found, "seed": torch.initial_seed()}
    (folder / f"{LOOP} {process}.json").write_text(json.dumps(facts), encoding="utf-8")
    accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


def start(folder, processes, cases):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Forked, for importing all this takes seconds; with a GPU, which does not survive a fork, by a server without one.
    method = "forkserver" if torch.cuda.is_available() else "fork"
    torch.multiprocessing.start_processes(
        work, (processes, port, cases, folder), nprocs=processes, start_method=method
    )
    return folder, processes


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return start(tmp_path_factory.mktemp("two"), 2, [name for name in CASES if name in FAST])


@pytest.fixture(scope="module")
def four_processes(tmp_path_factory):
    return start(tmp_path_factory.mktemp("four"), 4, list(CASES))


@pytest.fixture
def several(request):
    return request.getfixturevalue(request.param)


NUMBERS = ["two_processes", pytest.param("four_processes", marks=pytest.mark.slow)]


def runs_of(names):
    """Every name in four processes, those of FAST in two: parameters `several` and `name`."""
    slow = [pytest.param("four_processes", name, marks=pytest.mark.slow) for name in names]
    return [("two_processes", name) for name in names if name in FAST] + slow


# Tests


def test_one_process_is_the_number_without_torch_distributed():
    assert number_of_processes() == 1


def test_the_generator_follows_the_global_random_state():
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append([torch.rand(2, generator=random_generator(torch.device("cpu"))) for _ in range(2)])
    assert torch.equal(drawn[0][0], drawn[1][0]) and not torch.equal(drawn[0][0], drawn[2][0])
    assert not torch.equal(drawn[0][0], drawn[0][1])


@pytest.mark.parametrize("several", NUMBERS, indirect=True)
def test_gathered_rows_and_their_gradients(several):
    folder, processes = several
    # Process p brings the rows 10 p, ..., 10 p + p: 0 | 10 11 | 20 21 22 | ...
    rows = torch.tensor([10.0 * process + row for process in range(processes) for row in range(process + 1)])
    weight = 3 * processes
    first = 0
    for process in range(processes):
        found = load_file(folder / f"gathered {process}.safetensors")
        assert torch.equal(found["rows"], rows[:, None].expand(-1, 2))
        assert torch.equal(found["marks"], torch.tensor([1.0, 0.0, 1.0, 0.0])[:processes])
        assert found["numbers"].flatten().tolist() == [other + 0.5 for other in range(processes)]
        expected = weight * torch.arange(first, first + process + 1.0)
        assert torch.equal(found["gradient of rows"], expected[:, None].expand(-1, 2))
        # d/dx of x^2 on every process.
        assert found["gradient of number"].item() == processes * 2 * (process + 0.5)
        first += process + 1
        torch.manual_seed(0)
        assert torch.equal(found["random"], torch.rand(3, generator=random_generator(torch.device("cpu"))))


def assert_equal_to_one_process(folder, processes, name, expected, tolerance):
    first = load_file(folder / f"{name} 0.safetensors")
    # Relative to the largest number of a tensor: its small ones are differences of such.
    scale = {key: tolerance * max(1.0, value.abs().max().item()) for key, value in expected.items()}
    # In single precision a gradient may keep less than losses and weights do: it is a sum of large opposite numbers.
    scale |= {key: 10 * value for key, value in scale.items() if " gradient of " in key and tolerance > 1e-6}
    for process in range(processes):
        found = load_file(folder / f"{name} {process}.safetensors")
        assert set(found) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(
                found[key], value, rtol=0, atol=scale[key], msg=lambda text, key=key: f"{key}: {text}"
            )
            assert torch.equal(found[key], first[key]), key


@pytest.mark.parametrize(("several", "case"), runs_of(CASES), indirect=["several"])
def test_several_processes_equal_one(several, case):
    folder, processes = several
    expected = trained(case, processes)
    for step in range(len(STEPS)):
        for name in TERMS:
            absent = (
                (name == "consistency_loss" and CASES[case][0]["adversary"] == "none")
                or (name == "type_loss" and "score" not in CASES[case][0])
                or (name == "alignment_loss" and STEPS[step][0] in (no_images, one_image_on_the_last_process))
            )
            assert (expected[f"{step} {name}"] == 0) == absent, (step, name)
    assert_equal_to_one_process(folder, processes, case, expected, TOLERANCES.get(case, 1e-9))


@pytest.mark.parametrize("several", NUMBERS, indirect=True)
def test_the_loop_in_several_processes_equals_one(several, tmp_path, monkeypatch):
    folder, processes = several
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with without_noise():
        expected, weights = loop_run(tmp_path / LOOP, 1)
    runs = [json.loads((folder / f"{LOOP} {process}.json").read_text()) for process in range(processes)]
    assert [run["seed"] for run in runs] == list(range(processes))  # noise and dropout of their own
    assert [entry["step"] for entry in expected["history"]] == [2, 4]
    for run in runs:
        assert run["found"] == runs[0]["found"]
        for entry, other in zip(run["found"]["history"], expected["history"], strict=True):
            for term in ("loss", *TERMS):
                # The power iteration starts from the order of the posts, which is that of one process.
                assert entry[term] == pytest.approx(other[term], rel=1e-9), term
            assert {key: entry[key] for key in ("macro_f1", "validation")} == {
                key: other[key] for key in ("macro_f1", "validation")
            }
    assert_equal_to_one_process(folder, processes, LOOP, weights, 1e-9)
    # Written once, by the first process.
    assert json.loads((folder / LOOP / "metrics.json").read_text()) == runs[0]["found"]
    saved, own = (load_file(place / LOOP / "model" / "model.safetensors") for place in (folder, tmp_path))
    for key in own:
        torch.testing.assert_close(saved[key], own[key], rtol=1e-9, atol=1e-9)
    assert {path.name for path in (folder / LOOP / "model").iterdir()} == {
        path.name for path in (tmp_path / LOOP / "model").iterdir()
    }
    # The log of all processes' posts: use of the experts too, and once.
    logs = [read_log(str(place / LOOP / "log.jsonl")) for place in (folder, tmp_path)]
    assert [entry["step"] for entry in logs[0]] == [1, 2, 3, 4]
    for entry in (*logs[0], *logs[1]):
        assert "expert_usage/image_0" in entry and entry.pop("train/posts_per_second") > 0
    assert logs[0] == [pytest.approx(entry, rel=1e-9, abs=1e-12) for entry in logs[1]]


@pytest.mark.parametrize("freeze_vision", [True, False])
def test_images_left_out_train_like_images_masked_out(freeze_vision):
    gradients = []
    for absent in ("left out", "masked"):
        model = tiny_model(freeze_vision=freeze_vision).double().train()
        inputs = doubled(tiny_inputs(labels=True))
        inputs |= {"image_mask": torch.zeros(4, dtype=torch.bool), "text_noise": torch.ones(4, 11, 32).double()}
        if absent == "left out":
            del inputs["pixel_values"], inputs["image_mask"]
        model(**inputs).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=lambda text, name=name: f"{name}: {text}")
    vision = [name for name in gradients[0] if ".vision_" in name]
    assert vision and not any(gradients[0][name].any() for name in vision)


def test_the_sums_for_several_processes_are_those_of_the_means():
    model, inputs = tiny_model().double(), doubled(tiny_inputs())
    with torch.no_grad():
        output = model.mgvmoe(
            **{name: inputs[name] for name in ("input_ids", "attention_mask", "mention_positions")}, return_losses=True
        )
    words = inputs["attention_mask"].sum()
    expected = torch.stack([output.kl_loss * words, output.router_entropy_loss * words, words.double()])
    torch.testing.assert_close(output.expert_loss_sums, torch.stack([expected, torch.zeros(3).double()]))


def test_trainer_divides_the_loss_by_the_accumulated_batches(tmp_path):
    """It adds up the losses of models that take its count of items, and ours takes any keyword."""
    from transformers import Trainer
    from transformers import TrainingArguments as TrainerArguments

    weights = []
    rows = doubled(tiny_inputs(batch_size=2))
    with without_noise():
        for batches in (1, 2):
            model = tiny_model(adversary="none").double()
            arguments = TrainerArguments(
                output_dir=str(tmp_path), max_steps=1, gradient_accumulation_steps=batches, use_cpu=True,
                learning_rate=0.1, optim="sgd", max_grad_norm=0.0, lr_scheduler_type="constant", report_to=[],
                save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
            )  # fmt: skip
            trainer = Trainer(model, arguments, train_dataset=[0] * batches)
            trainer.get_train_dataloader = lambda batches=batches: DataLoader(
                [0] * batches, batch_size=1, collate_fn=lambda _: rows
            )
            trainer.train()
            weights.append(model.mention_projection.weight.detach())
    # The same batch twice: the mean gradient is that of once.
    torch.testing.assert_close(weights[0], weights[1])
    assert not torch.equal(weights[0], tiny_model().double().mention_projection.weight)


@pytest.mark.slow
def test_torchrun(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "examples/train.py"), "--config", str(ROOT / "configuration/recipes/sketchbook.yaml")]
    command += ["--output_dir", str(tmp_path / "run"), "--max_train_steps", "5", "--eval_steps", "2"]
    command += ["--posts_per_class", "1", "--eval_posts_per_class", "1", "--per_device_train_batch_size", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Said by one process, shown by one: a log gets a line every half minute, and 100 % at the end of a longer run.
    assert done.stdout.count("best validation macro-F1") == 1
    assert done.stderr.count("training: 100%") <= 1
    history = json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]
    assert [entry["step"] for entry in history] == [2, 4, 5]
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
