"""ONNX: the exported folder scores as the model does, with batches, lengths and labels that it was not traced with."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modeling_mgvmoe import GraphExtractor, MGVMoEProcessor, ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.training.build import model_from_scratch
from tests.support.from_scratch import LABELS, RELATIONS, TEXTS, drawing, posts, scratch_config

pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("transformers.exporters.runners", reason="transformers exports since 5.23")

from modeling_mgvmoe.export import OnnxModelForZeroShotIE, check_onnx, export_onnx, onnx_pipeline  # noqa: E402
from modeling_mgvmoe.export.onnx_model import PARTS  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
# Greatest difference of a logit; the largest logits of these models are of order 10.
TOLERANCE = 2e-5
CONFIGS = {
    "additive": {"fusion": "additive"},
    "similarity": {"fusion": "query", "score": "similarity", "type_score_coef": 2.0, "sample_candidate_texts": True},
    "typing only, no experts": {"fusion": "query", "max_mentions": 1, "num_experts": 0},
    "mobilenet": {
        "fusion": "query",
        "vision_config": {"model_type": "mobilenet_v2", "depth_multiplier": 0.1, "image_size": 32, "min_depth": 8},
    },
}


def build(name):
    """A model with its processor; scores far enough from 0 that a wrong input shows."""
    overrides = CONFIGS[name]
    style = "prefix" if overrides.get("score") == "similarity" else "markers"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = scratch_config(**overrides)
        config["text_config"]["num_hidden_layers"] = 1 if name == "similarity" else 2
        model, processor = model_from_scratch(config, TEXTS, 48, mention_style=style)
        if model.similarity is not None:
            model.similarity.gate.data.fill_(0.8)
    return model.eval(), processor


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("export_example", ROOT / "examples" / "export_onnx.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture(scope="module")
def exported_by_the_example(example, tmp_path_factory):
    """What the example returns, and its folder, which holds `model` and its export `onnx`."""
    folder = tmp_path_factory.mktemp("example")
    for part in build("additive"):
        part.save_pretrained(folder / "model")
    return example.main(["--model", str(folder / "model"), "--output_dir", str(folder / "onnx")]), folder


@pytest.fixture(scope="module", params=CONFIGS)
def pipes(request, tmp_path_factory):
    """The pipeline over the model and the one over its export, which takes half a minute."""
    model, processor = build(request.param)
    if request.param == "additive":
        folder = request.getfixturevalue("exported_by_the_example")[1] / "onnx"
    else:
        folder = tmp_path_factory.mktemp("onnx") / "exported"
        export_onnx(model, processor, folder)
    return ZeroShotMultimodalIEPipeline(model=model, processor=processor), onnx_pipeline(folder, device="cpu")


def logits_of(pipe, given, **arguments):
    rankings = pipe(given, function_to_apply="none", **arguments)
    return [{item["label"]: item["score"] for item in ranking} for ranking in rankings]


def assert_close(pipes, given, **arguments):
    ours, theirs = (logits_of(pipe, given, **arguments) for pipe in pipes)
    for own, other in zip(ours, theirs, strict=True):
        assert own.keys() == other.keys()
        for name, score in own.items():
            assert score == pytest.approx(other[name], abs=TOLERANCE)
    return ours


@pytest.mark.slow
def test_any_batch_length_image_and_number_of_labels(pipes):
    pairs = pipes[0].model.config.max_mentions > 1
    given = [post for post in posts() if pairs or ("head" not in post and len(post.get("mentions", [1])) == 1)]
    spread = []
    for batch_size in (1, 2, len(given)):
        spread = assert_close(pipes, given, candidate_labels=LABELS, batch_size=batch_size)
    bare = [{**post, "image": None} for post in given]
    assert spread != logits_of(pipes[0], bare, candidate_labels=LABELS)
    assert_close(pipes, bare, candidate_labels=LABELS, batch_size=3)
    long = {**given[0], "text": given[0]["text"] + " and greets Mura again" * 30}
    assert_close(pipes, [long], candidate_labels=["boat"])
    assert_close(pipes, given, candidate_labels=[f"red {first} {second}" for first in LABELS for second in TEXTS])
    # Every post the same image: it is run once.
    assert_close(pipes, [{**post, "image": drawing(5)} for post in given], candidate_labels=LABELS, batch_size=4)
    sentences = {"boat": ["a boat", "it sails", "harbour"], "bird": "a bird"}
    assert_close(pipes, given, candidate_labels=LABELS, label_descriptions=sentences, batch_size=2)


@pytest.mark.slow
def test_types_of_head_and_tail(pipes):
    if pipes[0].model.config.score != "similarity":
        pytest.skip("only with score='similarity'")
    given = [{**post, "candidate_labels": None} for post in posts()]
    types = {"greets": (["boat", "bird"], "bird"), "chases": ("robot", ["cake", "robot"])}
    bare = logits_of(pipes[0], given, candidate_labels=RELATIONS)
    arguments = {"label_types": types, "type_descriptions": {"robot": ["a robot", "red"]}}
    for batch_size in (1, 5):
        typed = assert_close(pipes, given, candidate_labels=RELATIONS, batch_size=batch_size, **arguments)
    # Pairs, posts 1 and 2, lose by them; other posts have no types.
    moved = [max(abs(own[name] - other[name]) for name in own) for own, other in zip(bare, typed, strict=True)]
    assert [gap > 0.1 for gap in moved] == [False, True, True, False, False]


@pytest.mark.slow
def test_embeddings_may_be_cached_and_are_those_of_the_model(pipes):
    model, exported = (pipe.model for pipe in pipes)
    encoded = dict(pipes[0].processor.encode_candidates([*LABELS, "a red bird"], return_tensors="pt"))
    with torch.no_grad():
        ours = model.get_candidate_embeds(**encoded)
    torch.testing.assert_close(exported.get_candidate_embeds(**encoded), ours, rtol=1e-4, atol=1e-5)
    pixels = torch.from_numpy(np.stack(pipes[0].processor.encode_images([drawing(1), drawing(2), drawing(3)])))
    with torch.no_grad():
        features = model.get_image_features(pixels)
    torch.testing.assert_close(exported.get_image_features(pixels), features, rtol=1e-4, atol=1e-5)
    # Given as they are, in the place of images and words.
    batch = pipes[0].processor(
        text=TEXTS[:3], mentions=[(0, 4), (11, 15), (2, 6)], images=[drawing(1), drawing(2), drawing(3)],
        return_tensors="pt",
    )  # fmt: skip
    expected = exported(**batch, candidate_embeds=ours)
    del batch["pixel_values"]
    found = exported(**batch, image_features=features, candidate_embeds=ours)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        own = model(**batch, image_features=features, candidate_embeds=ours)
    torch.testing.assert_close(found.mention_embeds, own.mention_embeds, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_check_sees_a_difference(pipes):
    found = check_onnx(*pipes)
    assert all(own.within and own.logits < TOLERANCE for own in found)
    assert {own.posts for own in found} >= {1, 4} and {own.labels for own in found} >= {1, 12}
    if pipes[0].model.config.score != "similarity":
        return
    model, processor = build("similarity")
    model.mgvmoe.experts.expert_means.bias.data[3] += 0.5
    other = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    assert not all(own.within for own in check_onnx(other, pipes[1]))


@pytest.mark.slow
def test_the_folder_holds_no_path_of_this_machine_and_names_its_axes(pipes):
    folder = Path(pipes[1].model.name_or_path)
    for path in folder.iterdir():
        content = path.read_bytes()
        assert str(ROOT).encode() not in content and b"site-packages" not in content, path.name
    graph = pipes[1].model.exported.components["mention"].program.graph
    axes = {value.name: [str(size) for size in value.shape] for value in graph.inputs}
    assert axes["input_ids"] == ["posts", "text_tokens"] and axes["image_features"][:2] == ["posts", "image_tokens"]
    assert [str(size) for size in graph.outputs[0].shape][0] == "posts"


@pytest.mark.slow
def test_it_loads_out_of_the_cache_of_the_hub(pipes, tmp_path):
    """There every file is a link to one of another name, also the weights that a graph has beside it."""
    folder, cache = Path(pipes[1].model.name_or_path), tmp_path / "models--me--exported"
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, path in enumerate(folder.iterdir()):
        (cache / "blobs" / str(number)).write_bytes(path.read_bytes())
        (cache / "snapshots" / "abc" / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    given = posts()[:1]
    again = onnx_pipeline("me/exported", cache_dir=tmp_path)
    assert again(given, candidate_labels=LABELS) == pipes[1](given, candidate_labels=LABELS)


@pytest.mark.slow
def test_whole_posts(pipes):
    post = {"text": TEXTS[0], "image": drawing(1), "mentions": [(0, 4), (5, 10)]}
    relations = None if pipes[0].model.config.max_mentions < 2 else RELATIONS
    ours, theirs = (GraphExtractor(pipe.model, pipe.processor, LABELS, relations)([post])[0] for pipe in pipes)
    for part in ("mentions", "relations"):
        for own, other in zip(ours[part], theirs[part], strict=True):
            assert own["label"] == other["label"] and own["score"] == pytest.approx(other["score"], abs=1e-5)


def test_what_an_export_cannot_do_is_refused_in_words():
    model, processor = build("typing only, no experts")
    exported = SimpleNamespace(
        components=dict.fromkeys(PARTS), config=model.config, device=model.device, dtype=model.dtype
    )
    exported = OnnxModelForZeroShotIE(exported)
    batch = processor(text=TEXTS[0], mentions=(0, 4), return_tensors="pt")
    embeds = torch.zeros(2, model.config.hidden_size)
    with pytest.raises(ValueError, match="^num_samples: "):
        exported(**batch, candidate_embeds=embeds, num_samples=3)
    with pytest.raises(ValueError, match="^candidate_types need .*similarity"):
        exported(**batch, candidate_embeds=embeds, candidate_types=torch.ones(2, 2, 1, dtype=torch.bool))
    told = processor(text=TEXTS[0], mentions=(0, 4), image_text="a boat", return_tensors="pt")
    with pytest.raises(ValueError, match="^image_text: this export reads no words for images"):
        exported(**told, candidate_embeds=embeds)
    for options in ({"num_samples": 3}, {"return_embeds": True}):
        with pytest.raises(ValueError, match="^num_samples, return_embeds: "):
            GraphExtractor(exported, processor, LABELS, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["additive", "similarity"])
def test_image_text(name, tmp_path):
    model, processor = build(name)
    export_onnx(model, processor, tmp_path / "onnx", image_text=True)
    pair = (
        ZeroShotMultimodalIEPipeline(model=model, processor=processor),
        onnx_pipeline(tmp_path / "onnx", device="cpu"),
    )
    told = [{**post, "image_text": TEXTS[number % 3]} for number, post in enumerate(posts())]
    bare = [{**post, "image": None} for post in told]
    mixed = [told[0], bare[1], *posts()[2:]]
    found = [
        assert_close(pair, given, candidate_labels=LABELS, batch_size=5) for given in (told, bare, mixed, posts())
    ]
    assert all(own != other for place, own in enumerate(found) for other in found[:place])
    differences = check_onnx(*pair)
    assert "some image texts" in {own.case for own in differences} and all(own.within for own in differences)


def test_folders_and_models_that_cannot_be_exported_or_loaded(tmp_path):
    model, processor = build("typing only, no experts")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("x")
    with pytest.raises(FileExistsError, match="output_dir: .*there is not empty"):
        export_onnx(model, processor, tmp_path / "there")
    with pytest.raises(ValueError, match="model must be in float32 on the CPU to be exported, got bfloat16 on cpu"):
        export_onnx(model.bfloat16(), processor, tmp_path / "new")
    with pytest.raises(OSError, match="export.json"):
        onnx_pipeline(tmp_path / "there")


def test_only_an_export_is_replaced(example, tmp_path, capsys):
    model, processor = build("typing only, no experts")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="only an export is replaced, and .*mine has no export.json"):
        export_onnx(model, processor, tmp_path / "mine", overwrite=True)
    (tmp_path / "model" / "export.json").write_text("{}")
    for folder, message in (("mine", "only an export is replaced"), ("model", "must be another folder")):
        with pytest.raises(SystemExit):
            example.main(["--model", f"{tmp_path}/model", "--output_dir", f"{tmp_path}/{folder}", "--overwrite"])
        assert message in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").exists() and (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_example_exports_and_needs_no_torch_weights(example, exported_by_the_example):
    # That its folder scores as the model does is seen above, where it is the one called additive.
    found, folder = exported_by_the_example
    assert max(own.logits for own in found) < TOLERANCE
    with pytest.raises(SystemExit):
        example.main(["--model", str(folder / "model"), "--output_dir", str(folder / "onnx")])
    names = {path.name for path in (folder / "onnx").iterdir()}
    assert {f"{name}.onnx" for name in ("vision", "mention", "labels", "score")} <= names
    assert not any("safetensors" in name for name in names)
    expected = MGVMoEProcessor.from_pretrained(folder / "model").max_length
    assert MGVMoEProcessor.from_pretrained(folder / "onnx").max_length == expected
