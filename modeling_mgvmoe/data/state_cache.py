"""The pooled states of a frozen text encoder: posts, labels and types are read once, and training reads these vectors.

A frozen encoder gives the same states in every epoch. Residual experts need only one vector for each post, mention,
image text and label, so that an epoch over them takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..labels import in_evaluation
from .encoding import PostCollator
from .progress_bar import progress_bar

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE


def caches_states(model: MGVMoEForZeroShotIE) -> bool:
    """Whether the states of the model's text encoder can be read once: it is frozen and its experts are residual."""
    trains = any(parameter.requires_grad for parameter in model.mgvmoe.text_model.parameters())
    return model.config.expert_type == "residual" and model.config.freeze_text and not trains


def cache_states(
    model: MGVMoEForZeroShotIE,
    encoded: Mapping[str, Sequence[dict[str, Any]]],
    collators: Mapping[str, PostCollator],
    batch_size: int = 64,
    progress: bool = False,
) -> None:
    """Read the posts and labels of all splits once, where [`caches_states`] says that this is enough.

    Args:
        model: whose batches the collators make.
        encoded: by split, of [`encode_posts`], changed in place.
        collators: by split, changed in place.
        batch_size: in posts; changes nothing but speed.
        progress: show a bar for each split.
    """
    if not caches_states(model):
        return
    for split, posts in encoded.items():
        title = f"reading {split} posts once" if progress else None
        cache_post_states(model, posts, collators[split], batch_size, title)
        cache_candidate_states(model, collators[split])


def cache_post_states(
    model: MGVMoEForZeroShotIE,
    encoded_posts: Sequence[dict[str, Any]],
    collator: PostCollator,
    batch_size: int = 64,
    progress: str | None = None,
) -> None:
    """Give every encoded post that has none its `post_states`, which a collator then takes instead of its tokens.

    Args:
        model: with a frozen text encoder.
        encoded_posts: of [`encode_posts`], changed in place.
        collator: pads them.
        batch_size: in posts; changes nothing but speed.
        progress: title of a progress bar; `None` shows none.
    """
    # Posts of like length together, so that little is padded.
    waiting = [index for index, post in enumerate(encoded_posts) if "post_states" not in post]
    order = sorted(waiting, key=lambda index: len(encoded_posts[index]["input_ids"]))
    names = ("input_ids", "attention_mask", "mention_mask", "image_text_input_ids", "image_text_attention_mask")
    with progress_bar(desc=progress, total=len(order)) as bar:
        for start in range(0, len(order), batch_size):
            chunk = [encoded_posts[index] for index in order[start : start + batch_size]]
            without_pixels = [
                {name: value for name, value in post.items() if name not in ("pixel_values", "image_row")}
                for post in chunk
            ]
            batch = collator.model_inputs(without_pixels)
            inputs = {name: batch[name].to(model.device) for name in names if name in batch}
            with in_evaluation(model):
                states = model.mgvmoe.get_post_states(**inputs)
            for post, own in zip(chunk, states.cpu(), strict=True):
                post["post_states"] = own
            bar.update(len(chunk))


def cache_candidate_states(model: MGVMoEForZeroShotIE, collator: PostCollator) -> None:
    """Replace the tokens of a collator's labels and types by their pooled states, in place.

    Args:
        model: with a frozen text encoder.
        collator: whose batches then have `candidate_states` and, with types, `type_states`.
    """
    candidates = collator.candidates
    for name in ("candidate", "type"):
        ids, mask = candidates.pop(f"{name}_input_ids", None), candidates.pop(f"{name}_attention_mask", None)
        if ids is not None:
            with in_evaluation(model):
                states = model.mgvmoe.get_candidate_states(
                    ids.to(model.device), None if mask is None else mask.to(model.device)
                )
            candidates[f"{name}_states"] = states.cpu()
