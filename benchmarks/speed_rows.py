"""What benchmarks/speed.py measures, a function for each row; every row runs in its own process.

Sizes, unless a row says otherwise: ViT-B/16 at 384 px, BERT-base (28,996 tokens), 128 text tokens, batch 4, K 8,
projection 256, additive fusion, learned perturbation, random weights, no padding, dropout as in the reference (none on
attention); two mentions and 8 labels in training (relations), 4 labels in inference. AdamW, learning rate 1e-5, one
optimizer step for each batch, gradient clipping. Training keeps freed memory, as the package's training loop does, and
its U is then measured with that too.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import torch
from full_size import BATCH, LABEL_TOKENS, TOKENS, bfloat16, full_model, in_units, pixels, posts, timed, tokens

from modeling_mgvmoe import MGVMoEForZeroShotIE
from modeling_mgvmoe.configuration_mgvmoe import DEFAULTS_0_1
from modeling_mgvmoe.data.environment import has_bf16

# Seconds of one single call of the reference over its seconds of U, in the same hour.
REFERENCE_CALL = 0.91 / 3.17
# Means, variances and noises of 16 x 705 tokens, 8 experts and 768 numbers.
HEAD_GIB = 3 * 16 * 705 * 8 * 768 * 4 / 2**30


@dataclass
class Row:
    """One row: what is measured, what it may cost, in which unit ("U", "GiB", "s" or a ratio), by which function."""

    title: str
    target: float | None
    unit: str
    function: object


def ceiling(flags):
    """GFLOP/s of a product of two 2048 x 2048 matrices; 512 x 512 of bf16 without hardware for it, 40 times slower."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        size = 2048 if dtype == torch.float32 or has_bf16("cpu") else 512
        left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
        seconds = statistics.median(timed(lambda a=left, b=right: a @ b, 10)["seconds"])
        found[name] = 2 * size**3 / seconds / 1e9
    return {"seconds": [], "gflops": found}


def training(flags, half, batches):
    """Full steps over the batches in turn; a repetition is the mean of one step over all of them, against U."""
    from modeling_mgvmoe.training.arguments import TrainingArguments
    from modeling_mgvmoe.training.launch import keep_freed_memory
    from modeling_mgvmoe.training.optimization import make_optimizer

    keep_freed_memory()
    model = full_model().train()
    optimizer = make_optimizer(model, TrainingArguments(output_dir="unused", learning_rate=1e-5))

    def steps():
        for batch in batches:
            with bfloat16(half):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    steps()
    found = in_units(model, steps, flags.repetitions)
    seconds = [one / len(batches) for one in found["seconds"]]
    return {**found, "seconds": seconds, "measured": found["measured"] / len(batches)}


def training_batch(length=TOKENS, cached=False, mask=None):
    """One batch of relation posts with images or their features."""
    images = {"image_features": torch.randn(BATCH, 577, 768).half().float()} if cached else {"pixel_values": pixels()}
    batch = {**posts(length=length), **images, "candidate_input_ids": tokens(8, LABEL_TOKENS)}
    return {**batch, "labels": torch.arange(BATCH), **({} if mask is None else {"attention_mask": mask})}


def train_fp32(flags):
    """A step in float32."""
    return training(flags, False, [training_batch()])


def train_bf16(flags):
    """A step under bf16 autocast."""
    return training(flags, True, [training_batch()])


def train_cached_bf16(flags):
    """The same without the tower."""
    return training(flags, True, [training_batch(cached=True)])


def real_data(flags):
    """MNRE, divided by seed 0, with the images that lie in its folder `images`, if there are any."""
    from modeling_mgvmoe.data.label_sets import read_label_set
    from modeling_mgvmoe.data.mnre import mnre_data, mnre_files, read_mnre

    if flags.data is None:
        raise SystemExit("--data, a folder of MNRE's text files, is needed")
    images = os.path.join(flags.data, "images")
    posts, _ = read_mnre(mnre_files(flags.data), images if os.path.isdir(images) else None)
    labels = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "configuration", "labels", "mnre.json")
    return mnre_data(posts, 0, label_set=read_label_set(labels))[0]


def train_real_bf16(flags):
    """Cached features and texts as long as MNRE's, padded to the longest of each of 8 batches drawn by seed 0."""
    from transformers import AutoTokenizer

    from modeling_mgvmoe import MGVMoEProcessor

    records = real_data(flags).posts["train"]
    if flags.tokenizer is None:
        raise SystemExit("--tokenizer, a name or folder of BERT's word pieces, is needed")
    processor = MGVMoEProcessor(None, AutoTokenizer.from_pretrained(flags.tokenizer), max_length=TOKENS)
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(0)).tolist()
    batches, lengths = [], []
    for number in range(8):
        chosen = [records[row] for row in order[number * BATCH : (number + 1) * BATCH]]
        encoded = [processor.encode_post(record["text"], record["mentions"]) for record in chosen]
        own = torch.tensor([len(post["input_ids"]) for post in encoded])
        mask = (torch.arange(int(own.max())) < own[:, None]).long()
        batches.append(training_batch(int(own.max()), cached=True, mask=mask))
        lengths += own.tolist()
    return {**training(flags, True, batches), "note": f"mean length {statistics.mean(lengths):.1f} tokens"}


@torch.no_grad()
def inference(flags, half=False):
    """4 posts with images against 4 labels that are encoded already."""
    model = full_model()
    batch = {**posts(), "pixel_values": pixels(), "candidate_embeds": torch.randn(4, 768)}

    def ours():
        with bfloat16(half):
            model(**batch)

    return in_units(model, ours, flags.repetitions)


def infer_fp32(flags):
    """Float32, 4 labels."""
    return inference(flags)


def labels_1000(flags):
    """Float32, 1,000 labels, and 4 in turn with them, for the ratio."""
    model, ratios, seconds = full_model(), [], []
    few = {**posts(), "pixel_values": pixels(), "candidate_embeds": torch.randn(4, 768)}
    many = {**few, "candidate_embeds": torch.randn(1000, 768)}
    with torch.no_grad():
        for _ in range(flags.repetitions + 1):
            pair = [timed(lambda batch=batch: model(**batch), 1)["seconds"][0] for batch in (few, many)]
            seconds.append(pair[1])
            ratios.append(pair[1] / pair[0])
    return {"seconds": seconds, "measured": statistics.median(ratios)}


def infer_best(flags):
    """Bf16 autocast at full size; how often it and float32 choose alike, by a trained model on real records."""
    found = inference(flags, half=True)
    return {**found, **agreement(flags)} if flags.model else {**found, "note": "agreement not measured: no --model"}


@torch.no_grad()
def agreement(flags):
    """Share of MNRE's test records of seed 0 for which bf16 autocast and float32 have the same best label."""
    from modeling_mgvmoe import MGVMoEProcessor
    from modeling_mgvmoe.data.encoding import PostCollator, TypesOfLabels, encode_posts
    from modeling_mgvmoe.inference.predict import predict_labels

    data = real_data(flags)
    model, processor = MGVMoEForZeroShotIE.from_pretrained(flags.model), MGVMoEProcessor.from_pretrained(flags.model)
    records = data.posts["test"]
    with_image = sum(post["image"] is not None for post in records)
    chosen = encode_posts(records, processor)
    types = TypesOfLabels(data.label_types, data.type_descriptions) if model.config.score == "similarity" else None
    collator = PostCollator(processor, data.labels["test"], data.label_descriptions, types=types)
    predictions = []
    for half in (False, True):
        with bfloat16(half):
            predictions.append(predict_labels(model.eval(), chosen, collator, 32))
    same = sum(a == b for a, b in zip(*predictions, strict=True)) / len(chosen)
    return {
        "agreement": same,
        "note": f"same best label for {same:.2%} of {len(chosen)} real records, {with_image} with an image",
    }


@torch.no_grad()
def labels_cold(flags):
    """1,000 labels encoded as the pipeline does, and by the bare encoder in batches of as many, in turn."""
    model, size = full_model(), 256
    ids = tokens(1000, LABEL_TOKENS)
    mask = torch.ones_like(ids)
    bare = model.mgvmoe.text_model

    def ours():
        for start in range(0, 1000, size):
            model.get_candidate_embeds(ids[start : start + size], mask[start : start + size])

    def theirs():
        for start in range(0, 1000, size):
            bare(ids[start : start + size], attention_mask=mask[start : start + size])

    pairs = [[timed(function, 1)["seconds"][0] for function in (ours, theirs)] for _ in range(flags.repetitions)]
    return {"seconds": [own for own, _ in pairs], "measured": statistics.median(own / bare for own, bare in pairs)}


def post_16(flags):
    """One post of 30 words with its image (PIL): 4 mentions typed, 12 pairs related, by one pipeline call."""
    import numpy as np
    from PIL import Image
    from transformers import pipeline

    from modeling_mgvmoe.pipeline_mgvmoe import TASK
    from modeling_mgvmoe.training.build import processor_from_scratch

    model = full_model(projection_dim=768)
    words = [f"word{number}" for number in range(30)]
    text = " ".join(words)
    processor = processor_from_scratch(model.config, [text, "person place thing other"], TOKENS)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 800, 3), dtype=np.uint8))
    places = [(text.index(word), text.index(word) + len(word)) for word in (words[2], words[9], words[17], words[25])]
    types, relations = ["person", "place", "thing", "other"], [f"word{number} word{number + 1}" for number in range(8)]
    same = {"text": text, "image": image}
    batch = [{**same, "mention": place, "candidate_labels": types} for place in places]
    batch += [
        {**same, "head": head, "tail": tail, "candidate_labels": relations}
        for head in places
        for tail in places
        if head != tail
    ]
    pipe = pipeline(TASK, model=model, processor=processor)
    length = len(processor.encode_post(text, [places[0], places[1]])["input_ids"])

    def cold():
        pipe.clear_candidate_cache()
        pipe(batch, batch_size=16)

    seconds = statistics.median(timed(cold, flags.repetitions)["seconds"])
    found = in_units(model, lambda: pipe(batch, batch_size=16), flags.repetitions)
    return {**found, "note": f"{length} tokens; {seconds:.2f} s with the 12 labels to encode"}


def memory(name):
    """A line of /proc/self/status in GiB."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":")) / 2**20


def peak_head(flags):
    """Peak of resident memory in a forward and a backward pass, without input, weights and the weights' gradients."""
    import ctypes

    from modeling_mgvmoe import VariationalMixtureOfExperts

    experts = VariationalMixtureOfExperts(768, 8).train()
    states = torch.randn(16, 705, 768, requires_grad=True)

    def peak_of(call):
        with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
            file.write("5")  # the peak begins anew
        result = call()
        return memory("VmHWM"), result

    def loss():
        output = experts(states)
        # Whoever calls holds the mixture.
        return output.hidden_states, output.hidden_states.sum() + output.kl_loss + output.router_entropy

    loss()[1].backward()
    peaks, with_gradients = [], []
    for _ in range(flags.repetitions):
        states.grad = None
        experts.zero_grad()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = memory("VmRSS")
        forward, (mixture, total) = peak_of(loss)
        backward, _ = peak_of(total.backward)
        gradients = sum(parameter.grad.nbytes for parameter in experts.parameters()) / 2**30
        peaks.append(max(forward, backward - gradients) - before)
        with_gradients.append(max(forward, backward) - before)
        del mixture, total
    whole = statistics.median(with_gradients)
    note = f"{whole:.3f} with the weights' gradients; means, variances, noises: {HEAD_GIB:.3f}"
    return {"seconds": [], "measured": statistics.median(peaks), "note": note}


def first(flags):
    """A new process to the first scores of a tiny saved model, by the pipeline and without our package."""
    from transformers import pipeline

    from modeling_mgvmoe.pipeline_mgvmoe import TASK
    from modeling_mgvmoe.training.build import model_from_scratch

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    backbones = {"text_config": {"model_type": "bert", **small}, "vision_config": {"model_type": "vit", **small}}
    config = {**DEFAULTS_0_1, **backbones}
    model, processor = model_from_scratch(config, ["Kelo sails at dawn", "boat bird"], 32)
    with tempfile.TemporaryDirectory() as folder:
        pipeline(TASK, model=model, processor=processor).save_pretrained(folder)
        code = (
            f"from transformers import pipeline; pipe = pipeline(model={folder!r}, trust_remote_code=True); "
            "pipe({'text': 'Kelo sails at dawn', 'mention': (0, 4)}, candidate_labels=['boat', 'bird'])"
        )
        # Without the package on the path, as whoever loads from the Hub.
        with tempfile.TemporaryDirectory() as elsewhere:
            environment = {**os.environ, "HF_MODULES_CACHE": elsewhere, "PYTHONPATH": ""}
            run = [sys.executable, "-c", code]
            call = lambda: subprocess.run(run, env=environment, cwd=elsewhere, capture_output=True, check=True)  # noqa: E731
            return timed(call, flags.repetitions)


ROWS = {
    "train_fp32": Row("training step, float32", 1.9, "U", train_fp32),
    "train_bf16": Row("training step, bf16 autocast", 1.0, "U", train_bf16),
    "train_cached_bf16": Row("the same, image features from the cache", 0.40, "U", train_cached_bf16),
    "train_real_bf16": Row("cached, lengths of MNRE, dynamic padding", 0.25, "U", train_real_bf16),
    "infer_fp32": Row("inference, 4 labels, label cache warm", 1.01, "U", infer_fp32),
    "infer_best": Row("inference, bf16 autocast", 0.5, "U", infer_best),
    "labels_1000": Row("inference, 1,000 labels, cache warm", 1.05, "x 4 labels", labels_1000),
    "labels_cold": Row("encoding 1,000 labels", 1.2, "x bare encoder", labels_cold),
    "post_16": Row("one post, 4 mentions typed, 12 pairs related", 16 * REFERENCE_CALL / 8, "U", post_16),
    "peak_train_fp32": Row("peak memory of train_fp32", 3.5, "GiB", train_fp32),
    "peak_head": Row("experts, batch 16, 705 tokens, K 8, H 768", HEAD_GIB / 6, "GiB", peak_head),
    "first": Row("new process to first scores of a tiny saved model", None, "s", first),
}


def measure(key, flags):
    """Run one row in this process and print what it found."""
    functions = {**{name: row.function for name, row in ROWS.items()}, "ceiling": ceiling}
    found = functions[key](flags)
    print(json.dumps({**found, "peak_gib": memory("VmHWM")}))
