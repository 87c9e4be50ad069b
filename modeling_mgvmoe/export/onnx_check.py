"""An export against the model that it was made from: the same posts and labels through both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.schema import task_of
from ..data.sketchbook import generate_posts, split_classes
from ..evaluation.report import markdown_table

if TYPE_CHECKING:
    from ..pipeline_mgvmoe import ZeroShotMultimodalIEPipeline

# Greatest difference of a logit, for each unit of the greatest logit, and for logits below 1 absolute.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Difference:
    """One case.

    Attributes:
        case: what it is of.
        posts, labels: how many.
        logits: greatest difference of a logit.
        scores: greatest difference of a score, the softmax of a post's logits.
        largest: greatest absolute logit.
    """

    case: str
    posts: int
    labels: int
    logits: float
    scores: float
    largest: float

    @property
    def within(self) -> bool:
        """Whether both are the same but for rounding."""
        return self.logits <= TOLERANCE * max(1.0, self.largest)


def check_onnx(torch_pipe: ZeroShotMultimodalIEPipeline, onnx_pipe: ZeroShotMultimodalIEPipeline) -> list[Difference]:
    """Compare logits and scores over batches of several sizes, lengths and numbers of labels.

    The posts are the sketchbook's, typing and relations, with an image, without, and mixed.

    Args:
        torch_pipe: over the model.
        onnx_pipe: over its export.
    """
    both = _posts()
    pairs = torch_pipe.model.config.max_mentions > 1
    if not pairs:
        both = [post for post in both if task_of(post) == "typing"]
    typing = [post for post in both if task_of(post) == "typing"]
    labels = {task: list(split_classes(task, 0).test) for task in ("typing", "relation")}
    sentences = {name: [name, f"It is a {name}.", f"One sees a {name} there."] for name in labels["typing"][:4]}
    bare = [{**post, "image": None} for post in both]
    long = [{**post, "text": post["text"] + " and on it went, as such days do," * 40} for post in both]
    cases: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [
        ("one post, one label", typing[:1], {"candidate_labels": labels["typing"][:1]}),
        ("images", typing, {"candidate_labels": labels["typing"]}),
        ("no images", bare[:5], {"candidate_labels": labels["relation"]}),
        ("some images", both[:3] + bare[3:], {"candidate_labels": labels["typing"][:5]}),
        ("long posts", long, {"candidate_labels": labels["relation"][:2]}),
        ("several sentences", both, {"candidate_labels": labels["typing"], "label_descriptions": sentences}),
    ]
    if getattr(onnx_pipe.model, "reads_image_text", False):
        told = [{**post, "image_text": post["text"][::-1]} for post in both]
        cases.append(("image texts", told, {"candidate_labels": labels["typing"]}))
        mixed = [{**own, "image": None} for own in told[:2]] + bare[2:4] + told[4:]
        cases.append(("some image texts", mixed, {"candidate_labels": labels["relation"][:5]}))
    if torch_pipe.model.config.score == "similarity":
        types = {name: (["person", "animal"], "place") for name in labels["relation"][:5]}
        arguments = {
            "candidate_labels": labels["relation"],
            "label_types": types,
            "type_descriptions": {"place": ["a place", "somewhere"]},
        }
        cases.append(("types", both, arguments))
    return [_compare(case, torch_pipe, onnx_pipe, posts, arguments) for case, posts, arguments in cases]


def differences_table(found: Sequence[Difference]) -> str:
    """For a person."""
    rows = [
        [own.case, str(own.posts), str(own.labels), f"{own.logits:.1e}", f"{own.scores:.1e}", f"{own.largest:.2f}"]
        for own in found
    ]
    heads = ["case", "posts", "labels", "difference of logits", "of scores", "largest logit"]
    return markdown_table(heads, rows)


def _posts() -> list[dict[str, Any]]:
    """Four posts of each task, taking turns."""
    drawn = [
        generate_posts(task, "test", labels=split_classes(task, 0).test[::3], posts_per_class=1, image_size=48)
        for task in ("typing", "relation")
    ]
    return [
        {"text": post["text"], "mentions": post["mentions"], "image": post["image"]}
        for pair in zip(*drawn, strict=True)
        for post in pair
    ]


def _compare(
    case: str,
    torch_pipe: ZeroShotMultimodalIEPipeline,
    onnx_pipe: ZeroShotMultimodalIEPipeline,
    posts: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any],
) -> Difference:
    found = []
    for function in ("none", "softmax"):
        answers = [
            pipe(list(posts), batch_size=len(posts), function_to_apply=function, **arguments)
            for pipe in (torch_pipe, onnx_pipe)
        ]
        ours, theirs = (
            [{item["label"]: item["score"] for item in ranking} for ranking in rankings] for rankings in answers
        )
        gaps = [abs(own[name] - other[name]) for own, other in zip(ours, theirs, strict=True) for name in own]
        found.append((max(gaps), max(abs(score) for own in ours for score in own.values())))
    return Difference(
        case=case,
        posts=len(posts),
        labels=len(arguments["candidate_labels"]),
        logits=found[0][0],
        scores=found[1][0],
        largest=found[0][1],
    )
