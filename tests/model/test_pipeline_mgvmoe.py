import json
import re
import warnings

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset
from transformers import pipeline

from modeling_mgvmoe import Label, MGVMoEForZeroShotIE, MGVMoEProcessor, ZeroShotMultimodalIEPipeline
from modeling_mgvmoe.pipeline_mgvmoe import GRAPH_TASK, TASK
from tests.support.from_scratch import LABELS, RELATIONS, drawing, nearly, posts, scratch_model

pytestmark = pytest.mark.numerical

POST = {"text": "Kelo sails at dawn", "mention": (0, 4)}
RELATION = {"text": "Kelo greets Mura", "head": (0, 4), "tail": (12, 16)}


@pytest.fixture
def pipe():
    # What a pipeline computes and what is worked out beside it are not the same sequence of operations.
    model, processor = scratch_model(torch.double)
    return pipeline(TASK, model=model, processor=processor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    saved = tmp_path_factory.mktemp("checkpoint")
    for part in scratch_model(torch.double):
        part.save_pretrained(saved)
    return saved


def by_hand(post, labels, texts=None, function="softmax"):
    """Scores by label with processor and model alone; `texts` are what is read instead of the labels."""
    model, processor = scratch_model(torch.double)
    spans = post.get("mention") or post.get("mentions") or [post["head"], post["tail"]]
    inputs = processor(
        text=post["text"],
        mentions=spans,
        images=[post.get("image")],
        candidate_labels=texts or labels,
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = model(**inputs).logits[0].double()
    scores = {"softmax": logits.softmax(-1), "sigmoid": logits.sigmoid(), "none": logits}[function]
    return dict(zip(labels, scores.tolist(), strict=True))


def scores_of(ranking):
    assert [set(entry) for entry in ranking] == [{"label", "score"}] * len(ranking)
    falling = [entry["score"] for entry in ranking]
    assert falling == sorted(falling, reverse=True)
    return {entry["label"]: entry["score"] for entry in ranking}


def assert_same(found, expected, tolerance=1e-9):
    assert len(found) == len(expected)
    for ranking, other in zip(found, expected, strict=True):
        assert scores_of(ranking) == pytest.approx(scores_of(other), abs=tolerance)


# Construction


def test_from_objects_by_task(pipe):
    assert type(pipe) is ZeroShotMultimodalIEPipeline
    assert pipe.task == TASK == "zero-shot-multimodal-ie"
    assert pipe.tokenizer is pipe.processor.tokenizer


def test_from_objects_by_class(pipe):
    model, processor = scratch_model(torch.double)
    by_class = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    assert by_class(POST, candidate_labels=LABELS) == pipe(POST, candidate_labels=LABELS)


def test_from_a_folder_with_its_own_code(pipe, folder, own_module_cache):
    loaded = pipeline(model=str(folder), trust_remote_code=True)
    assert loaded.task == TASK
    assert type(loaded).__module__.startswith("transformers_modules")
    assert loaded(posts(), candidate_labels=LABELS) == nearly(pipe(posts(), candidate_labels=LABELS))


def test_from_a_folder_with_the_class_of_this_package(pipe, folder):
    loaded = pipeline(TASK, model=str(folder), pipeline_class=ZeroShotMultimodalIEPipeline)
    assert type(loaded) is ZeroShotMultimodalIEPipeline
    assert type(loaded.model) is MGVMoEForZeroShotIE
    assert type(loaded.processor) is MGVMoEProcessor
    assert loaded(POST, candidate_labels=LABELS) == pipe(POST, candidate_labels=LABELS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(pipe, folder, dtype):
    half = pipeline(TASK, model=str(folder), pipeline_class=ZeroShotMultimodalIEPipeline, dtype=dtype)
    assert {parameter.dtype for parameter in half.model.parameters()} == {dtype}
    found = half(posts(), candidate_labels=LABELS, batch_size=2)
    assert_same(found, pipe(posts(), candidate_labels=LABELS), tolerance=0.1)
    assert sum(scores_of(found[0]).values()) == pytest.approx(1, abs=1e-9)


def test_a_model_in_training_mode_scores_in_evaluation_mode_and_keeps_its_mode(pipe):
    expected = pipe(posts(), candidate_labels=LABELS)
    model, processor = scratch_model(torch.double)
    model.train()
    model.mgvmoe.text_model.embeddings.eval()  # as a training loop may have it
    modes = [module.training for module in model.modules()]
    own = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    assert own(posts(), candidate_labels=LABELS) == expected
    assert list(own((post for post in posts()), candidate_labels=LABELS)) == expected
    assert [module.training for module in model.modules()] == modes


def test_no_vector_of_a_label_outlives_the_training_of_its_weights(pipe):
    """Asked during training and again after it: the second answer is that of the trained weights."""
    pipe(POST, candidate_labels=LABELS)
    pipe.model.train()
    pipe(POST, candidate_labels=LABELS)
    with torch.no_grad():
        pipe.model.mgvmoe.text_model.embeddings.word_embeddings.weight.mul_(1.5)
    during = pipe(POST, candidate_labels=LABELS)
    pipe.model.eval()
    after = pipe(POST, candidate_labels=LABELS)
    pipe.clear_candidate_cache()
    assert during == after == pipe(POST, candidate_labels=LABELS)


def test_kept_vectors_of_labels_are_those_of_evaluation_mode(pipe):
    embedder = pipe.candidate_embedder
    clean = embedder([("boat",), ("a cake",)])
    embedder.clear()
    pipe.model.train()
    assert torch.equal(embedder([("boat",), ("a cake",)]), clean) and not clean.requires_grad
    assert pipe.model.training


def test_saved_pipeline_is_complete(pipe, tmp_path, own_module_cache):
    pipe.save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} < names
    assert {"pipeline_mgvmoe.py", "processing_mgvmoe.py", "modeling_mgvmoe.py", "configuration_mgvmoe.py"} < names
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["custom_pipelines"][TASK]["impl"] == "pipeline_mgvmoe.ZeroShotMultimodalIEPipeline"
    loaded = pipeline(model=str(tmp_path / "saved"), trust_remote_code=True)
    assert loaded(posts(), candidate_labels=LABELS) == nearly(pipe(posts(), candidate_labels=LABELS))


# What goes in


@pytest.mark.parametrize("number", range(len(posts())))
def test_equals_processor_and_model_by_hand(pipe, number):
    post = posts()[number]
    labels = post.get("candidate_labels", LABELS)
    assert scores_of(pipe(post, candidate_labels=LABELS)) == pytest.approx(by_hand(post, labels), abs=1e-9)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_kinds_of_input_and_batch_sizes_agree(pipe, batch_size):
    class Posts(Dataset):
        def __len__(self):
            return len(posts())

        def __getitem__(self, index):
            return posts()[index]

    expected = [pipe(post, candidate_labels=LABELS) for post in posts()]
    arguments = {"candidate_labels": LABELS, "batch_size": batch_size}
    found = pipe(posts(), **arguments)
    assert isinstance(found, list)
    assert_same(found, expected)
    assert_same(list(pipe((post for post in posts()), **arguments)), expected)
    assert_same(list(pipe(Posts(), **arguments)), expected)
    # The scores are not all alike: the agreement says something.
    assert max(scores_of(expected[0]).values()) > 0.3
    assert expected[0] != expected[4]


def test_tuples_and_iterators_of_posts(pipe):
    expected = pipe(posts()[:2], candidate_labels=LABELS)
    graphs = pipeline(GRAPH_TASK, model=pipe.model, processor=pipe.processor)
    whole = [{"text": POST["text"], "mentions": [(0, 4)]}] * 2
    for make in (tuple, iter, lambda own: map(dict, own)):
        assert_same(list(pipe(make(posts()[:2]), candidate_labels=LABELS)), expected)
        assert len(list(graphs(make(whole), typing_labels=LABELS))) == 2


def test_a_dataset_given_as_it_is_equals_its_posts(pipe):
    rows = [
        {"text": "Kelo sails at dawn", "mentions": [[0, 4]]},
        {"text": "Kelo greets Mura", "mentions": [[0, 4], [12, 16]]},
        {"text": "Mura rests", "mentions": [[0, 4]]},
    ]
    table = datasets.Dataset.from_list([{**row, "rating": 3} for row in rows])
    expected = pipe(rows, candidate_labels=LABELS)
    for batch_size in (1, 2, len(rows)):
        answers = pipe(table, candidate_labels=np.array(LABELS), batch_size=batch_size)
        assert len(answers) == -(-len(rows) // batch_size)  # batches, known before a post is read
        assert_same(list(answers), expected)
    assert_same(list(pipe(table.to_iterable_dataset(), candidate_labels=pd.Series(LABELS))), expected)
    assert_same(pipe(pd.Series(rows), candidate_labels=LABELS), expected)
    frame = pd.DataFrame(rows).assign(image=[float("nan")] + [""] * (len(rows) - 1))
    assert_same(pipe(frame.to_dict("records"), candidate_labels=LABELS), expected)


def test_every_form_of_a_span_scores_alike(pipe):
    expected = pipe(POST, candidate_labels=LABELS)
    for span in ((np.int64(0), np.int32(4)), [torch.tensor(0), torch.tensor(4)], np.array([0, 4]), "Kelo",
                 {"start": 0, "end": 4}):  # fmt: skip
        assert pipe({**POST, "mention": span}, candidate_labels=LABELS) == expected
        assert pipe({"text": POST["text"], "mentions": [span]}, candidate_labels=LABELS) == expected
    related = pipe(RELATION, candidate_labels=RELATIONS)
    assert pipe({**RELATION, "head": "Kelo", "tail": {"start": 12, "end": 16}}, candidate_labels=RELATIONS) == related


def test_markers_go_around_a_whole_character(pipe):
    """ "cafe" of "cafe" and a combining accent, as an annotation without the accent has it."""
    text = "the cafe\u0301 opens"
    assert pipe({"text": text, "mention": (4, 8)}, candidate_labels=LABELS) == pipe(
        {"text": text, "mention": (4, 9)}, candidate_labels=LABELS
    )


def test_misspelt_keys_of_words_for_labels(pipe):
    with pytest.raises(ValueError, match="label_descriptions: 'boats' .* did you mean 'boat'"):
        pipe(POST, candidate_labels=["boat", "bird"], label_descriptions={"boats": "a ship"})
    own = {**POST, "candidate_labels": ["boat", "bird"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe(own, label_descriptions={"a label of another post": "a ship"})
    with pytest.warns(UserWarning, match="label_descriptions: .*'a label of no post'"):
        pipe(POST, candidate_labels=["boat", "bird"], label_descriptions={"a label of no post": "a ship"})


def test_no_posts_give_no_answers(pipe):
    assert pipe([], candidate_labels=LABELS) == []


def test_a_list_of_one_gives_a_list(pipe):
    assert pipe([POST], candidate_labels=LABELS) == [pipe(POST, candidate_labels=LABELS)]


def test_an_image_changes_the_scores(pipe):
    plain = pipe(POST, candidate_labels=LABELS)
    assert pipe({**POST, "image": None}, candidate_labels=LABELS) == plain
    assert pipe({**POST, "image": drawing(1)}, candidate_labels=LABELS) != plain


def test_images_of_several_kinds_are_the_same(pipe, tmp_path):
    drawing(1).save(tmp_path / "one.png")
    kinds = [drawing(1), str(tmp_path / "one.png"), np.asarray(drawing(1)), (tmp_path / "one.png").read_bytes()]
    found = pipe([{**POST, "image": kind} for kind in kinds], candidate_labels=LABELS)
    assert_same(found[1:], [found[0]] * 3, tolerance=1e-9)


def test_head_and_tail_are_told_apart(pipe):
    turned = {**RELATION, "head": RELATION["tail"], "tail": RELATION["head"]}
    first, second = pipe([RELATION, turned], candidate_labels=RELATIONS)
    assert scores_of(first) != pytest.approx(scores_of(second), abs=1e-4)
    mentions = {"text": RELATION["text"], "mentions": [RELATION["head"], RELATION["tail"]]}
    assert pipe(mentions, candidate_labels=RELATIONS) == first


def test_spans_as_arrays(pipe):
    array = {**POST, "mention": np.array([0, 4])}
    assert pipe(array, candidate_labels=LABELS) == pipe(POST, candidate_labels=LABELS)


def test_posts_split_into_words(pipe):
    words = {**RELATION, "text": RELATION["text"].split()}
    found = pipe(words, candidate_labels=RELATIONS, is_split_into_words=True)
    assert found == pipe(RELATION, candidate_labels=RELATIONS)


def test_max_length_cuts_the_post(pipe):
    long = {"text": "Kelo" + " sails at dawn" * 20, "mention": (0, 4)}
    short = {"text": "Kelo sails", "mention": (0, 4)}
    # [CLS], two markers, two words, [SEP]; the mention and what is nearest to it stay.
    tokens = len(pipe.processor.encode_post(short["text"], short["mention"])["input_ids"])
    assert scores_of(pipe(long, candidate_labels=LABELS, max_length=tokens)) == pytest.approx(
        scores_of(pipe(short, candidate_labels=LABELS)), abs=1e-9
    )


# Labels


def test_labels_of_the_post_take_the_place_of_the_calls(pipe):
    found = pipe([POST, {**POST, "candidate_labels": ["cake", "greets"]}], candidate_labels=LABELS, batch_size=2)
    assert [set(scores_of(ranking)) for ranking in found] == [set(LABELS), {"cake", "greets"}]


def test_the_calls_labels_are_read_once_and_anew_for_each_call(pipe, monkeypatch):
    read = []
    inner = type(pipe)._candidates
    monkeypatch.setattr(
        type(pipe), "_candidates", lambda self, *args, **kw: read.append(1) or inner(self, *args, **kw)
    )
    labels = ["boat", "bird"]
    pipe([POST] * 5, candidate_labels=labels)
    assert len(read) == 1
    labels.append("cake")
    assert len(pipe(POST, candidate_labels=labels)) == 3


def test_a_gap_among_the_labels_of_posts_takes_the_calls(pipe):
    table = pd.DataFrame({"text": [POST["text"]] * 2, "mention": [(0, 4)] * 2, "candidate_labels": [["boat"], np.nan]})
    found = pipe(table.to_dict("records"), candidate_labels=LABELS)
    assert [len(ranking) for ranking in found] == [1, len(LABELS)]


def test_labels_of_the_posts_alone_are_enough(pipe):
    assert len(pipe({**POST, "candidate_labels": tuple(LABELS)})) == len(LABELS)


def test_the_order_of_labels_changes_no_score(pipe):
    expected = scores_of(pipe(posts()[0], candidate_labels=LABELS))
    for order in ([3, 1, 0, 2], [2, 3, 1, 0], [1, 0, 3, 2]):
        pipe.clear_candidate_cache()
        found = scores_of(pipe(posts()[0], candidate_labels=[LABELS[place] for place in order]))
        assert found == pytest.approx(expected, abs=1e-12)


def test_softmax_is_over_the_labels_of_the_post(pipe):
    logits = scores_of(pipe(POST, candidate_labels=LABELS, function_to_apply="none"))
    two = scores_of(pipe(POST, candidate_labels=["boat", "cake"]))
    odds = np.exp(logits["boat"] - logits["cake"])
    assert two["boat"] == pytest.approx(odds / (1 + odds), abs=1e-9)
    assert sum(two.values()) == pytest.approx(1, abs=1e-9)


def test_template(pipe):
    found = pipe(posts()[0], candidate_labels=LABELS, hypothesis_template="it is a red {}")
    texts = [f"it is a red {label}" for label in LABELS]
    assert scores_of(found) == pytest.approx(by_hand(posts()[0], LABELS, texts), abs=1e-9)
    assert scores_of(found) != pytest.approx(by_hand(posts()[0], LABELS), abs=1e-3)


def test_descriptions(pipe):
    described = {"boat": "it sails in the harbour", "bird": "Kelo", "unused": "dawn"}
    found = pipe(posts()[0], candidate_labels=LABELS, label_descriptions=described, hypothesis_template="a {}")
    texts = ["a it sails in the harbour", "a Kelo", "a cake", "a robot"]
    assert scores_of(found) == pytest.approx(by_hand(posts()[0], LABELS, texts), abs=1e-9)


def test_labels_with_one_description_score_alike(pipe):
    found = scores_of(pipe(POST, candidate_labels=["boat", "bird"], label_descriptions={"bird": "boat"}))
    assert found["boat"] == found["bird"] == pytest.approx(0.5)


# What comes out


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_function_to_apply(pipe, function):
    found = pipe(posts()[0], candidate_labels=LABELS, function_to_apply=function)
    assert scores_of(found) == pytest.approx(by_hand(posts()[0], LABELS, function=function), abs=1e-9)


def test_top_k_and_threshold(pipe):
    ranked = pipe(posts(), candidate_labels=LABELS)
    assert pipe(posts(), candidate_labels=LABELS, top_k=1) == [ranking[:1] for ranking in ranked]
    assert pipe(posts(), candidate_labels=LABELS, top_k=99) == ranked
    second = ranked[0][1]["score"]
    assert pipe(posts()[0], candidate_labels=LABELS, threshold=second) == ranked[0][:2]
    assert pipe(posts()[0], candidate_labels=LABELS, threshold=second, top_k=1) == ranked[0][:1]
    assert pipe(posts()[0], candidate_labels=LABELS, threshold=1.0) == []


def test_arguments_of_the_construction_are_defaults():
    model, processor = scratch_model(torch.double)
    arguments = {"candidate_labels": LABELS, "top_k": 2, "hypothesis_template": "a {}", "batch_size": 2}
    fixed = pipeline(TASK, model=model, processor=processor, **arguments)
    found = fixed(posts()[0])
    expected = by_hand(posts()[0], LABELS, [f"a {label}" for label in LABELS])
    assert [entry["label"] for entry in found] == sorted(expected, key=expected.get, reverse=True)[:2]
    assert len(fixed(posts()[0], top_k=3, candidate_labels=RELATIONS)) == 3
    assert len(fixed(posts()[0])) == 2


# The cache of label embeddings


@pytest.fixture
def encoded(pipe, monkeypatch):
    """Number of labels in each forward pass that encoded any."""
    counts = []
    encode = pipe.model.get_candidate_embeds

    def counting(candidate_input_ids, candidate_attention_mask=None):
        counts.append(len(candidate_input_ids))
        return encode(candidate_input_ids, candidate_attention_mask)

    monkeypatch.setattr(pipe.model, "get_candidate_embeds", counting)
    return counts


def test_each_label_is_encoded_once(pipe, encoded):
    first = pipe(posts(), candidate_labels=LABELS, batch_size=len(posts()))
    # One pass for the whole batch: four shared labels, three relations, and "red robot".
    assert encoded == [len(LABELS) + len(RELATIONS) + 1]
    assert pipe(posts(), candidate_labels=LABELS, batch_size=len(posts())) == first
    assert len(encoded) == 1
    pipe(POST, candidate_labels=["a new one", *LABELS])
    assert encoded[1:] == [1]
    pipe(POST, candidate_labels=LABELS, hypothesis_template="a {}")
    assert encoded[2:] == [len(LABELS)]


def test_many_labels_are_encoded_in_parts(pipe, encoded):
    whole = pipe(POST, candidate_labels=[*LABELS, *RELATIONS])
    pipe.clear_candidate_cache()
    pipe.candidate_embedder.batch_size = 3
    assert_same([pipe(POST, candidate_labels=[*LABELS, *RELATIONS])], [whole])
    assert encoded == [7, 3, 3, 1]


def test_the_cache_is_bounded_and_forgets_the_oldest(pipe, encoded):
    expected = pipe(POST, candidate_labels=LABELS)
    model, processor = pipe.model, pipe.processor
    bounded = ZeroShotMultimodalIEPipeline(model=model, processor=processor, candidate_cache_size=3)
    assert_same([bounded(POST, candidate_labels=LABELS)], [expected])  # more labels at once than it holds
    bounded(POST, candidate_labels=["boat", "bird"])
    bounded(POST, candidate_labels=["cake"])
    bounded(POST, candidate_labels=["boat"])
    assert len(bounded.candidate_embedder.cache) == 3
    encoded.clear()
    bounded(POST, candidate_labels=["greets"])  # takes the place of "bird", the one not used for longest
    bounded(POST, candidate_labels=["boat", "cake"])
    assert encoded == [1]
    bounded(POST, candidate_labels=["bird"])
    assert encoded == [1, 1]


def test_clearing_the_cache_after_a_change_of_weights(pipe, encoded):
    before = pipe(POST, candidate_labels=LABELS)
    with torch.no_grad():
        pipe.model.mgvmoe.text_model.get_input_embeddings().weight.mul_(1.5).add_(0.1)
    pipe.clear_candidate_cache()
    after = pipe(POST, candidate_labels=LABELS)
    assert encoded == [len(LABELS)] * 2
    fresh = ZeroShotMultimodalIEPipeline(model=pipe.model, processor=pipe.processor)
    assert after == fresh(POST, candidate_labels=LABELS) != before


# Errors

BAD_POSTS = [
    ("a post", "inputs: each post must be a dict with 'text' and 'mention'.* \\(got str: 'a post'\\)"),
    (("a", (0, 1)), "inputs: each post must be a dict .*got str"),
    ({"mention": (0, 4)}, "inputs: a post needs 'text'"),
    ({"text": None, "mention": (0, 4)}, "inputs: a post needs 'text'"),
    ({"text": "Kelo"}, "either 'mention', or 'head' and 'tail' \\(got none\\)"),
    ({"text": "Kelo", "mention": None}, "either 'mention', or 'head' and 'tail' \\(got none\\)"),
    ({"text": "Kelo", "head": (0, 4)}, "either 'mention', or 'head' and 'tail' \\(got \\['head'\\]\\)"),
    ({**RELATION, "mention": (0, 4)}, "\\(got \\['mention', 'head', 'tail'\\]\\)"),
    ({**POST, "mentions": [(0, 4)]}, "\\(got \\['mention', 'mentions'\\]\\)"),
    ({"text": "Kelo", "mentoin": (0, 4)}, "inputs: .* \\(got none; unknown columns: mentoin\\)"),
    ({**POST, "mention": "sail boat"}, "mentions: the words 'sail boat' .* \\(got 0 times"),
    ({**POST, "text": ["Kelo", "sails"]}, "text: a string is needed \\(got list\\)"),
    ({**POST, "text": 3}, "text: a string is needed \\(got int\\)"),
]


@pytest.mark.parametrize(("post", "message"), BAD_POSTS)
def test_bad_posts(pipe, post, message):
    with pytest.raises(ValueError, match=message):
        pipe(post, candidate_labels=LABELS)


BAD_ARGUMENTS = [
    ({"candidate_labels": None}, "candidate_labels: a non-empty list of labels is needed, in the call or in the post"),
    ({"candidate_labels": "boat"}, "candidate_labels: a non-empty list of labels is needed \\(got 'boat'\\)"),
    ({"candidate_labels": [["boat"]]}, "labels are non-empty strings \\(got \\['boat'\\]\\)"),
    ({"hypothesis_template": "a label"}, 'hypothesis_template: a string with exactly one "{}" is needed'),
    ({"label_descriptions": ["a"]}, "label_descriptions: a dict of label to sentence"),
    ({"label_descriptions": {"boat": " "}}, "label_descriptions\\['boat'\\]: a non-empty string"),
    ({"top_k": 0}, "top_k: an integer of at least 1"),
    ({"threshold": 1.5}, "threshold: a score between 0 and 1"),
    ({"function_to_apply": "tanh"}, "function_to_apply: one of softmax, sigmoid, none is needed \\(got 'tanh'\\)"),
    ({"max_length": 3}, "max_length: at least 5 is needed"),
    ({"is_split_into_words": True}, "words: a list of strings is needed \\(got 'Kelo sails at dawn'\\)"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(POST, **{"candidate_labels": LABELS, **arguments})


def test_an_error_in_one_post_of_a_list_is_raised(pipe):
    with pytest.raises(ValueError, match="a post needs 'text'"):
        pipe([POST, {"mention": (0, 1)}], candidate_labels=LABELS, batch_size=2)


def test_a_misspelt_argument(pipe):
    with pytest.raises(TypeError, match="candidate_label'"):
        pipe(POST, candidate_label=LABELS)
    with pytest.raises(TypeError, match="tresh"):
        pipeline(TASK, model=pipe.model, processor=pipe.processor, tresh=0.5)


def test_cache_size(pipe):
    with pytest.raises(ValueError, match="candidate_cache_size must be at least 1, got 0"):
        pipeline(TASK, model=pipe.model, processor=pipe.processor, candidate_cache_size=0)


def test_without_a_processor(pipe):
    needed = "processor: an MGVMoEProcessor is needed \\(got NoneType\\)\\. Save one .* or pass processor=\\.\\.\\."
    with pytest.raises(ValueError, match=needed):
        pipeline(TASK, model=pipe.model)
    with pytest.raises(ValueError, match=needed):
        ZeroShotMultimodalIEPipeline(model=pipe.model, tokenizer=pipe.tokenizer)
    with pytest.raises(ValueError, match="an MGVMoEProcessor is needed \\(got TokenizersBackend\\)"):
        ZeroShotMultimodalIEPipeline(model=pipe.model, processor=pipe.tokenizer)


def test_a_vocabulary_that_the_model_does_not_have(pipe):
    rows = pipe.model.config.text_config.vocab_size
    pipe.tokenizer.add_tokens(["<new>"])
    with pytest.raises(ValueError, match=f"{rows} token embeddings, but .* has {rows + 1} tokens, markers included"):
        pipeline(TASK, model=pipe.model, processor=pipe.processor)
    pipe.model.resize_token_embeddings(pipe.processor.vocabulary_size)
    assert pipeline(TASK, model=pipe.model, processor=pipe.processor)(POST, candidate_labels=LABELS)


# Models whose scores begin as similarity


@pytest.fixture
def similarity_pipe():
    """Mentions named before the post, types of heads and tails, several sentences for a label."""
    from modeling_mgvmoe.training.build import model_from_scratch
    from tests.support.from_scratch import TEXTS, scratch_config

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = scratch_config(score="similarity")
        model, processor = model_from_scratch(config, TEXTS, max_length=48, mention_style="prefix")
        with torch.no_grad():
            model.similarity.gate.fill_(0.2)
    return pipeline(TASK, model=model.double().eval(), processor=processor)


SENTENCES = {"greets": ["Kelo greets Mura", "greets again"], "person": ["Kelo", "we all"]}
TYPES = {"greets": ("person", ["person", "place"]), "chases": ("thing", "person")}


def test_types_and_sentences_reach_the_model(similarity_pipe):
    pipe = similarity_pipe
    options = {"label_types": TYPES, "type_descriptions": SENTENCES, "label_descriptions": SENTENCES}
    found = scores_of(pipe(RELATION, candidate_labels=RELATIONS, function_to_apply="none", **options))
    inputs = pipe.processor(
        text=RELATION["text"], mentions=[(0, 4), (12, 16)], candidate_labels=RELATIONS, return_tensors="pt", **options
    )
    with torch.no_grad():
        expected = pipe.model(**inputs).logits[0].tolist()
    assert [found[label] for label in RELATIONS] == pytest.approx(expected, abs=1e-9)
    plain = scores_of(pipe(RELATION, candidate_labels=RELATIONS, function_to_apply="none"))
    assert plain["greets"] != pytest.approx(found["greets"], abs=1e-3)
    assert plain["teaches"] == pytest.approx(found["teaches"], abs=1e-9)  # neither a sentence nor types of its own


def test_posts_with_labels_of_their_own_share_a_batch_with_types(similarity_pipe):
    batch = [RELATION, {**RELATION, "candidate_labels": ["chases", "sails"]}, POST | {"candidate_labels": LABELS}]
    options = {"label_types": TYPES, "candidate_labels": RELATIONS, "function_to_apply": "none"}
    together = similarity_pipe(batch, batch_size=3, **options)
    for post, ranking in zip(batch, together, strict=True):
        alone = scores_of(similarity_pipe(post, **options))
        assert scores_of(ranking) == pytest.approx(alone, abs=1e-9)


def test_posts_with_types_of_their_own_do_not_share_them(similarity_pipe):
    """Types compete with each other, those of a post with its own alone."""
    own = [
        Label("greets", head_types="person", tail_types="place"),
        Label("chases", head_types="thing", tail_types="person"),
    ]
    others = [
        Label("greets", head_types="bird", tail_types="boat"),
        Label("chases", head_types="boat", tail_types="bird"),
    ]
    batch = [{**RELATION, "candidate_labels": labels} for labels in (["sails", "greets"], own, others)]
    alone = [similarity_pipe(post) for post in batch]
    assert scores_of(alone[1]) != pytest.approx(scores_of(alone[2]), abs=1e-3)
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        found = similarity_pipe([batch[place] for place in order], batch_size=3)
        assert_same(found, [alone[place] for place in order])


def test_saved_it_is_complete(similarity_pipe, tmp_path, own_module_cache):
    similarity_pipe.save_pretrained(tmp_path / "saved")
    loaded = pipeline(model=str(tmp_path / "saved"), trust_remote_code=True)
    options = {"candidate_labels": RELATIONS, "label_types": TYPES}
    assert loaded(RELATION, **options) == nearly(similarity_pipe(RELATION, **options))


def test_types_for_a_model_without_them_are_refused(pipe):
    with pytest.raises(ValueError, match='candidate_types need a model with score="similarity"'):
        pipe(RELATION, candidate_labels=RELATIONS, label_types=TYPES)


class TestErrors:
    """One broken post among sound ones."""

    BROKEN = (
        {"text": "Kelo sails", "mention": (0, 99)},
        {"text": "Kelo sails", "mention": (0, 4), "image": b"no image"},
        {"text": "Kelo sails", "mention": (0, 4), "image": "nowhere.png"},
        {"text": "Kelo sails", "mention": (0, 4), "candidate_labels": []},
        {"text": "Kelo sails"},
        {"text": 5, "mention": (0, 4)},
        {"mention": (0, 4)},
        "Kelo sails",
        None,
        [],
    )

    def test_words_that_are_none(self, pipe):
        broken, sound = {"text": 5, "mention": (0, 4)}, {"text": ["Kelo", "sails"], "mention": (0, 4)}
        found = pipe([broken, sound], candidate_labels=LABELS, is_split_into_words=True, errors="return")
        assert "words" in found[0]["error"] and len(found[1]) == len(LABELS)

    @pytest.mark.parametrize("batch_size", [1, 2, 8])
    def test_every_other_answer_still_comes(self, pipe, batch_size):
        sound = [post for post in posts() if "mention" in post][:2]
        expected = pipe(sound, candidate_labels=LABELS)
        given = [sound[0], *self.BROKEN, sound[1]]
        for found in (
            pipe(given, candidate_labels=LABELS, batch_size=batch_size, errors="return"),
            list(pipe((post for post in given), candidate_labels=LABELS, batch_size=batch_size, errors="return")),
        ):
            assert_same(found[:: len(given) - 1], expected, 1e-4)
            broken = found[1:-1]
            assert all(set(answer) == {"error"} and answer["error"] for answer in broken)
        assert pipe(self.BROKEN[0], candidate_labels=LABELS, errors="return") == broken[0]

    @pytest.mark.parametrize("post", BROKEN)
    def test_by_default_the_error_names_the_post(self, pipe, post):
        text = post.get("text", post) if isinstance(post, dict) else post
        with pytest.raises(ValueError, match=re.escape(f"in the post {text!r}")):
            pipe([*posts()[:1], post], candidate_labels=LABELS)

    def test_wrong_arguments_of_the_call_are_no_fault_of_a_post(self, pipe):
        with pytest.raises(ValueError, match="errors: one of raise, return"):
            pipe(posts(), candidate_labels=LABELS, errors="skip")
        with pytest.raises(ValueError, match="labels must be distinct"):
            pipe([posts()[0]], candidate_labels=["a", "a"], errors="return")


@pytest.mark.parametrize(("name", "ours"), [("multi_label", "function_to_apply")])
def test_arguments_of_other_zero_shot_pipelines_are_named_as_ours(pipe, name, ours):
    graphs = pipeline(GRAPH_TASK, model=pipe.model, processor=pipe.processor)
    whole = {"text": POST["text"], "mentions": [(0, 4)]}
    for call in (
        lambda: pipe(POST, candidate_labels=LABELS, **{name: True}),
        lambda: graphs(whole, typing_labels=LABELS, **{name: True}),
        lambda: pipe.model.extract([whole], LABELS, processor=pipe.processor, **{name: True}),
        lambda: pipe.processor(text=POST["text"], mentions=(0, 4), **{name: True}),
    ):
        with pytest.raises(TypeError, match=f"{name}.*{ours}"):
            call()


class TestLostWords:
    """Labels' texts that are cut, and labels that the model cannot tell apart."""

    LONG = "a very red boat that sails at dawn and is drawn with a pencil " * 4

    def caught(self, call):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            call()
        return [str(one.message) for one in found if "candidate_labels" in str(one.message)]

    def test_a_text_that_is_cut_is_named(self, pipe):
        sentences = {"boat": f"{self.LONG} a boat", "cake": f"{self.LONG} a cake"}
        for call in (
            lambda: pipe(POST, candidate_labels=["boat", "cake", "bird"], label_descriptions=sentences),
            lambda: pipe.processor.encode_candidates(["boat", "cake", "bird"], sentences),
            lambda: pipe.model.extract(
                [{"text": POST["text"], "mentions": [(0, 4)]}], ["boat", "cake", "bird"],
                processor=pipe.processor, label_descriptions=sentences,
            ),
        ):  # fmt: skip
            cut, same = self.caught(call)
            assert "max_length" in cut and "'boat'" in cut and "'cake'" in cut and "bird" not in cut
            assert "cannot tell apart: 'boat' and 'cake'" in same

    def test_labels_of_the_same_tokens_are_named_and_others_are_not(self, pipe):
        (same,) = self.caught(lambda: pipe.processor.encode_candidates(["boat", "Boat", "cake"]))
        assert "'boat' and 'Boat'" in same and "cake" not in same
        assert not self.caught(lambda: pipe(POST, candidate_labels=LABELS))

    def test_a_text_of_just_the_room_is_not_cut(self, pipe):
        room = pipe.processor.longest - 2  # [CLS] and [SEP]
        assert not self.caught(lambda: pipe.processor.encode_candidates(["a " * room, "boat"]))
        assert len(self.caught(lambda: pipe.processor.encode_candidates(["a " * (room + 1), "boat"]))) == 1
