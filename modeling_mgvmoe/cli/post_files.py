"""Posts from a file, each checked before any is scored."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.rows import ENDINGS, is_address, locate_image, locate_images, read_records
from ..labels import check_labels
from ..spans import check_unicode, mentions_of, read_mentions
from .errors import UsageError, usage
from .one_post import check_image


def read_posts(
    path: str, shared_labels: Sequence[str] | None, without_image: bool = False
) -> tuple[Sequence[Any], dict[int, str]]:
    """The posts of a file.

    Args:
        path: `.json`, a list of posts; `.jsonl`, a post on each line; `.csv` or `.tsv`; or `.parquet`. Posts are as
            the pipeline takes them; the path of a picture is relative to the file's folder.
        shared_labels: the labels of posts without `candidate_labels` of their own.
        without_image: a post whose image file is missing is sound.

    Returns:
        The posts, in order, and by the number of a broken one what is wrong with it and where it stands. Images are
        read when a post is.

    Raises:
        UsageError: the file is missing or of another kind, or no post fits; the message says where.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise UsageError(f"--input: a file that ends in {', '.join(ENDINGS)} is needed, got {path!r}")
    if not os.path.isfile(path):
        raise UsageError(f"--input: the file {path!r} does not exist")
    if ending == ".parquet":
        return _parquet(path, shared_labels)
    posts: list[Any] = []
    faults: dict[int, str] = {}
    with usage():
        records = list(read_records(path))
    for where, post in records:
        try:
            _check(post, shared_labels, where)
            image = locate_image(post.get("image"), os.path.dirname(path))
            post = {**post, "image": image}
            if isinstance(image, str) and not is_address(image) and not without_image:
                check_image(image, f"{where}, image")
        except UsageError as error:
            faults[len(posts)] = str(error)
        posts.append(post)
    if not posts:
        raise UsageError(f"--input: {path} holds no post")
    _refuse_if_all(faults, len(posts))
    return posts, faults


def _refuse_if_all(faults: Mapping[int, str], number: int) -> None:
    """Refuse a file of broken posts only, before a model is loaded."""
    if len(faults) == number:
        raise UsageError(faults[0] + (f" (and {number - 1} more broken posts, and no other)" if number > 1 else ""))


def _parquet(path: str, shared_labels: Sequence[str] | None) -> tuple[Sequence[Any], dict[int, str]]:
    try:
        import datasets  # noqa: F401 - only to see that it is there
    except ImportError as error:
        raise UsageError(f"--input: to read {path} the extra [train] must be installed (datasets): {error}") from error
    from ..data.held_out import without_pictures
    from ..data.parquet_file import read_parquet
    from ..data.post_pictures import undecoded

    with usage():
        posts = locate_images(read_parquet(path), os.path.dirname(path))
    faults = {}
    for number, post in enumerate(without_pictures(posts)):
        try:
            _check(post, shared_labels, f"{path}, row {number}")
        except UsageError as error:
            faults[number] = str(error)
    _refuse_if_all(faults, len(posts))
    return undecoded(posts), faults


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
