"""Does the pipeline hold under mixed requests for long, from several threads and from several processes?

    python benchmarks/soak.py --json benchmarks/results/soak.json                    # 50,000 requests each way
    python benchmarks/soak.py --requests 400 --labels 100 --cache 40                 # a quick look

A tiny random model (nothing is said about speed) answers posts with and without images, typing and relations, with
their own labels, more different ones than its label cache holds. The same requests go to one thread, to 4 threads
that share one pipeline, and to 2 processes with one thread each. Reported: answers that differ from those of the one
thread by more than 1e-5 in a score, errors, labels in the cache, and resident memory after a fifth of the requests and
at the end, which must not have grown by more than 2 %.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time

import torch
from PIL import Image
from tqdm import tqdm

from modeling_mgvmoe import ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.configuration_mgvmoe import DEFAULTS_0_1
from modeling_mgvmoe.data.environment import machine
from modeling_mgvmoe.training.build import model_from_scratch

TOLERANCE, GROWTH, WARM = 1e-5, 0.02, 0.2
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = ["kelo", "mura", "sails", "chases", "greets", "teaches", "feeds", "dawn", "harbour", "boat", "bird", "cake",
         "robot", "red", "blue", "round", "square"]  # fmt: skip


def make_pipeline(cache):
    """The same tiny pipeline in every process."""
    torch.manual_seed(0)
    config = {
        **DEFAULTS_0_1,
        "text_config": {"model_type": "bert", "initializer_range": 0.3, "max_position_embeddings": 64, **SMALL},
        "vision_config": {"model_type": "vit", "image_size": 16, "patch_size": 8, "initializer_range": 0.3, **SMALL},
        "num_experts": 4, "projection_dim": 16, "initializer_range": 0.15,
    }  # fmt: skip
    model, processor = model_from_scratch(config, [" ".join(WORDS)], 48)
    return ZeroShotMultimodalIEPipeline(model=model, processor=processor, candidate_cache_size=cache)


def make_request(number, labels):
    """Request `number` of an endless row: (post, arguments of the call)."""
    choice = random.Random(number)
    words = [choice.choice(WORDS) for _ in range(choice.randint(3, 30))]
    starts = [sum(len(word) + 1 for word in words[:place]) for place in range(len(words))]
    spans = [(starts[place], starts[place] + len(words[place])) for place in choice.sample(range(len(words)), 2)]
    post = {"text": " ".join(words)}
    post |= {"mention": spans[0]} if number % 2 else {"head": spans[0], "tail": spans[1]}
    if number % 3 == 0:
        post["image"] = Image.new("RGB", (choice.randint(4, 40), choice.randint(4, 40)), (number % 256, 90, 10))
    own = [f"{choice.choice(WORDS)} {choice.randrange(labels)}" for _ in range(choice.randint(1, 12))]
    return post, {"candidate_labels": list(dict.fromkeys(own)), "top_k": choice.choice([None, 1, 5])}


def memory():
    """Resident memory in MiB."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024


def serve(pipe, numbers, labels, file, lock, errors, bar):
    """Answers the requests, one call each; the answers go to a file, so that the memory is the pipeline's alone."""
    for number in numbers:
        post, arguments = make_request(number, labels)
        try:
            answer = [(item["label"], item["score"]) for item in pipe(post, **arguments)]
            with lock:
                file.write(json.dumps([number, answer]) + "\n")
        except Exception as error:  # whatever it is, it is what is looked for
            errors.append(f"request {number}: {type(error).__name__}: {error}")
        bar.update()


def run(flags, threads, numbers):
    """Requests from several threads on one pipeline: answers, errors, labels in the cache, memory early and late."""
    torch.set_num_threads(1)
    pipe, lock, errors, early = make_pipeline(flags.cache), threading.Lock(), [], []
    first, rest = numbers[: int(len(numbers) * WARM)], numbers[int(len(numbers) * WARM) :]
    bar = tqdm(total=len(numbers), desc=f"{threads} thread(s)", unit="request", disable=flags.quiet)
    with bar, tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        for part in (first, rest):
            workers = [
                threading.Thread(target=serve, args=(pipe, part[own::threads], flags.labels, file, lock, errors, bar))
                for own in range(threads)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            early.append(memory())
        file.seek(0)
        answers = dict(map(json.loads, file))
    return answers, errors, len(pipe.candidate_embedder.cache), early


def in_process(flags, numbers, queue):
    """What its own process does."""
    queue.put(run(flags, 1, numbers))


def differing(answers, expected):
    """Requests whose answers are not those expected."""
    found = []
    for number, answer in answers.items():
        own = expected[number]
        # Labels whose scores are nearer than the tolerance may change places.
        close = len(answer) == len(own) and all(
            abs(a[1] - b[1]) <= TOLERANCE for a, b in zip(answer, own, strict=True)
        )
        scores = dict(own)
        if not close or any(abs(scores.get(label, score) - score) > TOLERANCE for label, score in answer):
            found.append(number)
    return found


def judged(name, found, expected, flags, seconds):
    """A row of the report."""
    answers, errors, cached, (early, late) = found
    wrong = len(differing(answers, expected))
    return {
        "way": name, "requests": len(answers) + len(errors), "seconds": round(seconds, 1), "failed": len(errors),
        "errors": errors[:5],
        "differing": wrong, "labels_in_cache": cached, "cache_size": flags.cache,
        "memory_mib": [round(early, 1), round(late, 1)], "growth": round(late / early - 1, 4),
        "met": not errors and not wrong and cached <= flags.cache and late <= early * (1 + GROWTH),
    }  # fmt: skip


def main():
    """One thread, then several, then several processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--labels", type=int, default=2_000, help="numbers that labels may end with (default 2,000)")
    parser.add_argument("--cache", type=int, default=5_000, help="labels that the cache holds (default 5,000)")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", help="file for the report")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    flags = parser.parse_args()
    if min(flags.requests, flags.labels, flags.cache, flags.threads, flags.processes) < 1 or flags.requests < 10:
        parser.error("--requests must be at least 10, the others at least 1")
    numbers, rows = list(range(flags.requests)), []
    context = multiprocessing.get_context("spawn")  # a forked process would inherit the threads' locks

    def in_processes(name, shares):
        queue, started = context.Queue(), time.perf_counter()
        workers = [context.Process(target=in_process, args=(flags, share, queue)) for share in shares]
        for worker in workers:
            worker.start()
        found = [queue.get() for _ in workers]
        for worker in workers:
            worker.join()
        return found, time.perf_counter() - started

    (single,), seconds = in_processes("1 thread", [numbers])
    expected = single[0]
    rows.append(judged("1 thread", single, expected, flags, seconds))
    started = time.perf_counter()
    rows.append(judged(f"{flags.threads} threads", run(flags, flags.threads, numbers), expected, flags,
                       time.perf_counter() - started))  # fmt: skip
    several, seconds = in_processes("processes", [numbers[own :: flags.processes] for own in range(flags.processes)])
    rows += [judged(f"process {own + 1} of {flags.processes}", found, expected, flags, seconds)
             for own, found in enumerate(several)]  # fmt: skip
    for row in rows:
        print(json.dumps(row))
    if flags.json:
        os.makedirs(os.path.dirname(flags.json) or ".", exist_ok=True)
        with open(flags.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine(), "rows": rows}, file, indent=1)
    sys.exit(0 if all(row["met"] for row in rows) else 1)


if __name__ == "__main__":
    main()
