"""Runs that are killed, in processes that are forked from this one, which has imported and built everything once.

python -m tests.support.killed_runs FOLDER SEED: prints a JSON object per run.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

os.environ["ACCELERATE_USE_CPU"] = "true"

import accelerate  # noqa: F401
import torch
from transformers.utils.logging import disable_progress_bar

from modeling_mgvmoe.data import atomic_io as whole_folder
from modeling_mgvmoe.training import checkpoints
from modeling_mgvmoe.training.arguments import TrainingArguments
from modeling_mgvmoe.training.loop import train
from tests.support.small_runs import small_data, small_trainee

# What is called while something is being written, how often it is in a run at least, and where it is looked up.
PLACES = {"fsync": (90, whole_folder), "file_sha256": (50, checkpoints), "save_model": (12, checkpoints),
          "write_tensors": (24, checkpoints), "write_json": (24, checkpoints), "_take_place": (12, whole_folder),
          "_exchange": (4, whole_folder), "remove_folder": (8, checkpoints)}  # fmt: skip
STEPS = 30


def run(folder, resume, place=None, calls=0):
    """Train in a forked process; its process id. With `place` it kills itself at or after that call of it."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        if place is not None:
            kill_at(place, calls)
        arguments = TrainingArguments(
            output_dir=str(folder), max_train_steps=STEPS, per_device_train_batch_size=4, learning_rate=3e-3,
            eval_steps=5, checkpointing_steps=3, keep_best=False, resume_from_checkpoint="latest" if resume else None,
        )  # fmt: skip
        with open(f"{folder}.log", "a", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            train(*small_trainee(hidden_size=16), small_data(), arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def kill_at(place, calls):
    module = PLACES[place][1]
    original, seen = getattr(module, place), 0

    def killing(*arguments):
        nonlocal seen
        seen += 1
        if seen == calls and calls % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments)
        if seen == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, place, killing)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    """An undisturbed run, 3 killed after a random time, 8 at a random call while writing, one of each kind."""
    folder, draw = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    disable_progress_bar()
    torch.set_num_threads(1)
    started = time.time()
    assert ended(run(folder / "undisturbed", False)) == 0, (folder / "undisturbed.log").read_text()[-3000:]
    lasted = time.time() - started
    print(json.dumps({"name": "undisturbed", "lasted": lasted}), flush=True)
    for number, place in enumerate([*PLACES, None, None, None]):
        name = f"killed-{number}"
        if place is not None:
            calls = draw.randint(1, PLACES[place][0])
            first, moment = ended(run(folder / name, False, place, calls)), f"{place} {calls}"
        else:
            moment = draw.uniform(0.1, 0.95) * lasted
            while True:
                child = run(folder / name, False)
                time.sleep(moment)
                os.kill(child, signal.SIGKILL)
                first = ended(child)
                if first:
                    break
                # It was faster than the undisturbed one, and is done.
                shutil.rmtree(folder / name)
                moment /= 2
        left = sorted(str(path.relative_to(folder / name)) for path in (folder / name).glob("*/*"))
        second = ended(run(folder / name, True))
        print(json.dumps({"name": name, "moment": moment, "first": first, "second": second, "left": left}), flush=True)


if __name__ == "__main__":
    main()
