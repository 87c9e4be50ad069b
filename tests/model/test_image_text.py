"""Words for a post's image: their way through processor, model, pipelines and extraction, and captions on request."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    ViTImageProcessorPil,
    pipeline,
)

from modeling_mgvmoe import MGVMoEConfig, MGVMoEProcessor
from modeling_mgvmoe.data.encoding import PostCollator, encode_posts, image_token_mask
from modeling_mgvmoe.data.fingerprint import identity
from modeling_mgvmoe.evaluation.explanation import expert_usage, explain_post
from modeling_mgvmoe.extraction import GraphExtractor, extract
from modeling_mgvmoe.handler import EndpointHandler
from modeling_mgvmoe.inference.predict import seen_as
from modeling_mgvmoe.pipeline_mgvmoe import GRAPH_TASK, TASK, ImageCaptioner
from modeling_mgvmoe.spans import join_image_texts, read_image_text
from tests.support.from_scratch import LABELS, RELATIONS, drawing, nearly, scratch_model, scratch_similarity
from tests.support.tiny import doubled, tiny_inputs, tiny_model, with_mentions

MISSING = [None, "", " \n", [], ["", "  "], [None], float("nan"), np.array([], dtype=object)]
TEXT, MENTION = "Kelo sails at dawn", (0, 4)
WORDS = "a boat in the harbour"
CONFIGS = [
    {"score": score, "fusion": fusion}
    for score, fusion in (("projection", "additive"), ("projection", "query"), ("similarity", "query"))
]


def inputs_for(model, **more):
    """Four posts: pixels and words, neither, pixels only, words only."""
    inputs = doubled(tiny_inputs(model.config, labels=False))
    inputs["image_mask"] = torch.tensor([True, False, True, False])
    if model.config.score == "similarity":
        inputs = with_mentions(inputs)
    return {**inputs, **image_text_for(), **more}


def image_text_for(seed=0, width=6):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[1] * width, [0] * width, [0] * width, [1, 1, 1] + [0] * (width - 3)])
    ids = torch.randint(5, 99, (4, width), generator=generator) * mask
    return {"image_text_input_ids": ids, "image_text_attention_mask": mask}


def without_image_text(inputs):
    return {name: value for name, value in inputs.items() if not name.startswith("image_text_")}


PER_POST = ("input_ids", "attention_mask", "mention_positions", "mention_mask", "pixel_values", "image_mask",
            "image_text_input_ids", "image_text_attention_mask")  # fmt: skip


def alone(inputs, row):
    """One post of a batch, with what it has of an image only."""
    own = {name: value[row : row + 1] if name in PER_POST else value for name, value in inputs.items()}
    if not bool(own["image_mask"].any()):
        del own["pixel_values"], own["image_mask"]
    return own if bool(own["image_text_attention_mask"].any()) else without_image_text(own)


def tiny(**config):
    model = tiny_model(**config).double()
    if model.similarity is not None:
        model.similarity.gate.data.fill_(0.7)
    return model


class TestModel:
    @pytest.mark.parametrize("config", CONFIGS, ids=str)
    @torch.no_grad()
    def test_a_mixed_batch_is_each_post_alone(self, config):
        model = tiny(**config)
        inputs = inputs_for(model)
        logits = model(**inputs, num_samples=2).logits
        for row in range(4):
            torch.testing.assert_close(model(**alone(inputs, row)).logits[0], logits[row], rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("config", CONFIGS, ids=str)
    @torch.no_grad()
    def test_words_count_and_only_for_their_own_post(self, config):
        model = tiny(**config)
        inputs = inputs_for(model)
        logits, bare = model(**inputs).logits, model(**without_image_text(inputs)).logits
        swapped = {name: value[[3, 1, 2, 0]] for name, value in image_text_for().items()}
        other = model(**{**inputs, **swapped}).logits
        for row, has_words in enumerate((True, False, False, True)):
            assert has_words != torch.allclose(logits[row], bare[row], rtol=0, atol=1e-10)
            assert has_words != torch.allclose(logits[row], other[row], rtol=0, atol=1e-10)

    @pytest.mark.parametrize("config", CONFIGS, ids=str)
    @torch.no_grad()
    def test_padding_takes_part_in_nothing(self, config):
        model = tiny(**config)
        inputs = inputs_for(model)
        expected = model.mgvmoe(**posts_only(inputs), return_losses=True)
        wider = {name: torch.nn.functional.pad(value, (0, 3)) for name, value in image_text_for().items()}
        # What a masked token is makes no difference.
        wider["image_text_input_ids"] = wider["image_text_input_ids"].where(
            wider["image_text_attention_mask"].bool(), torch.tensor(77)
        )
        found = model.mgvmoe(**posts_only({**inputs, **wider}), return_losses=True)
        assert expected.image_mask.tolist() == [True, False, True, True]
        assert expected.fusion_attentions[1].nonzero().min() >= expected.image_router_probs.shape[1]
        for name in ("fused_embeds", "image_embeds", "image_text_embeds", "kl_loss", "router_entropy_loss"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)
        # Posts without image text have a vector of zeros, and those without any image no vector of an image.
        assert not expected.image_text_embeds[1:3].any() and expected.image_text_embeds[[0, 3]].any(1).all()
        assert not expected.image_embeds[1].any()

    @pytest.mark.parametrize("config", CONFIGS, ids=str)
    def test_posts_without_image_text_keep_every_bit(self, config):
        model = tiny_model(**config)  # in single precision, as models are
        inputs = tiny_inputs(model.config)
        inputs = with_mentions(inputs) if model.config.score == "similarity" else inputs
        empty = {
            "image_text_input_ids": torch.zeros(4, 3, dtype=torch.long),
            "image_text_attention_mask": torch.zeros(4, 3, dtype=torch.long),
        }
        expected, found = model(**inputs), model(**inputs, **empty)
        assert torch.equal(found.logits, expected.logits) and torch.equal(found.loss, expected.loss)
        output = model.mgvmoe(**posts_only({**inputs, **empty}))
        assert output.image_text_embeds is None
        assert output.image_router_probs.shape[1] == 5  # the pixels' tokens alone

    def test_no_parameter_is_new(self):
        with_weight, without = (tiny_model(score="similarity", image_text_weight=w) for w in (0.5, 0.0))
        assert with_weight.state_dict().keys() == without.state_dict().keys()

    @torch.no_grad()
    def test_the_direction_of_a_post(self):
        model = tiny(score="similarity", image_text_weight=0.3, mention_weight=0.25)
        inputs = inputs_for(model)
        output = model.mgvmoe(**posts_only(inputs))
        unit = torch.nn.functional.normalize
        expected = []
        for row in range(4):
            mask = inputs["attention_mask"][row].bool()
            mentions = inputs["mention_mask"][row]
            weight = 0.25 if int(mentions.any(-1).sum()) == 1 else 0.0
            states = output.text_states[row]
            own = (1 - weight) * unit(states[mask].mean(0), dim=0)
            own = own + weight * unit(states[mentions[0]].mean(0), dim=0)
            words = inputs["image_text_attention_mask"][row].bool()
            if words.any():
                ids = inputs["image_text_input_ids"][row][words][None]
                own = own + 0.3 * unit(model.mgvmoe.text_model(ids).last_hidden_state[0].mean(0), dim=0)
            expected.append(unit(own, dim=0))
        model.similarity.gate.data.zero_()
        posts = model.encode_posts(**{name: inputs[name] for name in PER_POST})
        torch.testing.assert_close(posts.mention_embeds, torch.stack(expected), rtol=1e-6, atol=1e-6)

    def test_training_reaches_the_words_and_every_parameter(self):
        model = tiny(score="similarity", freeze_vision=False).train()
        inputs = inputs_for(model)
        del inputs["pixel_values"], inputs["image_mask"]
        output = model(**inputs, labels=torch.tensor([0, 1, 2, 3]))
        output.loss.backward()
        assert output.alignment_loss > 0
        # Data parallel wrappers wait for the gradient of every parameter, those of the pixels' side included.
        missing = [name for name, own in model.named_parameters() if own.requires_grad and own.grad is None]
        assert not missing

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"image_text_input_ids": torch.ones(3, 2, dtype=torch.long)}, "image_text_input_ids must have one row"),
            ({"image_text_input_ids": torch.ones(4, dtype=torch.long)}, "image_text_input_ids must be"),
            ({"image_text_input_ids": torch.full((4, 2), 99)}, "image_text_input_ids must be in"),
            ({"image_text_input_ids": torch.ones(4, 99, dtype=torch.long)}, "image_text_input_ids must have at most"),
            ({"image_text_input_ids": ["a boat"]}, "image_text_input_ids must be a tensor"),
            ({"image_text_attention_mask": torch.ones(4, 2)}, "image_text_attention_mask came, but not"),
            (
                {"image_text_input_ids": torch.ones(4, 2, dtype=torch.long),
                 "image_text_attention_mask": torch.ones(4, 3)},
                "image_text_attention_mask must be",
            ),
        ],
    )  # fmt: skip
    def test_wrong_inputs_are_named(self, arguments, message):
        model = tiny()
        with pytest.raises(ValueError, match=message):
            model(**without_image_text(inputs_for(model)), **arguments)

    @pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan"), "0.1"])
    def test_the_weight_is_checked(self, weight):
        with pytest.raises(Exception, match="image_text_weight"):
            MGVMoEConfig(image_text_weight=weight)


def posts_only(inputs):
    return {name: inputs[name] for name in PER_POST if name in inputs and name != "mention_mask"}


class TestProcessor:
    @pytest.fixture
    def processor(self):
        return scratch_model()[1]

    @pytest.mark.parametrize("missing", MISSING, ids=repr)
    def test_what_holds_no_words_is_none(self, processor, missing):
        expected = processor(text=TEXT, mentions=MENTION)
        assert dict(processor(text=TEXT, mentions=MENTION, image_text=missing)) == dict(expected)
        assert not read_image_text(missing)
        batch = processor(text=[TEXT] * 2, mentions=[MENTION] * 2, image_text=[missing, WORDS], return_tensors="pt")
        assert batch["image_text_attention_mask"].any(1).tolist() == [False, True]

    def test_several_texts_are_one(self, processor):
        assert join_image_texts(["a boat", "Why?", " a bird.", "x"]) == "a boat. Why?  a bird. x"
        both = processor(text=TEXT, mentions=MENTION, image_text=["a boat", " ", "a boat", "a bird"])
        assert dict(both) == dict(processor(text=TEXT, mentions=MENTION, image_text="a boat. a bird"))
        assert dict(both) == dict(processor(text=[TEXT], mentions=[MENTION], image_text=[["a boat", "a bird"]]))
        assert dict(both) == dict(processor(text=TEXT, mentions=MENTION, image_text=[["a boat", "a bird"]]))
        (row,) = both["image_text_input_ids"]
        written = processor.tokenizer.decode(row, skip_special_tokens=True)
        assert written.replace(".", " ").split() == ["a", "boat", "a", "bird"]

    def test_long_words_are_cut(self, processor):
        processor.image_text_max_length = 7
        batch = processor(text=TEXT, mentions=MENTION, image_text="a boat " * 50)
        (row,) = batch["image_text_input_ids"]
        assert len(row) == 7 and row[0] == batch["input_ids"][0][0] and row[-1] == batch["input_ids"][0][-1]
        padded = processor(
            text=[TEXT] * 2, mentions=[MENTION] * 2, image_text=["a", None], padding="max_length", return_tensors="pt"
        )
        assert padded["image_text_input_ids"].shape == (2, 7)

    def test_special_tokens_in_words_are_words(self, processor):
        (row,) = processor(text=TEXT, mentions=MENTION, image_text="a [SEP] boat")["image_text_input_ids"]
        assert row.count(processor.tokenizer.sep_token_id) == 1

    def test_the_limit_is_saved(self, processor, tmp_path):
        assert processor.image_text_max_length == 64
        processor.image_text_max_length = 9
        processor.save_pretrained(tmp_path)
        assert MGVMoEProcessor.from_pretrained(tmp_path).image_text_max_length == 9
        with pytest.raises(ValueError, match="image_text_max_length: at least 3 is needed"):
            MGVMoEProcessor(processor.image_processor, processor.tokenizer, image_text_max_length=2)
        with pytest.raises(ValueError, match="image_text_max_length: a positive integer"):
            MGVMoEProcessor(processor.image_processor, processor.tokenizer, image_text_max_length=0)

    @pytest.mark.parametrize(
        ("text", "image_text", "message"),
        [
            (TEXT, 3, "image_text.*: a string or a list of strings is needed"),
            (TEXT, ["a", 3], "image_text.*: a string or a list of strings is needed"),
            (TEXT, {"a": "b"}, "image_text.*: a string or a list of strings is needed"),
            (TEXT, "\ud800", "image_text.*surrogate"),
            ([TEXT, TEXT], ["a"], "image_text: 2 are needed, one for each text"),
            ([TEXT, TEXT], "a", "image_text: 2 are needed, one for each text"),
            ([TEXT, TEXT], ["a", 3], r"image_text\[1\]: a string or a list of strings is needed"),
            (None, "a", "image_text: it needs the text"),
        ],
    )
    def test_wrong_words_are_named(self, processor, text, image_text, message):
        mentions = None if text is None else MENTION if isinstance(text, str) else [MENTION] * 2
        with pytest.raises(ValueError, match=message):
            processor(images=drawing(), text=text, mentions=mentions, image_text=image_text) if text is None else (
                processor(text=text, mentions=mentions, image_text=image_text)
            )

    def test_posts_of_several_batches_are_padded_anew(self, processor):
        posts = [processor.encode_post(TEXT, MENTION, image_text=words) for words in (WORDS, None, "a boat")]
        whole = processor.pad_posts(posts, return_tensors="pt")
        rows = [{name: whole[name][row] for name in whole} for row in range(3)]
        again = processor.pad_posts(rows, return_tensors="pt")
        assert all(torch.equal(again[name], whole[name]) for name in whole)
        alone = processor.pad_posts(rows[1:2], return_tensors="pt")
        assert "image_text_input_ids" not in alone and set(whole) - set(alone) == {
            "image_text_input_ids", "image_text_attention_mask"
        }  # fmt: skip


def mixed_posts():
    return [
        {
            "id": "0",
            "text": TEXT,
            "mentions": [[0, 4]],
            "label": "boat",
            "image": drawing(1),
            "image_text": [WORDS],
        },
        {"id": "1", "text": "Mura sails", "mentions": [[0, 4]], "label": "bird", "image": None, "image_text": None},
        {"id": "2", "text": "a bird", "mentions": [[2, 6]], "label": "cake", "image": None, "image_text": "red cake"},
        {"id": "3", "text": "a boat", "mentions": [[2, 6]], "label": "boat", "image": drawing(2)},
    ]


class TestDataAndEvaluation:
    @torch.no_grad()
    def test_the_collator_hands_the_words_to_the_model(self):
        model, processor = scratch_model(torch.double)
        encoded = encode_posts(mixed_posts(), processor)
        batch = PostCollator(processor, {"typing": LABELS})(encoded)
        assert batch["image_text_attention_mask"].any(1).tolist() == [True, False, True, False]
        model_output = model(**{name: own.double() if own.is_floating_point() else own for name, own in batch.items()})
        mask = image_token_mask(batch, model_output.image_router_probs)
        pixels = model_output.image_router_probs.shape[1] - batch["image_text_input_ids"].shape[1]
        assert mask[:, :pixels].all(1).tolist() == [True, False, False, True]
        assert torch.equal(mask[:, pixels:], batch["image_text_attention_mask"].bool())

    def test_experts_are_counted_over_real_tokens(self):
        model, processor = scratch_model()
        usage = expert_usage(model, processor, mixed_posts(), batch_size=4)
        single = expert_usage(model, processor, mixed_posts(), batch_size=1)
        np.testing.assert_allclose(usage.overall["image"], single.overall["image"], atol=1e-5)

    def test_text_only_hides_the_words_too(self):
        (post,) = mixed_posts()[:1]
        assert seen_as(post, "text only")["image_text"] is None
        assert seen_as(post, "image only")["image_text"] == [WORDS]

    def test_a_run_with_other_words_is_another_run(self):
        from modeling_mgvmoe.training.arguments import TrainingArguments

        processor = scratch_model()[1]

        def of(words):
            posts = encode_posts([{**mixed_posts()[2], "image_text": words}], processor)
            return identity(TrainingArguments(output_dir="runs"), {}, {"train": posts}, {}, 1)

        assert of("a boat") == of(["a boat"]) != of("a bird") and of(None) not in (of("a boat"), of("a bird"))

    @pytest.mark.parametrize("with_pixels", [False, True])
    def test_an_explanation_without_the_image_is_without_its_words(self, with_pixels):
        model, processor = scratch_model(torch.double)
        post = {
            "text": TEXT,
            "mention": MENTION,
            "image": drawing(1) if with_pixels else None,
            "image_text": WORDS,
        }
        found = explain_post(model, processor, post, LABELS)
        bare = explain_post(model, processor, {"text": TEXT, "mention": MENTION}, LABELS)
        assert found.ranking_without_image == nearly(bare.ranking) and bare.ranking_without_image is None
        assert found.ranking != nearly(bare.ranking) and found.image_effect is not None
        assert sum(found.shares.values()) == pytest.approx(1) and found.shares["image_text"] > 0
        assert (found.shares["image"] > 0) == with_pixels == (found.patches is not None)
        assert sum(map(sum, found.expert_shares.values())) == pytest.approx(1)
        assert found.as_json()["image_text"] == [WORDS]
        if with_pixels:
            assert found.patches.shape == (2, 2) and found.shares["image"] >= found.patches.sum() - 1e-9


def scores(ranking):
    return {entry["label"]: entry["score"] for entry in ranking}


class TestPipelines:
    @pytest.fixture(params=["projection", "similarity"])
    def parts(self, request):
        if request.param == "projection":
            return scratch_model(torch.double)
        model, processor = scratch_similarity(torch.double)
        model.similarity.gate.data.fill_(0.7)  # at 0 pixels change nothing
        return model, processor

    def test_words_with_and_without_pixels(self, parts):
        model, processor = parts
        pipe = pipeline(TASK, model=model, processor=processor)
        given = [
            {"text": TEXT, "mention": MENTION, "image": image, "image_text": words}
            for image in (None, drawing(1)) for words in (None, WORDS, ["a red cake", "in the harbour"])
        ]  # fmt: skip
        single = [scores(pipe(post, candidate_labels=LABELS)) for post in given]
        together = [scores(own) for own in pipe(given, candidate_labels=LABELS, batch_size=6)]
        assert together == nearly(single)
        values = [tuple(round(one[name], 12) for name in LABELS) for one in single]
        assert len(set(values)) == 6
        assert scores(pipe({**given[0], "image_text": " "}, candidate_labels=LABELS)) == single[0]

    def test_wrong_words_are_a_broken_post(self, parts):
        model, processor = parts
        pipe = pipeline(TASK, model=model, processor=processor)
        post = {"text": TEXT, "mention": MENTION, "image_text": 3}
        with pytest.raises(ValueError, match="image_text: a string or a list of strings is needed"):
            pipe(post, candidate_labels=LABELS)
        answers = pipe([post, {**post, "image_text": WORDS}], candidate_labels=LABELS, errors="return")
        assert "image_text" in answers[0]["error"] and len(answers[1]) == len(LABELS)

    def test_graphs(self, parts):
        model, processor = parts
        post = {"text": "Kelo greets Mura", "mentions": [(0, 4), (12, 16)], "image": drawing(1)}
        told, bare = {**post, "image_text": WORDS}, {**post, "image": None, "image_text": WORDS}
        found = extract(model, [post, told, bare], LABELS, RELATIONS, processor, return_embeds=True, batch_size=3)
        for number, own in enumerate((post, told, bare)):
            single = extract(model, [own], LABELS, RELATIONS, processor, return_embeds=True)
            assert found[number]["mentions"] == nearly(single[0]["mentions"])
            np.testing.assert_allclose(found[number]["image_embeds"], single[0]["image_embeds"], atol=1e-5)
        firsts = [own["mentions"][0]["scores"] for own in found]
        assert firsts[0] != nearly(firsts[1]) and firsts[1] != nearly(firsts[2])
        pipe = pipeline(TASK, model=model, processor=processor)
        expected = pipe({**told, "mentions": [(0, 4)]}, candidate_labels=LABELS)
        assert scores(firsts[1]) == nearly(scores(expected))
        with pytest.raises(ValueError, match=r"posts\[0\]: image_text: a string or a list of strings is needed"):
            extract(model, [{**post, "image_text": [3]}], LABELS, processor=processor)

    def test_an_endpoint_takes_words_and_no_captioner(self, tmp_path):
        for part in scratch_model():
            part.save_pretrained(tmp_path)
        handler = EndpointHandler(str(tmp_path))
        request = {"inputs": {"text": TEXT, "mention": [0, 4]}, "parameters": {"candidate_labels": LABELS}}
        told = copy.deepcopy(request)
        told["inputs"]["image_text"] = [WORDS]
        assert scores(handler(told)) != scores(handler(request))
        told["parameters"]["image_captioner"] = "any/model"
        assert "image_captioner" in handler(told)["error"]


def captioner_folder(folder):
    """A captioner of a few thousand random weights, saved with its processor."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "boat", "bird", "harbour", "red"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {**sizes, "vocab_size": len(words), "encoder_hidden_size": 16, "projection_dim": 16, "bos_token_id": 2,
            "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 32}  # fmt: skip
    vision = {**sizes, "image_size": 8, "patch_size": 4, "projection_dim": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
        for layer in (model.text_decoder.cls.predictions.decoder,):
            torch.nn.init.zeros_(layer.bias)
            layer.bias.data[6:9] = 5.0  # words, and not the end of the text
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})
    BlipProcessor(ViTImageProcessorPil(size={"height": 8, "width": 8}), tokenizer).save_pretrained(folder)
    return str(folder)


class Counting:
    """A captioner that remembers what it was asked."""

    def __init__(self, caption=WORDS):
        self.caption, self.images = caption, []

    def __call__(self, image):
        assert isinstance(image, Image.Image) and image.mode == "RGB"
        self.images.append(image.size)
        return self.caption


class TestCaptioner:
    def test_only_posts_with_an_image_and_without_words_are_captioned(self):
        model, processor = scratch_model(torch.double)
        pipe = pipeline(TASK, model=model, processor=processor)
        base = {"text": TEXT, "mention": MENTION}
        given = [
            base,
            {**base, "image": drawing(1)},
            {**base, "image": [drawing(1)], "image_text": " "},
            {**base, "image": drawing(1), "image_text": "a bird"},
        ]
        captioner = Counting()
        found = pipe(given, candidate_labels=LABELS, image_captioner=captioner)
        assert len(captioner.images) == 2
        expected = [given[0], {**given[1], "image_text": WORDS}, {**given[1], "image_text": WORDS}, given[3]]
        assert [scores(own) for own in found] == nearly(
            [scores(own) for own in pipe(expected, candidate_labels=LABELS)]
        )
        # Never without being asked.
        bare = pipe(given[1], candidate_labels=LABELS)
        assert len(captioner.images) == 2 and scores(bare) != nearly(scores(found[1]))

    def test_as_a_default_of_the_pipeline(self):
        model, processor = scratch_model(torch.double)
        captioner = Counting([{"generated_text": "a boat"}, {"generated_text": "a bird"}])
        pipe = pipeline(TASK, model=model, processor=processor, image_captioner=captioner)
        post = {"text": TEXT, "mention": MENTION, "image": drawing(1)}
        found = pipe(post, candidate_labels=LABELS)
        told = pipe({**post, "image_text": ["a boat", "a bird"]}, candidate_labels=LABELS)
        assert scores(found) == nearly(scores(told)) and len(captioner.images) == 1

    def test_graphs(self):
        model, processor = scratch_model(torch.double)
        post = {"text": "Kelo greets Mura", "mentions": [(0, 4), (12, 16)], "image": drawing(1)}
        pipe = pipeline(GRAPH_TASK, model=model, processor=processor)
        captioner = Counting()
        found = pipe([post, {**post, "image": None}], typing_labels=LABELS, image_captioner=captioner)
        extractor = GraphExtractor(model, processor, LABELS)
        assert found == nearly(extractor([{**post, "image_text": WORDS}, {**post, "image": None}]))
        assert len(captioner.images) == 1
        broken = pipe([{**post, "image": b"no image"}], typing_labels=LABELS, image_captioner=captioner,
                      errors="return")  # fmt: skip
        assert "error" in broken[0] and len(captioner.images) == 1

    def test_a_model_by_its_name(self, tmp_path):
        name = captioner_folder(tmp_path / "captioner")
        model, processor = scratch_model(torch.double)
        pipe = pipeline(TASK, model=model, processor=processor)
        post = {"text": TEXT, "mention": MENTION, "image": drawing(1)}
        loaded = pipeline("image-text-to-text", model=name)
        (caption,) = ImageCaptioner(loaded)(drawing(1))
        assert caption and ImageCaptioner(name)(drawing(1)) == [caption]
        told = scores(pipe({**post, "image_text": caption}, candidate_labels=LABELS))
        for captioner in (name, loaded):
            found = pipe([post, post], candidate_labels=LABELS, image_captioner=captioner)
            assert [scores(own) for own in found] == nearly([told, told])
        assert len(pipe._captioners) == 1

    def test_what_is_no_captioner(self, tmp_path):
        model, processor = scratch_model()
        pipe = pipeline(TASK, model=model, processor=processor)
        post = {"text": TEXT, "mention": MENTION, "image": drawing(1)}
        with pytest.raises(ValueError, match="image_captioner: the name of a model"):
            pipe(post, candidate_labels=LABELS, image_captioner=3)
        with pytest.raises(ValueError, match="image_captioner: the caption: a string or a list of strings is needed"):
            pipe(post, candidate_labels=LABELS, image_captioner=lambda image: 3)
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="image_captioner: .* cannot be loaded"):
            pipe(post, candidate_labels=LABELS, image_captioner=str(tmp_path))
