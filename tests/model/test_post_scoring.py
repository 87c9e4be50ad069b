import pytest
import torch

from modeling_mgvmoe.modeling_mgvmoe import PostEmbeds
from tests.support.from_scratch import LABELS, RELATIONS, drawing, scratch_model, scratch_similarity

pytestmark = pytest.mark.numerical

POSTS = {
    "text": ["Kelo sails at dawn", "Kelo greets Mura", "we all saw Mura"],
    "mentions": [(0, 4), [(0, 4), (12, 16)], (11, 15)],
    "images": [drawing(1), None, drawing(2)],
}
TYPES = {"greets": ("boat", ["bird", "cake"]), "chases": ("bird", "boat")}


def counted(module):
    """Number of passes of a module from now on."""
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.fixture(params=["projection", "similarity"])
def trial(request):
    """Model, processor, and what labels are given with; double precision, as every test compares two computations."""
    if request.param == "projection":
        return *scratch_model(torch.double), {}
    model, processor = scratch_similarity(torch.double)
    with torch.no_grad():
        model.similarity.gate.fill_(0.3)
    return model, processor, {"label_types": TYPES}


@torch.no_grad()
def test_new_labels_need_no_second_pass_of_the_encoders(trial):
    model, processor, options = trial
    posts = model.encode_posts(**processor(**POSTS, return_tensors="pt"))
    expected = {}
    for labels in (LABELS, RELATIONS):
        inputs = processor(**POSTS, candidate_labels=labels, return_tensors="pt", **options)
        expected[labels[0]] = model(**inputs).logits
    tower, fusion = counted(model.mgvmoe.vision_model), counted(model.mgvmoe.experts.router)
    texts = counted(model.mgvmoe.text_model)
    for labels in (LABELS, RELATIONS):
        encoded = processor.encode_candidates(labels, return_tensors="pt", **options)
        logits = model.score(posts, **model.encode_candidates(encoded))
        torch.testing.assert_close(logits, expected[labels[0]])
    assert not tower and not fusion
    # The labels' own texts and, where they have types, these.
    assert len(texts) == (2 if not options else 4)


@torch.no_grad()
def test_labels_of_each_post(trial):
    model, processor, options = trial
    lists = [LABELS, RELATIONS, ["cake", "chases"]]
    posts = model.encode_posts(**processor(**POSTS, return_tensors="pt"))
    encoded = processor.encode_candidates(lists, return_tensors="pt", **options)
    logits = model.score(posts, **model.encode_candidates(encoded))
    torch.testing.assert_close(
        logits, model(**processor(**POSTS, candidate_labels=lists, return_tensors="pt", **options)).logits
    )
    assert [(row > -torch.inf).sum().item() for row in logits] == [4, 3, 2]
    for row, labels in enumerate(lists):
        alone = processor.encode_candidates(labels, return_tensors="pt", **options)
        own = model.score(posts.rows([row]), **model.encode_candidates(alone))[0]
        torch.testing.assert_close(logits[row][logits[row] > -torch.inf].sort().values, own.sort().values)


@torch.no_grad()
def test_embeddings_of_candidates_for_each_post(trial):
    """(B, C, H): as many candidates a post, other ones for each."""
    model, processor, _ = trial
    posts = model.encode_posts(**processor(**POSTS, return_tensors="pt"))
    tokens = [
        processor.encode_candidates(labels, return_tensors="pt") for labels in (LABELS[:3], RELATIONS, LABELS[1:])
    ]
    own = torch.stack([model.get_candidate_embeds(**one) for one in tokens])
    logits = model.score(posts, own)
    for row in range(3):
        torch.testing.assert_close(logits[row], model.score(posts.rows([row]), own[row])[0])


@torch.no_grad()
def test_kept_posts_are_joined_and_taken_apart(trial):
    model, processor, options = trial
    inputs = processor(**POSTS, return_tensors="pt")
    whole = model.encode_posts(**inputs, sample_noise=torch.zeros(2, 3, 32).double())
    typing = processor(
        text=POSTS["text"][0], mentions=POSTS["mentions"][0], images=POSTS["images"][:1], return_tensors="pt"
    )
    first = model.encode_posts(**typing, sample_noise=torch.zeros(2, 1, 32).double())
    joined = PostEmbeds.concatenate([first, whole.rows(slice(1, 3))])
    labels = model.encode_candidates(processor.encode_candidates(RELATIONS, return_tensors="pt", **options))
    torch.testing.assert_close(model.score(joined, **labels), model.score(whole, **labels))
    torch.testing.assert_close(model.score_samples(joined, **labels)[0], model.score(whole, **labels))
    with pytest.raises(ValueError, match="posts that were encoded alike are needed"):
        PostEmbeds.concatenate([first, model.encode_posts(**inputs)])


def test_errors():
    model, processor = scratch_model()
    posts = model.encode_posts(**processor(**POSTS, return_tensors="pt"))
    labels = torch.randn(2, 32)
    with pytest.raises(TypeError, match="unknown arguments: pixel_value"):
        model.encode_posts(**processor(**POSTS, return_tensors="pt"), pixel_value=1)
    with pytest.raises(ValueError, match="candidate_types and type_embeds must be given together"):
        model.score(posts, labels, type_embeds=labels)
    with pytest.raises(ValueError, match='candidate_types need a model with score="similarity"'):
        model.score(posts, labels, candidate_types=torch.ones(2, 2, 2, dtype=torch.bool), type_embeds=labels)
    with pytest.raises(ValueError, match="they have no draws; encode them with num_samples"):
        model.score_samples(posts, labels)
