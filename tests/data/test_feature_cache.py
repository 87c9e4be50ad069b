"""The cache of the frozen vision tower: the same features, the same training, nothing that could be stale."""

import copy
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_mgvmoe import MGVMoEForZeroShotIE, MGVMoEProcessor
from modeling_mgvmoe.data import feature_cache
from modeling_mgvmoe.data.encoding import PostCollator, encode_posts, encode_splits
from modeling_mgvmoe.data.feature_cache import ImageFeatureCache, build_feature_cache, tower_fingerprint, write_header
from modeling_mgvmoe.data.post_images import image_key
from modeling_mgvmoe.data.schema import post_features
from modeling_mgvmoe.data.zero_shot_data import ZeroShotData
from modeling_mgvmoe.inference.predict import predict_labels
from modeling_mgvmoe.training import loop
from modeling_mgvmoe.training.arguments import DataArguments, TrainingArguments
from modeling_mgvmoe.training.build import load_feature_cache, model_from_scratch
from modeling_mgvmoe.training.loop import train
from tests.support.from_scratch import drawing, scratch_config, scratch_model
from tests.support.small_runs import TERMS, small_data

ROOT = Path(__file__).resolve().parents[2]
LABELS = {"train": ["boat", "bird"], "validation": ["cake"], "test": ["robot"]}


def post(number, image, label="boat"):
    text = f"we all saw Kelo sail at dawn {'again ' * (number % 3)}"
    return {"id": str(number), "text": text, "mentions": [[11, 15]], "label": label, "image": image}


def all_posts():
    """Nine distinct images in 14 posts; two posts share one, three have none."""
    drawings = [drawing(seed) for seed in range(8)] + [drawing(0), None, drawing(9), None]
    train_posts = [post(n, image, LABELS["train"][n % 2]) for n, image in enumerate(drawings)]
    return {
        "train": train_posts,
        "validation": [post(20, drawing(1), "cake")],
        "test": [post(30, None, "robot")],
    }


def contents(folder):
    return {name: (Path(folder) / name).read_bytes() for name in sorted(os.listdir(folder))}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A complete cache, the model and processor that made it, and the summary."""
    folder = tmp_path_factory.mktemp("cache") / "features"
    model, processor = scratch_model()
    summary = build_feature_cache(folder, all_posts(), model, processor, batch_size=2, shard_size=4)
    return str(folder), model, processor, summary


@pytest.fixture
def copied(built, tmp_path):
    shutil.copytree(built[0], tmp_path / "cache")
    return tmp_path / "cache"


def rewrite_header(folder, **changes):
    """A header that is whole in itself but says something else."""
    header = json.loads((folder / "header.json").read_text("utf-8"))
    header.pop("sha256")
    write_header(str(folder), {**header, **changes})


# What is in it


def test_each_distinct_image_is_there_once_with_the_towers_features(built):
    folder, model, processor, summary = built
    assert summary == {"records": 14, "with_picture": 11, "distinct": 9, "without": 3, "missing": 0, "broken": 0}
    assert sorted(os.listdir(folder)) == ["header.json", *(f"shard-0000{n}.npy" for n in range(3))]
    cache = ImageFeatureCache(folder)
    assert (len(cache), cache.tokens, cache.width, cache.header["dtype"]) == (9, 5, 24, "float16")
    images = [drawing(seed) for seed in (9, 0, 5, 0)]
    features = cache.read([cache.row_of(image) for image in images])
    pixel_values = torch.tensor(np.stack(processor.encode_images(images)))
    expected = model.get_image_features(pixel_values).detach().numpy()
    assert features.dtype == np.float16
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=2e-3)
    assert features[1].tobytes() == features[3].tobytes() != features[0].tobytes()
    # Plain NumPy files: anything can map them.
    mapped = np.load(Path(folder) / "shard-00000.npy", mmap_mode="r")
    assert mapped.shape == (4, 5, 24)
    np.testing.assert_array_equal(mapped[0], features[1])


def test_the_tower_runs_once_a_distinct_image(tmp_path, monkeypatch):
    model, processor = scratch_model()
    sizes = []
    original = model.get_image_features

    def count(pixels):
        sizes.append(len(pixels))
        assert not model.mgvmoe.vision_model.training  # dropout
        return original(pixels)

    monkeypatch.setattr(model, "get_image_features", count)
    model.train()
    model.mgvmoe.vision_model.train()  # as it is in a new model
    build_feature_cache(tmp_path / "cache", all_posts(), model, processor, batch_size=3, shard_size=5)
    assert sizes == [3, 2, 3, 1]
    assert model.training
    build_feature_cache(tmp_path / "cache", all_posts(), model, processor, batch_size=3, shard_size=5)
    assert len(sizes) == 4


def test_the_key_is_the_image_not_its_file(tmp_path):
    image = drawing(3)
    assert image_key(image) == image_key(image.copy())
    assert image_key(image) != image_key(drawing(4))
    # The same bytes in another shape are another image.
    assert image_key(image) != image_key(Image.frombytes("RGB", image.size[::-1], image.tobytes()))
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    model, processor = scratch_model()
    same = [post(0, str(tmp_path / "a.png")), post(1, str(tmp_path / "b.bmp")), post(2, image)]
    assert build_feature_cache(tmp_path / "cache", {"train": same}, model, processor)["distinct"] == 1


def test_missing_and_broken_images_are_counted_and_taken_as_none(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = [
        post(0, {"bytes": None, "path": str(tmp_path / "nowhere.png")}),
        post(1, {"bytes": b"no image either", "path": None}),
        post(2, {"bytes": (tmp_path / "broken.png").read_bytes(), "path": None}),
        post(3, None),
        post(4, drawing(1)),
    ]
    columns = {name: [row.get(name, "") for row in rows] for name in post_features()}
    data_set = datasets.Dataset.from_dict(columns, features=post_features())
    model, processor = scratch_model()
    summary = build_feature_cache(tmp_path / "cache", {"train": data_set}, model, processor)
    assert summary == {"records": 5, "with_picture": 1, "distinct": 1, "without": 1, "missing": 1, "broken": 2}
    cache = ImageFeatureCache(tmp_path / "cache")
    for key, given in (("image_row", cache), ("pixel_values", None)):
        with pytest.warns(
            UserWarning, match="3 posts have an .* missing or broken.*: 0 .missing., 1 .broken., 2 .broken.$"
        ):
            encoded = encode_posts(data_set, processor, feature_cache=given)
        assert [key in row for row in encoded] == [False, False, False, False, True]


# Training from it


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_batches_carry_features_in_place_of_pixels(built, return_tensors):
    folder, _, processor, _ = built
    cache = ImageFeatureCache(folder)
    encoded = encode_posts(all_posts()["train"], processor, feature_cache=cache)
    collator = PostCollator(processor, {"typing": LABELS["train"]}, feature_cache=cache)
    batch = collator([encoded[8], encoded[9], encoded[10]])
    assert "pixel_values" not in batch
    assert batch["image_features"].shape == (3, 5, 24)
    assert batch["image_features"].dtype == torch.float16
    assert batch["image_mask"].tolist() == [True, False, True]
    assert not batch["image_features"][1].any()
    np.testing.assert_array_equal(batch["image_features"][0], cache.read([cache.row_of(drawing(0))])[0])
    assert not {"image_features", "pixel_values", "image_mask"} & set(collator([encoded[9], encoded[11]]))
    padded = processor.pad_posts([{"image_features": np.ones((5, 24), np.float16)}, {}], return_tensors=return_tensors)
    assert padded["image_features"].shape == (2, 5, 24)
    with pytest.raises(ValueError, match="post '8' was encoded with one, got a collator without"):
        PostCollator(processor, {"typing": LABELS["train"]})([encoded[8]])
    with pytest.raises(ValueError, match="pixel_values and image_features exclude each other"):
        processor.pad_posts([{"image_features": np.ones((5, 24))}, {"pixel_values": np.ones((3, 16, 16))}])
    with pytest.raises(ValueError, match=r"image_features: images of one size are needed \(got \[\(4, 24\), \(5"):
        processor.pad_posts([{"image_features": np.ones((5, 24))}, {"image_features": np.ones((4, 24))}])


def run_training(folder, monkeypatch, cache):
    """Losses of each step, all terms of E12, and the trained model."""
    losses = []
    model, processor = scratch_model()

    def record(module, arguments, output):
        if module.training and output.loss is not None:
            losses.append([output[name].item() for name in ("loss", *TERMS)])

    model.register_forward_hook(record)
    posts = all_posts()
    data = ZeroShotData(posts, {split: {"typing": tuple(names)} for split, names in LABELS.items()})
    arguments = TrainingArguments(
        output_dir=str(folder), max_train_steps=12, per_device_train_batch_size=4, learning_rate=1e-3, eval_steps=12
    )
    if cache is not None:
        monkeypatch.setattr(model.mgvmoe.vision_model, "forward", None)  # it must not run
    train(model, processor, data, arguments, feature_cache=cache)
    return np.array(losses), model, processor


@pytest.mark.slow
def test_training_from_the_cache_gives_the_losses_and_logits_of_training_from_pixels(built, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        losses, model, processor = run_training(tmp_path / "pixels", patch, None)
    cache = load_feature_cache(DataArguments(image_feature_cache=built[0]))
    with monkeypatch.context() as patch:
        cached_losses, cached_model, _ = run_training(tmp_path / "cached", patch, cache)
    assert losses.shape == (12, 1 + len(TERMS))
    assert np.ptp(losses[:, 0]) > 0.1  # something was learned
    np.testing.assert_allclose(cached_losses, losses, rtol=1e-3, atol=1e-5)
    # The cache made a difference, if a small one: it is not pixels compared with themselves.
    assert np.abs(cached_losses - losses).max() > 0

    posts = all_posts()["train"]
    labels = {"typing": LABELS["train"]}
    batches = [
        PostCollator(processor, labels, feature_cache=source)(encode_posts(posts, processor, feature_cache=source))
        for source in (None, cache)
    ]
    cached_model.mgvmoe.vision_model.__dict__.pop("forward", None)
    with torch.no_grad():
        logits = [each.eval()(**batch).logits for each, batch in zip((model, cached_model), batches, strict=True)]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-3, atol=1e-3 * logits[0].abs().max().item())
    collator = PostCollator(processor, labels, feature_cache=cache)
    encoded = encode_posts(posts, processor, feature_cache=cache)
    names = collator.candidate_labels
    assert predict_labels(cached_model, encoded, collator, 5) == [names[best] for best in logits[1].argmax(-1)]


def test_a_saved_model_and_processor_are_the_ones_that_made_the_cache(built, tmp_path):
    folder, model, processor, _ = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = MGVMoEForZeroShotIE.from_pretrained(tmp_path), MGVMoEProcessor.from_pretrained(tmp_path)
    ImageFeatureCache(folder).check(*loaded)
    assert load_feature_cache(DataArguments()) is None


# What is refused


def test_another_tower_preprocessing_or_a_trained_tower_is_refused(built, tmp_path):
    folder, _, _, _ = built
    cache = ImageFeatureCache(folder)
    model, processor = scratch_model()
    cache.check(model, processor)
    with torch.no_grad():
        model.mgvmoe.text_model.embeddings.word_embeddings.weight.add_(1)  # no part of the tower
    cache.check(model, processor)

    processor.image_processor.image_mean = [0.5, 0.5, 0.4]
    with pytest.raises(ValueError, match=r"header.json: preprocessing.image_mean was .*0.5\] and is .*0.4"):
        cache.check(model, processor)
    _, processor = scratch_model()
    known = tower_fingerprint(model)
    with torch.no_grad():
        model.mgvmoe.vision_model.layernorm.bias[3] += 1e-6
    other = tower_fingerprint(model)
    with pytest.raises(ValueError, match=f"header.json: tower was '{known}' and is '{other}'"):
        cache.check(model, processor)
    model, _ = scratch_model()
    model.config.vision_config.hidden_act = "relu"
    with pytest.raises(ValueError, match="header.json: tower was"):
        cache.check(model, processor)
    model, _ = scratch_model()
    model.config.freeze_vision = False
    message = r"freeze_vision must be true with image_feature_cache.*\(got False\)"
    data = ZeroShotData(all_posts(), {split: {"typing": tuple(names)} for split, names in LABELS.items()})
    with pytest.raises(ValueError, match=message):
        train(model, processor, data, TrainingArguments(output_dir=str(tmp_path / "run")), feature_cache=cache)
    with pytest.raises(ValueError, match=message):
        build_feature_cache(tmp_path / "cache", all_posts(), model, processor)


def test_an_image_that_is_not_in_it_is_refused(built):
    folder, _, processor, _ = built
    rows = [post(0, drawing(0)), post(1, drawing(99))]
    key = image_key(drawing(99))
    with pytest.raises(ValueError, match=f"header.json: images: the image of post '1' is not among the 9.*{key}"):
        encode_posts(rows, processor, feature_cache=ImageFeatureCache(folder))


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [-1, 200])
def test_one_flipped_bit_in_the_features_is_refused(copied, place):
    flip(copied / "shard-00001.npy", place)
    with pytest.raises(ValueError, match=r"shard-00001.npy: corrupt, its sha256 must be \w{64}, got \w{64}"):
        ImageFeatureCache(copied)


def test_a_corrupt_head_truncation_and_a_missing_shard_are_refused(copied):
    path = copied / "shard-00001.npy"
    whole = path.read_bytes()
    cache = ImageFeatureCache(copied)
    path.write_bytes(whole[:-2])
    with pytest.raises(ValueError, match="shard-00001.npy: truncated or corrupt"):
        ImageFeatureCache(copied, verify=False)
    with pytest.raises(ValueError, match="shard-00001.npy: truncated"):  # also after it was opened
        cache.read([5])
    assert cache.read([0]).any()
    with pytest.raises(ValueError, match=r"rows: they must be in \[0, 9\), got 9"):
        cache.read([9])
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="shard-00001.npy: corrupt, its sha256"):
        ImageFeatureCache(copied)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="shard-00001.npy: truncated or corrupt"):
        ImageFeatureCache(copied)
    path.write_bytes(whole)
    shutil.copy(copied / "shard-00002.npy", path)
    with pytest.raises(ValueError, match=r"shard-00001.npy: shape must be \(4, 5, 24\), got \(1, 5, 24\)"):
        ImageFeatureCache(copied)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="shard-00001.npy does not exist, but .*header.json lists it"):
        ImageFeatureCache(copied)


def test_a_corrupt_header_or_one_of_another_format_is_refused(copied, tmp_path):
    path = copied / "header.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"width": 24', b'"width": 25'))
    with pytest.raises(ValueError, match=r"header.json: corrupt, its sha256 must be '\w{64}', got '\w{64}'"):
        ImageFeatureCache(copied)
    for content in (b"", whole[:-40], b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="header.json: corrupt: .*a JSON file is needed"):
            ImageFeatureCache(copied)
    path.write_bytes(b"[]")
    with pytest.raises(ValueError, match=r"header.json: corrupt: .* a JSON object is needed, got \[\]"):
        ImageFeatureCache(copied)
    for name, value in (("version", 2), ("format", "other")):
        path.write_bytes(whole)
        rewrite_header(copied, **{name: value})
        with pytest.raises(ValueError, match=f"header.json: {name} must be .*, got {value!r}"):
            ImageFeatureCache(copied)
    path.write_bytes(whole)
    rewrite_header(copied, pictures=["a"])
    with pytest.raises(ValueError, match="header.json: the shards hold 9 images, got 1 keys"):
        ImageFeatureCache(copied)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="header.json does not exist; make the cache with examples/prepare"):
        ImageFeatureCache(copied)


# Stopping and going on


class Killed(BaseException):
    """Stands for SIGKILL: nothing that runs afterwards tidies up."""


def kill_at(patch, number):
    """Stop at the n-th operation on a file."""
    count = {"calls": 0, "renamed": []}
    for name in ("replace", "fsync", "remove"):
        original = getattr(os, name)

        def operation(*arguments, original=original):
            count["calls"] += 1
            count["renamed"] += [os.path.basename(path) for path in arguments[1:]]
            if count["calls"] == number:
                raise Killed
            return original(*arguments)

        patch.setattr(feature_cache.os, name, operation)
    return count


def test_killed_at_any_file_operation_and_started_again_it_ends_with_the_same_bytes(built, tmp_path, monkeypatch):
    folder, model, processor, summary = built
    expected = contents(folder)
    with monkeypatch.context() as patch:
        count = kill_at(patch, 0)
        build_feature_cache(tmp_path / "count", all_posts(), model, processor, batch_size=2, shard_size=4)
    assert count["calls"] > 15
    assert set(expected) < set(count["renamed"])  # no file is written under its own name
    for number in range(1, count["calls"] + 1):
        target = tmp_path / str(number)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, number)
            build_feature_cache(target, all_posts(), model, processor, batch_size=2, shard_size=4)
        assert build_feature_cache(target, all_posts(), model, processor, batch_size=2, shard_size=4) == summary
        assert contents(target) == expected


def test_killed_between_batches_only_that_shard_is_made_again(built, tmp_path, monkeypatch):
    folder, model, processor, _ = built
    calls = []
    original = model.get_image_features

    def stop(pixels):
        calls.append(len(pixels))
        if len(calls) == 4:
            raise Killed
        return original(pixels)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(model, "get_image_features", stop)
        build_feature_cache(tmp_path / "cache", all_posts(), model, processor, batch_size=2, shard_size=4)
    with pytest.raises(FileNotFoundError, match="header.json does not exist; the cache is not complete: run .* again"):
        ImageFeatureCache(tmp_path / "cache")
    calls.clear()
    calls.extend([0] * 10)
    with monkeypatch.context() as patch:
        patch.setattr(model, "get_image_features", stop)
        build_feature_cache(tmp_path / "cache", all_posts(), model, processor, batch_size=2, shard_size=4)
    assert len(calls) - 10 == 3  # of five batches, the first shard's two were there
    assert contents(tmp_path / "cache") == contents(folder)


def test_going_on_with_something_else_is_refused(built, copied, tmp_path, monkeypatch):
    _, model, processor, _ = built
    settings = {"batch_size": 2, "shard_size": 4}
    with pytest.raises(ValueError, match=r"header.json: batch_size was 2 and is 3\. Choose another folder"):
        build_feature_cache(copied, all_posts(), model, processor, **{**settings, "batch_size": 3})
    fewer = {**all_posts(), "validation": [post(20, drawing(50), "cake")]}
    with pytest.raises(ValueError, match="header.json: pictures was '9 of them, .* and is '10 of them"):
        build_feature_cache(copied, fewer, model, processor, **settings)
    other, _ = scratch_model()
    with torch.no_grad():
        other.mgvmoe.vision_model.layernorm.bias[0] += 1
    # Not complete: a plan and the first shard.
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 10)
        build_feature_cache(tmp_path / "part", all_posts(), model, processor, **settings)
    assert "shard-00000.npy" in os.listdir(tmp_path / "part")
    with pytest.raises(ValueError, match="plan.json: tower was"):
        build_feature_cache(tmp_path / "part", all_posts(), other, processor, **settings)
    # Nothing is lost yet: another batch size is taken, as after running out of memory in the first one.
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 4)
        build_feature_cache(tmp_path / "none", all_posts(), model, processor, **settings)
    build_feature_cache(tmp_path / "none", all_posts(), model, processor, batch_size=1, shard_size=4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine must be empty or hold a cache, got \['letter.txt'\]"):
        build_feature_cache(tmp_path / "mine", all_posts(), model, processor)


def test_a_second_run_into_the_folder_and_wrong_arguments_are_refused(tmp_path):
    model, processor = scratch_model()
    (tmp_path / "cache").mkdir()
    with (
        feature_cache.locked(str(tmp_path / "cache")),
        pytest.raises(FileExistsError, match="folder: a run that is still alive, .* is writing to .*cache"),
    ):
        build_feature_cache(tmp_path / "cache", all_posts(), model, processor)
    for name, value in (("batch_size", 0), ("shard_size", 0), ("num_workers", -1)):
        with pytest.raises(ValueError, match=f"{name} must be at least {int(value == 0)}, got {value}"):
            build_feature_cache(tmp_path / "cache", all_posts(), model, processor, **{name: value})
    with pytest.raises(ValueError, match="at least one image that can be read is needed, got .*'without': 1"):
        build_feature_cache(tmp_path / "cache", {"train": [post(0, None)]}, model, processor)
    with torch.no_grad():
        model.mgvmoe.vision_model.layernorm.bias[0] = 1e6
    with pytest.raises(ValueError, match=r"must be finite in half precision, got others for .* sha256 \w{64}"):
        build_feature_cache(tmp_path / "cache", all_posts(), model, processor)


def test_workers_and_several_processes_give_the_same_bytes(built, tmp_path):
    folder, model, processor, summary = built

    posts = all_posts()

    def second():
        plan = json.loads((tmp_path / "cache" / "plan.json").read_text("utf-8"))
        feature_cache._fill(str(tmp_path / "cache"), plan, posts, model, processor, 0, 1, 2, False)

    class First:
        """State of the first of two processes; the second does its work while the first waits for it."""

        process_index, num_processes, waits = 0, 2, 0

        def wait_for_everyone(self):
            self.waits += 1
            if self.waits == 2:
                assert not (tmp_path / "cache" / "shard-00001.npy").exists()  # it is the other's
                second()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, about fork in a process with threads
        found = build_feature_cache(
            tmp_path / "cache", posts, model, processor, batch_size=2, shard_size=4, num_workers=1, state=First()
        )
    assert found == summary
    assert contents(tmp_path / "cache") == contents(folder)


# The command


def test_the_command_needs_a_folder():
    main = runpy.run_path(str(ROOT / "examples" / "prepare_data.py"))["main"]
    recipe = str(ROOT / "configuration" / "recipes" / "sketchbook.yaml")
    with pytest.raises(SystemExit, match=r"a folder is needed, here or as image_feature_cache.*\(got none"):
        main(["--cache-image-features", "--config", recipe])


def command(folder, *flags):
    recipe = ROOT / "configuration" / "recipes" / "sketchbook_cached.yaml"
    return [str(ROOT / "examples" / "prepare_data.py"), "--cache-image-features", str(folder), "--config", str(recipe),
            "--posts_per_class", "3", "--eval_posts_per_class", "1", "--shard_size", "16", *flags]  # fmt: skip


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_the_command_under_sigkill_and_in_two_processes_gives_the_same_bytes(tmp_path):
    done = subprocess.run(
        [sys.executable, *command(tmp_path / "one")], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "288 records: 288 with an image (288 distinct)" in done.stdout
    expected = contents(tmp_path / "one")
    for delay in (0.0, 0.2):
        folder = tmp_path / f"killed-{delay}"
        process = subprocess.Popen([sys.executable, *command(folder)], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (folder / "plan.json").exists():
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "header.json").exists() or delay > 0
        subprocess.run([sys.executable, *command(folder)], env=ENVIRONMENT, capture_output=True, check=True)
        assert contents(folder) == expected
    launcher = ["-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        [sys.executable, *launcher, *command(tmp_path / "two")], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert contents(tmp_path / "two") == expected


@pytest.mark.slow
def test_reading_random_batches_holds_little_memory(tmp_path):
    """A gibibyte of features; `benchmarks/feature_cache.py` has the same with 9,000 images."""
    script = str(ROOT / "benchmarks" / "feature_cache.py")
    flags = ["--images", "1200", "--batches", "60", "--folder", str(tmp_path / "cache")]
    subprocess.run([sys.executable, script, "--json", str(tmp_path / "row.json"), *flags], env=ENVIRONMENT, check=True)
    row = json.loads((tmp_path / "row.json").read_text("utf-8"))
    assert row["cache_gib"] > 0.99
    assert row["distinct_images_read"] > 800
    assert row["peak_rss_mib"] < 1024
    assert row["peak_rss_mib"] - row["rss_after_imports_mib"] < 300
    assert not (tmp_path / "cache").exists()


def residual_trainee(**overrides):
    config = scratch_config(
        expert_type="residual", score="similarity", objective="cross_entropy", adversary="none", freeze_text=True,
        expert_prior_std=0.1, **overrides,
    )  # fmt: skip
    torch.manual_seed(0)
    model, processor = model_from_scratch(config, small_data().training_texts(), max_length=48, mention_style="prefix")
    return model.double(), processor


def test_training_is_the_same_with_and_without(tmp_path, monkeypatch):
    model, processor = residual_trainee()
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "with"), max_train_steps=4, per_device_train_batch_size=4, eval_steps=4,
        learning_rate=1e-2, mixed_precision="no",
    )  # fmt: skip
    with_cache, without = copy.deepcopy(model), copy.deepcopy(model)
    loop.train(with_cache, processor, small_data(), arguments)
    monkeypatch.setattr(loop, "cache_states", lambda *arguments: None)
    arguments.output_dir = str(tmp_path / "without")
    loop.train(without, processor, small_data(), arguments)
    before = model.state_dict()
    for (name, value), other in zip(with_cache.state_dict().items(), without.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-9)
        assert ("text_model" in name) <= torch.equal(value, before[name])
    assert not torch.equal(with_cache.mgvmoe.experts.expert_means, model.mgvmoe.experts.expert_means)


def test_only_of_a_frozen_encoder_behind_residual_experts():
    model, _ = residual_trainee()
    assert feature_cache.caches_states(model)
    model.mgvmoe.text_model.requires_grad_(True)
    assert not feature_cache.caches_states(model)


def test_batches_hold_states_instead_of_tokens():
    model, processor = residual_trainee()
    encoded, collators = encode_splits(small_data(), processor, ("train",), with_types=True)
    feature_cache.cache_states(model, encoded, collators)
    batch = collators["train"](encoded["train"][:3])
    assert not any(name.endswith("input_ids") for name in batch)
    assert batch["post_states"].shape == (3, 4, model.config.hidden_size)
    assert len(batch["candidate_states"]) == len(collators["train"].candidate_labels)
    assert model(**batch).loss.isfinite()
