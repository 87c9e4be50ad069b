"""Posts from a file, each checked before any is scored."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..candidates import check_labels
from ..data.rows import ENDINGS, is_address, locate_image, locate_images, read_records
from ..spans import check_unicode, mentions_of, read_mentions
from .errors import UsageError, usage
from .one_post import check_image


def read_posts(path: str, shared_labels: Sequence[str] | None) -> Sequence[Mapping[str, Any]]:
    """The posts of a file.

    Args:
        path: `.json`, a list of posts; `.jsonl`, a post on each line; `.csv` or `.tsv`; or `.parquet`. Posts are as
            the pipeline takes them; the path of a picture is relative to the file's folder.
        shared_labels: the labels of posts without `candidate_labels` of their own.

    Returns:
        The posts, in order; pictures of a Parquet file are read when a post is.

    Raises:
        UsageError: the file is missing or of another kind, or a post does not fit; the message says where.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise UsageError(f"--input: a file that ends in {', '.join(ENDINGS)} is needed, got {path!r}")
    if not os.path.isfile(path):
        raise UsageError(f"--input: the file {path!r} does not exist")
    if ending == ".parquet":
        return _parquet(path, shared_labels)
    posts = []
    with usage():
        records = list(read_records(path))
    for where, post in records:
        _check(post, shared_labels, where)
        post = {**post, "image": locate_image(post.get("image"), os.path.dirname(path))}
        if isinstance(post["image"], str) and not is_address(post["image"]):
            check_image(post["image"], f"{where}, image")
        posts.append(post)
    if not posts:
        raise UsageError(f"--input: {path} holds no post")
    return posts


def _parquet(path: str, shared_labels: Sequence[str] | None) -> Sequence[Mapping[str, Any]]:
    try:
        import datasets  # noqa: F401 - only to see that it is there
    except ImportError as error:
        raise UsageError(f"--input: to read {path} the extra [train] must be installed (datasets): {error}") from error
    from ..data.held_out import without_pictures
    from ..data.parquet_file import read_parquet

    with usage():
        posts = locate_images(read_parquet(path), os.path.dirname(path))
    for number, post in enumerate(without_pictures(posts)):
        _check(post, shared_labels, f"{path}, row {number}")
    return posts


def _check(post: Any, shared_labels: Sequence[str] | None, where: str) -> None:
    """What can be told of a post without a model or its picture."""
    with usage():
        try:
            mentions = mentions_of(post)
            if not isinstance(post["text"], str):
                raise ValueError(f"text: a string is needed (got {type(post['text']).__name__})")
            check_unicode(post["text"], "text")
            read_mentions(mentions, post["text"])
            labels = post.get("candidate_labels")
            if labels is None and shared_labels is None:
                raise ValueError("candidate_labels: the post needs some of its own, or --labels those of all posts")
            if labels is not None:
                check_labels(labels)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
