"""What the model refuses, by name, before torch would fail from inside or, worse, not at all.

Axes: B = posts, Lt = text tokens, S = marked mentions, C = candidate labels, P = their texts, T = types of heads and
tails. What needs a look at the values is left out when torch compiles.
"""

from typing import Any

import torch


def refuse_unknown(arguments: dict[str, Any]) -> None:
    """`forward` takes **kwargs as transformers expects of it, but a misspelt mask must not pass unseen.

    `None` says nothing and passes: PEFT, for one, hands on `inputs_embeds=None`.
    """
    unknown = sorted(name for name, value in arguments.items() if value is not None)
    if unknown:
        raise TypeError(f"forward got unknown arguments: {', '.join(unknown)}.")


def check_tensors(**arguments: Any) -> None:
    """Refuse what is no tensor: lists of a processor without `return_tensors`, labels as words.

    Args:
        arguments: of `forward`, by name; `None` for those that are left out.

    Raises:
        ValueError: naming the argument and what it is.
    """
    for name, value in arguments.items():
        if value is None or isinstance(value, torch.Tensor):
            continue
        if name == "labels":
            rule = "a tensor (B,) of numbers, each the place of the right label among the candidates"
        else:
            rule = 'a tensor; the processor makes them with return_tensors="pt"'
        raise ValueError(f"{name} must be {rule}, got {type(value).__name__} {value!r:.80}.")


def one_for_all(tensor: torch.Tensor | None, name: str, axes: int, posts: int) -> torch.Tensor | None:
    """Take what all posts share out of a batch that has it once for each post.

    Args:
        tensor: as it is, of `axes` axes, or (B, ...) with that many behind the posts'.
        name: of the argument.
        axes: of the tensor alone.
        posts: B.

    Raises:
        ValueError: there are rows for another number of posts, or they differ.
    """
    if tensor is None or tensor.ndim != axes + 1:
        return tensor
    if tensor.shape[0] != posts:
        raise ValueError(f"{name} must have {axes} axes, or come once for each of {posts} posts, got {len(tensor)}.")
    if not torch.compiler.is_compiling() and not bool((tensor == tensor[:1]).all()):
        raise ValueError(
            f"{name} must be the same for every post where it comes once for each, {tuple(tensor.shape)}; posts with "
            "labels of their own take candidate_mask, or candidate_embeds (B, C, H)."
        )
    return tensor[0]


def check_pixels(pixel_values: torch.Tensor) -> None:
    """(B, channels, height, width)."""
    check_tensors(pixel_values=pixel_values)
    if pixel_values.ndim != 4:
        raise ValueError(f"pixel_values must be (B, channels, height, width), got {tuple(pixel_values.shape)}.")


def check_tokens(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, name: str, limit: int | None, vocab_size: int
) -> None:
    """Ids and mask, (rows, tokens): what torch would say from inside an embedding, or not at all.

    Args:
        input_ids, attention_mask: (rows, tokens).
        name: what their names begin with.
        limit: most tokens of a row; `None`: no limit.
        vocab_size: of the text encoder.
    """
    if input_ids.ndim != 2 or 0 in input_ids.shape:
        raise ValueError(f"{name}input_ids must be (rows, tokens), neither of them 0, got {tuple(input_ids.shape)}.")
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"{name}attention_mask must be {tuple(input_ids.shape)}, like {name}input_ids, "
            f"got {tuple(attention_mask.shape)}."
        )
    if limit is not None and input_ids.shape[1] > limit:
        raise ValueError(
            f"{name}input_ids must have at most {limit} tokens, as the text encoder has positions for, "
            f"got {input_ids.shape[1]}. Give the processor a smaller max_length."
        )
    if torch.compiler.is_compiling():
        return
    lowest, highest = input_ids.aminmax()
    if lowest < 0 or highest >= vocab_size:
        raise ValueError(
            f"{name}input_ids must be in [0, {vocab_size}), the vocabulary, got {int(lowest)} to {int(highest)}. "
            "If the processor added markers to the tokenizer, call "
            "model.resize_token_embeddings(len(processor.tokenizer)) first."
        )
    if not bool(attention_mask.any(1).all()):
        empty = (~attention_mask.any(1)).nonzero().flatten().tolist()
        raise ValueError(f"{name}attention_mask must leave every row at least one token, got none in rows {empty}.")


def check_index(index: torch.Tensor, number: int) -> None:
    """(P,), the label of each of `number` texts; every label from 0 on has one."""
    if index.shape != (number,):
        raise ValueError(f"candidate_index must be ({number},), one a text, got {tuple(index.shape)}.")
    if not torch.compiler.is_compiling() and (bool(index.min() < 0) or not bool(index.bincount().all())):
        raise ValueError(
            f"candidate_index must hold every number from 0 to its largest, the labels, got {index.tolist()}."
        )


def check_mention_positions(mention_positions: torch.Tensor, text_mask: torch.Tensor, slots: int) -> None:
    """(B, S), S at most `slots`, on real tokens of `text_mask` (B, Lt); -1 for an absent second mention."""
    size = text_mask.shape
    if mention_positions.ndim != 2 or mention_positions.shape[0] != size[0] or mention_positions.shape[1] > slots:
        raise ValueError(
            f"mention_positions must be (B, S) with B = {size[0]} and S at most max_mentions = {slots}, "
            f"got {tuple(mention_positions.shape)}."
        )
    if not torch.compiler.is_compiling():
        valid = (mention_positions >= -1) & (mention_positions < size[1])
        if not bool(valid.all() & (mention_positions[:, 0] >= 0).all()):
            raise ValueError(
                f"mention_positions must be in [0, {size[1]}), or -1 for an absent second mention, "
                f"got {mention_positions.tolist()}."
            )
        if not bool((text_mask.gather(1, mention_positions.clamp(min=0)) | (mention_positions < 0)).all()):
            raise ValueError(f"mention_positions must not be on padding, got {mention_positions.tolist()}.")


def check_image_index(image_index: torch.Tensor, batch_size: int, pictures: torch.Tensor | None) -> None:
    """Each post's row of the pictures must be one.

    Raises:
        ValueError: it is not.
    """
    if image_index.shape != (batch_size,):
        raise ValueError(f"image_index must be (B,) = ({batch_size},), got {tuple(image_index.shape)}.")
    if pictures is None:
        raise ValueError("image_index came, but neither pixel_values nor image_features, of which it names rows.")
    if torch.compiler.is_compiling():
        return
    if not bool(((image_index >= 0) & (image_index < len(pictures))).all()):
        raise ValueError(
            f"image_index must be in [0, {len(pictures)}), the rows of pictures, got {image_index.tolist()}."
        )


def check_mention_mask(
    mention_mask: torch.Tensor, mention_positions: torch.Tensor, attention_mask: torch.Tensor
) -> None:
    """(B, S, Lt), boolean: tokens of every mention that `mention_positions` (B, S) has, and of no other."""
    shape = (*mention_positions.shape, attention_mask.shape[-1])
    if tuple(mention_mask.shape) != shape or mention_mask.dtype != torch.bool:
        raise ValueError(
            f"mention_mask must be (B, S, Lt) = {shape} and boolean, got {tuple(mention_mask.shape)}, "
            f"{mention_mask.dtype}."
        )
    if torch.compiler.is_compiling():
        return
    if bool((mention_mask & ~attention_mask.bool()[:, None]).any()):
        raise ValueError("mention_mask must not mark padding.")
    if not torch.equal(mention_mask.any(-1), mention_positions >= 0):
        raise ValueError("mention_mask must mark a token of every mention, and none of an absent one.")


def check_types(candidate_types: torch.Tensor, number: int, types: int) -> None:
    """(C, 2, T), boolean, at least one type allowed for every label and slot."""
    if tuple(candidate_types.shape) != (number, 2, types) or candidate_types.dtype != torch.bool:
        raise ValueError(
            f"candidate_types must be (C, 2, T) = {(number, 2, types)} and boolean, got "
            f"{tuple(candidate_types.shape)}, {candidate_types.dtype}."
        )
    if not torch.compiler.is_compiling() and not bool(candidate_types.any(-1).all()):
        raise ValueError("candidate_types must allow every label at least one type for head and tail.")


__all__ = [
    "check_image_index",
    "check_index",
    "check_mention_mask",
    "check_mention_positions",
    "check_pixels",
    "check_tensors",
    "check_tokens",
    "check_types",
    "one_for_all",
    "refuse_unknown",
]
