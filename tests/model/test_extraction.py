import itertools
import json

import numpy as np
import pytest
import torch
from transformers import pipeline

from modeling_mgvmoe import GraphExtractor, Label, MultimodalGraphExtractionPipeline
from modeling_mgvmoe.pipeline_mgvmoe import GRAPH_TASK, TASK, ZeroShotMultimodalIEPipeline
from tests.support.from_scratch import (
    LABELS,
    POSTS,
    RELATIONS,
    drawing,
    nearly,
    scratch_model,
    scratch_similarity,
)

pytestmark = pytest.mark.numerical

# Extraction batches what single calls do one by one: equal up to the rounding of double precision.
MODEL, PROCESSOR = scratch_model(torch.double)


MANY = [
    "boat",
    "Kelo sails",
    "it",
    "again",
    "bird",
    "dawn",
    "Mura",
    "we all saw",
    "nothing",
    "harbour",
    "red",
    "chase",
]


def graphs(posts=POSTS, **options):
    return MODEL.extract(posts, LABELS, RELATIONS, processor=PROCESSOR, **options)


def singles(pipe, post, **options):
    """The same by single calls of the other pipeline."""
    spans = [tuple(span.values()) if isinstance(span, dict) else tuple(span) for span in post["mentions"]]
    same = {"text": post["text"], "image": post.get("image")}
    types = [pipe({**same, "mention": span}, candidate_labels=LABELS, **options) for span in spans]
    pairs = {
        (head, tail): pipe({**same, "head": spans[head], "tail": spans[tail]}, candidate_labels=RELATIONS, **options)
        for head in range(len(spans))
        for tail in range(len(spans))
        if head != tail
    }
    return types, pairs


def assert_ranking(found, expected):
    assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
    assert [entry["score"] for entry in found] == pytest.approx([entry["score"] for entry in expected], abs=1e-9)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_scores_are_those_of_single_calls(batch_size):
    pipe = ZeroShotMultimodalIEPipeline(model=MODEL, processor=PROCESSOR)
    found = graphs(batch_size=batch_size)
    assert [graph["id"] for graph in found] == ["a", None, 3, "empty"]
    for post, graph in zip(POSTS, found, strict=True):
        assert set(graph) == {"id", "text", "mentions", "relations"} and graph["text"] == post["text"]
        types, pairs = singles(pipe, post)
        for mention, ranking in zip(graph["mentions"], types, strict=True):
            assert mention["text"] == post["text"][mention["start"] : mention["end"]]
            assert (mention["label"], mention["score"]) == (ranking[0]["label"], mention["scores"][0]["score"])
            assert_ranking(mention["scores"], ranking)
        assert [(one["head"], one["tail"]) for one in graph["relations"]] == list(pairs)
        said = {(one["head"], one["tail"]): one["label"] for one in graph["relations"]}
        for relation in graph["relations"]:
            best, second = (one["label"] for one in relation["scores"][:2])
            # No relation is said to be symmetric: where both directions have one best answer, one takes its second.
            assert relation["label"] in (best, second)
            assert relation["label"] != said[relation["tail"], relation["head"]]
            assert_ranking(relation["scores"], pairs[relation["head"], relation["tail"]])
    assert json.loads(json.dumps(found)) == found


def test_scores_of_a_model_whose_scores_begin_as_similarity():
    model, processor = scratch_similarity(torch.double)
    with torch.no_grad():
        model.similarity.gate.fill_(0.2)
    options = {"label_types": {"greets": ("boat", "bird")}, "type_descriptions": {"boat": "it sails"}}
    pipe = ZeroShotMultimodalIEPipeline(model=model, processor=processor)
    (graph,) = model.extract(POSTS[:1], LABELS, RELATIONS, processor=processor, **options)
    types, pairs = singles(pipe, POSTS[0], **options)
    for mention, ranking in zip(graph["mentions"], types, strict=True):
        assert_ranking(mention["scores"], ranking)
    for relation in graph["relations"]:
        assert_ranking(relation["scores"], pairs[relation["head"], relation["tail"]])


def test_the_tower_sees_every_image_once_and_labels_are_encoded_once():
    model, processor = scratch_model(torch.double)
    drawings, texts = [], []
    model.mgvmoe.vision_model.register_forward_pre_hook(
        lambda *args: drawings.append(len(args[-1]["pixel_values"])), with_kwargs=True
    )
    encode = model.get_candidate_embeds
    model.get_candidate_embeds = lambda candidate_input_ids, **more: (
        texts.append(len(candidate_input_ids)) or encode(candidate_input_ids, **more)
    )
    again = {**POSTS[2], "id": "again"}  # another post with the image of the third
    model.extract([*POSTS, again], LABELS, RELATIONS, processor=processor, batch_size=3)
    # Two distinct images of posts with mentions, for 6 typed mentions and 8 pairs in at least 5 batches.
    assert sum(drawings) == 2
    assert texts == [len(LABELS), len(RELATIONS)]


def test_marked_texts_of_like_length_share_a_batch(monkeypatch):
    lengths = []
    model, processor = scratch_model(torch.double)
    model.mgvmoe.register_forward_pre_hook(
        lambda *args: lengths.append(args[-1]["attention_mask"].sum(1).tolist()), with_kwargs=True
    )
    long = {"text": "Kelo sails at dawn and " * 4, "mentions": [(0, 4)]}
    short = {"text": "Kelo sails", "mentions": [(0, 4)]}
    model.extract([long, short, long, short], LABELS, processor=processor, batch_size=2)
    assert [len(set(batch)) for batch in lengths] == [1, 1]


def test_either_task_alone():
    (typed,) = MODEL.extract(POSTS[:1], LABELS, processor=PROCESSOR)
    assert typed["relations"] == [] and len(typed["mentions"]) == 3
    (related,) = MODEL.extract(POSTS[:1], relation_labels=RELATIONS, processor=PROCESSOR)
    assert related["mentions"][0] == {"start": 0, "end": 4, "text": "Kelo"}
    whole = graphs()[0]
    for mention, same in zip(typed["mentions"], whole["mentions"], strict=True):
        assert_ranking(mention["scores"], same["scores"])
    assert [one["label"] for one in related["relations"]] == [one["label"] for one in whole["relations"]]


# Rules


def test_pairs_are_pruned_by_the_predicted_types():
    # Two labels of which the first and the last mention choose different ones, whatever the random weights are.
    (typed,) = MODEL.extract(POSTS[:1], MANY, processor=PROCESSOR)
    first, _, last = ({one["label"]: one["score"] for one in mention["scores"]} for mention in typed["mentions"])
    labels = max(itertools.permutations(MANY, 2), key=lambda pair: min(
        first[pair[0]] / first[pair[1]], last[pair[1]] / last[pair[0]]))  # fmt: skip
    (free,) = MODEL.extract(POSTS[:1], labels, RELATIONS, processor=PROCESSOR)
    types = [mention["label"] for mention in free["mentions"]]
    assert (types[0], types[2]) == labels
    constraints = dict.fromkeys(RELATIONS, (types[0], types[2]))
    calls = []
    hook = MODEL.mgvmoe.register_forward_pre_hook(
        lambda *args: calls.append(len(args[-1]["input_ids"])), with_kwargs=True
    )
    options = {"processor": PROCESSOR, "relation_constraints": constraints}
    (pruned,) = MODEL.extract(POSTS[:1], labels, RELATIONS, **options)
    hook.remove()
    fitting = [
        (head, tail)
        for head in range(3)
        for tail in range(3)
        if head != tail and (types[head], types[tail]) == (types[0], types[2])
    ]
    assert [(one["head"], one["tail"]) for one in pruned["relations"]] == fitting
    assert sum(calls) == 3 + len(fitting) < 9  # the others are not even scored
    one = {(two["head"], two["tail"]): two for two in free["relations"]}
    for relation in pruned["relations"]:
        assert_ranking(relation["scores"], one[relation["head"], relation["tail"]]["scores"])


def test_a_constraint_leaves_the_other_relations_of_a_pair():
    types = [mention["label"] for mention in graphs()[0]["mentions"]]
    other = next(label for label in LABELS if label not in types)
    pruned = graphs(POSTS[:1], relation_constraints={"greets": (other, other)})[0]
    assert len(pruned["relations"]) == 6
    for relation, free in zip(pruned["relations"], graphs()[0]["relations"], strict=True):
        scores = {entry["label"]: entry["score"] for entry in free["scores"]}
        # A softmax over what is left.
        left = {label: score / (1 - scores["greets"]) for label, score in scores.items() if label != "greets"}
        assert {entry["label"]: entry["score"] for entry in relation["scores"]} == pytest.approx(left, abs=1e-9)


def logits_of(post, head, tail, labels=RELATIONS):
    inputs = PROCESSOR(
        text=post["text"], mentions=[head, tail], images=[post["image"]], candidate_labels=labels, return_tensors="pt"
    )
    with torch.no_grad():
        return MODEL(**inputs).logits[0].double()


def test_a_symmetric_relation_has_one_score_from_the_mean_of_both_logits():
    post = {**POSTS[0], "mentions": POSTS[0]["mentions"][:2]}
    forward, backward = logits_of(post, *post["mentions"]), logits_of(post, *post["mentions"][::-1])
    mean = (forward + backward) / 2
    # All relations symmetric: the softmax of the means, listed once.
    (graph,) = graphs([post], symmetric=RELATIONS)
    (relation,) = graph["relations"]
    assert (relation["head"], relation["tail"]) == (0, 1)
    scores = {entry["label"]: entry["score"] for entry in relation["scores"]}
    assert [scores[label] for label in RELATIONS] == pytest.approx(mean.softmax(-1).tolist(), abs=1e-9)
    # One of them: its score is the same in both directions.
    (graph,) = graphs([post], symmetric=["chases"])
    rankings = [{entry["label"]: entry["score"] for entry in one["scores"]} for one in graph["relations"]]
    place = RELATIONS.index("chases")
    one, other = forward.clone(), backward.clone()
    one[place] = other[place] = mean[place]
    expected = (one.softmax(-1)[place] + other.softmax(-1)[place]).item() / 2
    assert [ranking["chases"] for ranking in rankings] == pytest.approx([expected] * len(rankings), abs=1e-9)


def test_inverse_relations_are_consistent_both_ways():
    (graph,) = graphs(POSTS[:1], inverses={"greets": "chases"}, symmetric=["teaches"])
    found = {(one["head"], one["tail"]): one for one in graph["relations"]}
    turned = {"greets": "chases", "chases": "greets"}
    for (head, tail), relation in found.items():
        if relation["label"] == "teaches":
            assert head < tail and (tail, head) not in found
            continue
        other = found[tail, head]
        assert other["label"] == turned[relation["label"]]
        assert other["score"] == relation["score"]
    # Every pair of mentions has an answer: two for inverse relations, one for the symmetric one.
    assert {frozenset(pair) for pair in found} == {frozenset(pair) for pair in [(0, 1), (0, 2), (1, 2)]}


def test_rejection():
    free = graphs()[0]
    scores = sorted(mention["score"] for mention in free["mentions"])
    found = graphs(threshold={"typing": scores[1]})[0]
    assert [mention["label"] for mention in found["mentions"]] == [
        None if mention["score"] < scores[1] else mention["label"] for mention in free["mentions"]
    ]
    assert sum(mention["label"] is None for mention in found["mentions"]) == 1
    assert found["relations"] == free["relations"]
    scores = sorted(relation["score"] for relation in free["relations"])
    found = graphs(threshold={"relation": scores[2]})[0]
    assert found["relations"] == [relation for relation in free["relations"] if relation["score"] >= scores[2]]
    assert graphs(threshold=0.0) == graphs()
    nothing = graphs(threshold=1.0)[0]
    assert nothing["relations"] == [] and {mention["label"] for mention in nothing["mentions"]} == {None}


def test_a_mention_of_no_type_fits_no_constraint():
    constraints = dict.fromkeys(RELATIONS, (LABELS, LABELS))
    assert len(graphs(relation_constraints=constraints)[0]["relations"]) == 6
    assert graphs(relation_constraints=constraints, threshold={"typing": 1.0})[0]["relations"] == []


def test_types_as_paths():
    labels = ["alive > bird", "thing > boat", "thing > cake"]
    post = {"text": "Kelo greets Mura", "mentions": [(0, 4), (12, 16)]}
    (graph,) = MODEL.extract([post], labels, RELATIONS, processor=PROCESSOR, label_separator=">")
    mention = graph["mentions"][0]
    assert mention["levels"][-1] == {"label": mention["label"], "score": pytest.approx(mention["score"])}
    pipe = ZeroShotMultimodalIEPipeline(model=MODEL, processor=PROCESSOR)
    expected = pipe({"text": post["text"], "mention": (0, 4)}, candidate_labels=labels, label_separator=">")
    assert_ranking(mention["scores"], expected)
    everywhere = {name: (["alive", "thing"], ["alive", "thing"]) for name in RELATIONS}
    options = {"processor": PROCESSOR, "label_separator": ">", "relation_constraints": everywhere}
    assert len(MODEL.extract([post], labels, RELATIONS, **options)[0]["relations"]) == 2


# Further options


def test_top_k_and_embeddings():
    whole, short = graphs(), graphs(top_k=2, return_embeds=True)
    assert short[0]["mentions"][0]["scores"] == whole[0]["mentions"][0]["scores"][:2]
    assert short[0]["relations"][0]["scores"] == whole[0]["relations"][0]["scores"][:2]
    assert short[1]["image_embeds"] is short[3]["image_embeds"] is None
    inputs = PROCESSOR(text="Kelo", mentions=(0, 4), images=[drawing(1)], return_tensors="pt")
    with torch.no_grad():
        expected = MODEL.mgvmoe(**inputs).image_embeds[0].numpy()
    # Embeddings come in single precision.
    assert short[0]["image_embeds"] == pytest.approx(expected, rel=1e-6)


def test_draws():
    torch.manual_seed(0)
    found = graphs(num_samples=16)
    mention = found[0]["mentions"][0]
    assert mention["deviation"] > 0 and mention["mutual_information"] > 0
    assert {"label", "score", "deviation"} == set(mention["scores"][0])
    assert sum(entry["score"] for entry in mention["scores"]) == pytest.approx(1)
    assert {"deviation", "mutual_information"} < set(found[0]["relations"][0])
    symmetric = graphs(num_samples=16, symmetric=RELATIONS)[0]["relations"]
    assert len(symmetric) == 3 and symmetric[0]["deviation"] > 0


def test_any_number_of_posts_in_a_stream():
    extractor = GraphExtractor(MODEL, PROCESSOR, LABELS, RELATIONS)
    read = []

    def endless():
        number = 0
        while True:
            read.append(number)
            yield {**POSTS[number % 4], "id": number}
            number += 1

    stream = extractor.stream(endless(), posts_at_once=3)
    found = [next(stream) for _ in range(7)]
    assert [graph["id"] for graph in found] == list(range(7))
    assert len(read) == 9
    for graph, expected in zip(found, graphs() + graphs(), strict=False):
        assert [one["label"] for one in graph["relations"]] == [one["label"] for one in expected["relations"]]


def test_labels_that_name_their_inverses_are_linked():
    expected = graphs(inverses={"greets": "chases"}, symmetric=["teaches"])
    names = {"greets": "chases", "teaches": "teaches"}
    labels = [Label(name, inverse=names.get(name)) for name in RELATIONS]
    assert MODEL.extract(POSTS, LABELS, labels, processor=PROCESSOR) == expected != graphs()
    for wrong, argument in (
        (("symmetric", "greets"), "symmetric: a list"),
        (("inverses", ["greets"]), "inverses: a dict"),
    ):
        with pytest.raises(ValueError, match=f"^{argument} of relation"):
            graphs(**dict([wrong]))
    # The inverse of one is no candidate here: it says nothing.
    unknown = [Label(name, inverse=f"{name} by") for name in RELATIONS]
    assert MODEL.extract(POSTS, LABELS, unknown, processor=PROCESSOR) == graphs()
    for given in ({"symmetric": ["greets"]}, {"inverses": {"chases": "teaches"}}):
        with pytest.raises(ValueError, match="symmetric, inverses: what belongs to a Label is said in it alone"):
            MODEL.extract(POSTS, LABELS, labels, processor=PROCESSOR, **given)


def test_the_model_stays_in_its_mode():
    model, processor = scratch_model(torch.double)
    model.train()
    assert [one["relations"] for one in model.extract(POSTS, LABELS, RELATIONS, processor=processor)] == [
        one["relations"] for one in graphs()
    ]
    assert model.training and not model.mgvmoe.vision_model.training


def test_mentions_that_a_function_finds():
    def finder(text):
        return [{"start": text.index(word), "end": text.index(word) + len(word)} for word in ("Mura ", "Kelo", "Kelo")]

    (found,) = graphs([{"text": POSTS[0]["text"], "image": drawing(1)}], mention_finder=finder)
    assert [(mention["start"], mention["end"]) for mention in found["mentions"]] == [(0, 4), (12, 16)]
    numbers = [{"start": np.int64(0), "end": np.int64(4)}, {"start": 4, "end": 5}]
    (found,) = graphs([{"text": "Kelo\u200b sails"}], mention_finder=lambda text: numbers)
    assert json.loads(json.dumps(found))["mentions"][0]["end"] == 4 and len(found["mentions"]) == 1
    for wrong in ([(0, 4)], None, [{"start": 0}], [{"start": 0, "end": 99}], [{"start": 0.0, "end": 4.0}]):
        with pytest.raises(ValueError, match="mention_finder: "):
            graphs([{"text": "Kelo sails"}], mention_finder=lambda text, found=wrong: found)
    # Posts with mentions of their own keep them.
    assert graphs(mention_finder=lambda text: 1 / 0) == graphs()


def test_mentions_that_a_token_classification_pipeline_finds():
    from transformers import BertConfig, BertForTokenClassification

    config = BertConfig(
        vocab_size=len(PROCESSOR.tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=3, id2label={0: "O", 1: "B-NAME", 2: "I-NAME"},
    )  # fmt: skip
    tagger = BertForTokenClassification(config).eval()
    with torch.no_grad():
        # Every token is inside of a name: one mention, the whole text.
        tagger.classifier.weight.zero_()
        tagger.classifier.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    finder = pipeline("token-classification", model=tagger, tokenizer=PROCESSOR.tokenizer)
    (found,) = graphs([{"text": "Kelo sails"}], mention_finder=finder)
    assert [mention["text"] for mention in found["mentions"]] == ["Kelo sails"]


@pytest.mark.parametrize("span", [(np.int64(0), np.int64(4)), [0, 4], {"start": 0, "end": 4}, "Kelo"])
def test_every_form_of_a_span_is_extracted_alike(span):
    text = "Kelo greets Mura"
    expected = graphs([{"text": text, "mentions": [(0, 4), (12, 16)]}])
    assert graphs([{"text": text, "mentions": [span, "Mura"], "image": float("nan")}]) == expected


def test_an_unknown_column_is_ignored_and_a_misspelt_key_is_named():
    post = {"text": "Kelo", "mentions": [(0, 4)]}
    with pytest.warns(UserWarning, match="'rating_of_the_post'"):
        assert graphs([{**post, "rating_of_the_post": 3}]) == graphs([post])
    slip = LABELS[0] + "s"
    with pytest.raises(ValueError, match=f"label_descriptions: '{slip}' .* did you mean '{LABELS[0]}'"):
        graphs([post], label_descriptions={slip: "a sentence"})


# Errors

BAD_POSTS = [
    ("a post", "posts\\[1\\]: a dict with 'text' and 'mentions' is needed \\(got str: 'a post'\\)"),
    ({"text": None, "mentions": []}, "posts\\[1\\]: 'text' must be a string \\(got NoneType\\)"),
    ({"text": "Kelo"}, "posts\\[1\\]: 'mentions' is needed, a list of spans; or a mention_finder"),
    ({"text": "Kelo", "mentions": [(0, 9)]}, "posts\\[1\\], mentions\\[0\\]: 0 <= start < end <= 4"),
    ({"text": "Kelo", "mentions": [{"start": 0}]}, "posts\\[1\\], mentions\\[0\\]: 'start' and 'end' are needed"),
    ({"text": "Kelo", "mentions": [(0, 4), [0, 4]]}, "posts\\[1\\]: mentions must be distinct"),
    ({"text": "Kelo", "mentions": 3}, "posts\\[1\\]: 'mentions' must be a list of spans \\(got 3\\)"),
    ({"text": "Kelo", "mentions": ["Mura"]}, "posts\\[1\\], mentions\\[0\\]: the words 'Mura' .*got 0 times"),
    ({"text": "Kelo", "mentions": [(0, 4)], "image": "no.png"}, "posts\\[1\\]: images.*cannot read image 'no.png'"),
]


@pytest.mark.parametrize(("post", "message"), BAD_POSTS)
def test_bad_posts(post, message):
    with pytest.raises(ValueError, match=message):
        graphs([POSTS[0], post])
    found = graphs([POSTS[0], post, POSTS[2]], errors="return")
    assert "error" not in found[0] and "error" not in found[2] and found[0] == nearly(graphs()[0])
    assert found[1]["mentions"] == found[1]["relations"] == []
    assert found[1]["error"].startswith(("posts[1]", "images"))


def test_a_mention_without_a_token_is_told_of_one_post():
    model, processor = scratch_similarity(torch.double)
    control = {"id": 5, "text": "Kelo \u200b\ufffd sails", "mentions": [(0, 4), (6, 7)]}
    with pytest.raises(ValueError, match="makes no token of the mention.*in the post 'Kelo"):
        model.extract([control], LABELS, RELATIONS, processor=processor)
    found = model.extract([control, POSTS[0]], LABELS, RELATIONS, processor=processor, errors="return")
    assert found[0]["id"] == 5 and "makes no token" in found[0]["error"] and found[0]["mentions"] == []
    assert len(found[1]["relations"]) == 6


BAD_OPTIONS = [
    ({"processor": None}, "processor: the model's processor is needed"),
    ({"processor": PROCESSOR.tokenizer}, "processor: an MGVMoEProcessor is needed"),
    ({"typing_labels": None, "relation_labels": None}, "typing_labels, relation_labels: at least one list"),
    ({"typing_labels": []}, "typing_labels: a non-empty list of labels is needed"),
    ({"relation_labels": "greets"}, "relation_labels: a non-empty list of labels is needed \\(got 'greets'\\)"),
    ({"batch_size": 0}, "batch_size: an integer of at least 1 is needed \\(got 0\\)"),
    ({"top_k": 0}, "top_k: an integer of at least 1 is needed"),
    ({"num_samples": 1.5}, "num_samples: an integer of at least 1 is needed \\(got 1.5\\)"),
    ({"errors": "ignore"}, "errors: one of raise, return is needed \\(got 'ignore'\\)"),
    ({"mention_finder": "ner"}, "mention_finder: a token-classification pipeline or a function .*got str"),
    ({"threshold": 2}, "threshold: a score between 0 and 1 is needed \\(got 2\\)"),
    ({"reject_by": "energy"}, "reject_by: one of probability, ratio, logit, calibrated is needed \\(got 'energy'\\)"),
    ({"threshold": {"types": 0.5}}, "threshold: the keys typing, relation are known \\(got \\['types'\\]\\)"),
    (
        {"relation_labels": None, "symmetric": ["a"]},
        "relation_constraints, symmetric, inverses: they need relation_labels",
    ),
    ({"typing_labels": None, "relation_constraints": {"greets": ("a", "b")}}, "they need typing_labels"),
    ({"relation_constraints": {"greets": ("boat", "persn")}}, "types must be typing labels \\(got 'persn'\\)"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options(options, message):
    arguments = {"typing_labels": LABELS, "relation_labels": RELATIONS, "processor": PROCESSOR, **options}
    with pytest.raises(ValueError, match=message):
        MODEL.extract(POSTS, **arguments)


def test_a_misspelt_option():
    with pytest.raises(TypeError, match="symmetrical"):
        graphs(symmetrical=RELATIONS)


# The pipeline


@pytest.fixture
def pipe():
    return pipeline(GRAPH_TASK, model=MODEL, processor=PROCESSOR)


def test_the_pipeline_gives_the_same(pipe):
    assert type(pipe) is MultimodalGraphExtractionPipeline and pipe.task == GRAPH_TASK
    labels = {"typing_labels": LABELS, "relation_labels": RELATIONS, "symmetric": ["chases"]}
    expected = graphs(symmetric=["chases"])
    for batch_size in (1, 3):
        for posts in (POSTS, (post for post in POSTS)):
            found = list(pipe(posts, batch_size=batch_size, **labels))
            for one, other in zip(found, expected, strict=True):
                assert (one["id"], one["text"]) == (other["id"], other["text"])
                for name in ("mentions", "relations"):
                    assert [item["label"] for item in one[name]] == [item["label"] for item in other[name]]
                    for item, same in zip(one[name], other[name], strict=True):
                        assert_ranking(item["scores"], same["scores"])
    assert pipe(POSTS[1], **labels) == nearly(graphs(POSTS[1:2], symmetric=["chases"])[0])
    assert pipe(POSTS[1:2], **labels) == [pipe(POSTS[1], **labels)]
    assert pipe([], **labels) == []


def test_labels_are_remembered_across_calls(pipe):
    pipe(POSTS, LABELS, RELATIONS, batch_size=2)
    assert len(pipe.candidate_embedder.cache) == len(LABELS) + len(RELATIONS)
    pipe.clear_candidate_cache()
    assert not pipe.candidate_embedder.cache


def test_options_of_the_pipeline():
    fixed = pipeline(GRAPH_TASK, model=MODEL, processor=PROCESSOR, typing_labels=LABELS, texts_at_once=2, top_k=1)
    assert len(fixed(POSTS[0])["mentions"][0]["scores"]) == 1
    with pytest.raises(TypeError, match="relation_label'"):
        fixed(POSTS[0], relation_label=RELATIONS)
    found = fixed([POSTS[0], {"text": 3}], errors="return", batch_size=2)
    assert "error" in found[1] and len(found[0]["mentions"]) == 3
    with pytest.raises(ValueError, match="candidate_cache_size must be at least 1, got 0"):
        pipeline(GRAPH_TASK, model=MODEL, processor=PROCESSOR, candidate_cache_size=0)


def test_a_saved_folder_gives_both_pipelines(pipe, tmp_path, own_module_cache):
    pipe.save_pretrained(tmp_path / "saved")
    folder = str(tmp_path / "saved")
    graph_pipe = pipeline(GRAPH_TASK, model=folder, trust_remote_code=True)
    assert type(graph_pipe).__module__.startswith("transformers_modules")
    labels = {"typing_labels": LABELS, "relation_labels": RELATIONS}
    assert graph_pipe(POSTS, **labels) == nearly(pipe(POSTS, **labels))
    # Without a task the folder is still that of the first pipeline.
    assert pipeline(model=folder, trust_remote_code=True).task == TASK
    graph_pipe.save_pretrained(tmp_path / "again")
    assert pipeline(model=str(tmp_path / "again"), trust_remote_code=True).task == TASK


def test_images_of_several_kinds(pipe, tmp_path):
    drawing(1).save(tmp_path / "one.png")
    kinds = [drawing(1), str(tmp_path / "one.png"), np.asarray(drawing(1))]
    found = pipe([{**POSTS[0], "image": kind} for kind in kinds], LABELS, RELATIONS, batch_size=3)
    assert found[0]["mentions"] == nearly(found[1]["mentions"]) == nearly(found[2]["mentions"])


@pytest.mark.parametrize("posts", [POSTS[0], POSTS[0]["text"], 3])
def test_one_post_is_no_list_of_posts(posts):
    with pytest.raises(ValueError, match="^posts: a list of posts is needed"):
        graphs(posts)


def test_pairs_are_encoded_a_few_at_a_time(monkeypatch):
    """A post's pairs grow with the square of its mentions; what is in memory of them does not."""
    model, processor = scratch_model()
    words = [f"Kelo{number}" for number in range(7)]
    text = " ".join(words)
    spans = [(text.index(word), text.index(word) + len(word)) for word in words]
    post = {"text": text, "mentions": spans}
    expected = model.extract([post], None, RELATIONS, processor=processor, batch_size=200)
    sizes, encode = [], GraphExtractor._encode_texts
    monkeypatch.setattr(
        GraphExtractor, "_encode_texts", lambda self, asked: (sizes.append(len(asked)), encode(self, asked))[1]
    )
    found = model.extract([post], None, RELATIONS, processor=processor, batch_size=2)
    # 42 pairs, 16 batches of 2 at a time.
    assert sizes == [32, 10]
    assert [(one["head"], one["tail"], one["label"]) for one in found[0]["relations"]] == [
        (one["head"], one["tail"], one["label"]) for one in expected[0]["relations"]
    ]


def test_images_by_address_when_they_are_allowed():
    post = {"text": "Kelo sails", "mentions": [(0, 4)], "image": "http://127.0.0.1:9/a.png"}
    graph = MultimodalGraphExtractionPipeline(model=MODEL, processor=PROCESSOR)
    for call in (graphs, lambda own, **options: graph(own, LABELS, **options)):
        with pytest.raises(ValueError, match="allow_image_urls=True"):
            call([post])
        with pytest.raises(ValueError, match=r"127\.0\.0\.1.*public"):
            call([post], allow_image_urls=True)


def test_a_captioner_that_fails_is_an_error_of_its_post():
    def captioner(image):
        raise ValueError("no words")

    posts = [{"id": "a", "text": "Kelo sails", "mentions": [(0, 4)], "image": drawing(1)}, POSTS[1]]
    pipe = MultimodalGraphExtractionPipeline(model=MODEL, processor=PROCESSOR)
    for batch_size in (1, 2):
        found = pipe(posts, LABELS, image_captioner=captioner, errors="return", batch_size=batch_size)
        assert found[0] == {"id": "a", "text": "Kelo sails", "mentions": [], "relations": [], "error": "no words"}
        assert found[1]["mentions"][0]["label"] in LABELS
    with pytest.raises(ValueError, match="no words"):
        pipe(posts, LABELS, image_captioner=captioner)
