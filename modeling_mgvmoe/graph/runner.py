"""Extraction from any number of posts: streamed, shared among processes and machines, resumed after a kill.

Rows of the input fall into fixed parts (`shards.py`). A process makes one part after another: it reads, checks and
extracts batch by batch, and writes the part's tables when it is whole. What is not whole is not there, so a run that
was killed at any moment resumes with the parts that are missing. Parts, and batches in them, do not depend on how many
processes or machines there are, so these may change on the way.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.atomic_io import LOCK, locked
from ..data.progress_bar import progress_bar
from ..data.schema import check_choice
from ..labels import with_new_names
from ..training.launch import StopSignals
from .post_check import ON_BROKEN_IMAGE, CheckedRow, RowCheck, RowError
from .post_files import PostFiles, RawRow
from .shards import (
    Part,
    PartTables,
    all_parts,
    begin,
    check_answer,
    finish,
    missing_parts,
    parts_there,
    read_duplicates,
    read_todo,
    share,
    write_part,
    write_todo,
)

if TYPE_CHECKING:
    from accelerate import PartialState


# Posts to what is found in them, as `extract` of a model gives it.
Extractor = Callable[[Sequence[Mapping[str, Any]]], Sequence[Mapping[str, Any]]]
# RGB images to features (n, H').
ImageFeatures = Callable[[Sequence[Any]], np.ndarray]
# Seconds between two looks at what the other processes have done.
LOOK = 1.0


@dataclass(frozen=True)
class BulkArguments:
    """Arguments of bulk extraction.

    Attributes:
        output: folder of the graph.
        batch_size: posts that the model gets at a time.
        part_size: posts in a file, and what a kill can cost each process.
        num_workers: threads for each process that decode images while the model runs.
        shard_index, num_shards: this run makes one of this many shares; for machines that know nothing of each other.
        on_broken_image: "error", the post is an error; "text_only", it is extracted from its text.
        image_dir: what paths of images are relative to; default: the folder of their file.
        needs_mentions: posts must say which mentions they have; false where the extractor finds them.
        overwrite: remove what another run has left in the folder.

    Raises:
        ValueError: one of them is out of range.
    """

    output: str
    batch_size: int = 32
    part_size: int = 1000
    num_workers: int = 0
    shard_index: int = 0
    num_shards: int = 1
    on_broken_image: str = "error"
    image_dir: str | None = None
    needs_mentions: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, lowest in (("batch_size", 1), ("part_size", 1), ("num_workers", 0), ("num_shards", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        if not 0 <= self.shard_index < self.num_shards:
            raise ValueError(f"shard_index must be in [0, {self.num_shards}), got {self.shard_index}")
        check_choice("on_broken_image", self.on_broken_image, ON_BROKEN_IMAGE)
        if self.image_dir is not None and not os.path.isdir(self.image_dir):
            raise FileNotFoundError(f"image_dir: the folder {self.image_dir!r} does not exist")
        if self.overwrite and self.num_shards > 1:
            raise ValueError("overwrite must not be set for one of several shards, which would remove the others'")

    @property
    def shard(self) -> str:
        """Name of the share."""
        return f"{self.shard_index}-of-{self.num_shards}"


@dataclass(frozen=True)
class BulkResult:
    """Result of a run.

    Attributes:
        summary: counts of the whole graph; `None` while it lacks a part, and in all processes but the first.
        stopped: the signal that ended the run, or 0.
        posts: rows that this run, all of its processes, had to do.
        seconds: that it took.
        faults: what was wrong with parts that were made again.
    """

    summary: dict[str, Any] | None
    stopped: int
    posts: int
    seconds: float
    faults: tuple[str, ...] = ()


@with_new_names
def extract_in_bulk(
    posts: PostFiles,
    extractor: Extractor,
    arguments: BulkArguments,
    identity: Mapping[str, Any],
    image_features: ImageFeatures | None = None,
    feature_size: int | None = None,
    state: PartialState | None = None,
    progress: bool = False,
) -> BulkResult:
    """Extract from all posts into a folder of Parquet files, or resume a run that was stopped.

    Args:
        posts: the input.
        extractor: posts to what is found in them, or `error`, why nothing can be. A ValueError means that there is a
            bad post among them; which one is found out by giving it one at a time.
        arguments: how.
        identity: of the extractor, as JSON values: model, labels, options. A run resumes only if it is the same.
        image_features: images to features, which go into the table of posts; default: none.
        feature_size: H', numbers of an image's features; with `image_features`.
        state: of Accelerate, under several processes; each makes a share of the parts. Default: this process is alone.
        progress: show a progress bar, of all processes of this run together.

    Returns:
        How it ended, with the summary if every part is there.

    Raises:
        FileExistsError: the folder holds something else, or another run is writing to it.
        ValueError: it holds another run, or the input is damaged.
        OSError: the disk is full.
    """
    own, number = (0, 1) if state is None else (state.process_index, state.num_processes)
    output, name = arguments.output, arguments.shard
    faults: list[str] = []
    lock = LOCK if arguments.num_shards == 1 else f"{LOCK}-{name}"
    fingerprint = ""
    with locked(output, own == 0, lock, "output"):
        if own == 0:
            if arguments.overwrite:
                _refuse_living_shards(output)
            # Here, for it reads the whole input.
            whole = {**identity, "input": posts.identity(), "batch_size": arguments.batch_size,
                     "part_size": arguments.part_size, "on_broken_image": arguments.on_broken_image,
                     "feature_size": feature_size}  # fmt: skip
            fingerprint = begin(output, whole, posts, arguments.overwrite)
            parts = share(all_parts(posts.num_rows, arguments.part_size), arguments.shard_index, arguments.num_shards)
            todo, faults = missing_parts(output, parts, fingerprint)
            write_todo(output, todo, name, fingerprint)
        if state is not None:
            state.wait_for_everyone()
        todo, fingerprint = read_todo(output, name)
        started = time.monotonic()
        with (
            StopSignals("finishing the batch") as signals,
            _Progress(output, todo, share(todo, own, number), progress and own == 0) as bar,
        ):
            worker = _Worker(posts, extractor, arguments, fingerprint, image_features, feature_size, signals, bar)
            worker.run(share(todo, own, number))
            if own == 0:
                bar.wait_for_others(signals)
        summary = finish(output) if own == 0 and not signals.received else None
    return BulkResult(
        summary=summary,
        stopped=signals.received,
        posts=sum(part.end - part.start for part in todo),
        seconds=time.monotonic() - started,
        faults=tuple(faults),
    )


def _refuse_living_shards(output: str) -> None:
    """Raise FileExistsError where a share of another run, which holds its lock, is still being made."""
    for name in sorted(os.listdir(output)):
        if name.startswith(f"{LOCK}-"):
            with locked(output, name=name, argument="output"):
                pass


class _Worker:
    """Makes parts."""

    def __init__(
        self,
        posts: PostFiles,
        extractor: Extractor,
        arguments: BulkArguments,
        fingerprint: str,
        image_features: ImageFeatures | None,
        feature_size: int | None,
        signals: StopSignals,
        bar: _Progress,
    ) -> None:
        self.posts, self.extractor, self.arguments, self.fingerprint = posts, extractor, arguments, fingerprint
        self.image_features, self.feature_size = image_features, feature_size
        self.signals, self.bar = signals, bar
        self.check = RowCheck(
            read_duplicates(arguments.output),
            arguments.on_broken_image,
            arguments.image_dir,
            arguments.needs_mentions,
        )

    def run(self, parts: Sequence[Part]) -> None:
        """Make some parts, until a signal comes."""
        for part in parts:
            tables = self._extract(part)
            if tables is None:
                return
            write_part(self.arguments.output, part, tables.tables(), self.fingerprint, tables.counts)
            self.bar.written(part)

    def _extract(self, part: Part) -> PartTables | None:
        tables = PartTables(self.feature_size)
        rows = self.posts.rows(part.start, part.end)
        for batch in checked_batches(rows, self.arguments.batch_size, self.check, self.arguments.num_workers):
            if self.signals.received:
                return None
            good = [row for row in batch if row.post is not None]
            answers = dict(
                zip((row.row for row in good), answers_of(self.extractor, [row.post for row in good]), strict=True)
            )
            tables.add(batch, answers, self._features(good))
            self.bar.advance(len(batch), tables)
        return None if self.signals.received else tables

    def _features(self, rows: Sequence[CheckedRow]) -> dict[int, np.ndarray] | None:
        if self.image_features is None:
            return None
        with_image = [row for row in rows if row.post is not None and row.post["image"] is not None]
        if not with_image:
            return {}
        features = self.image_features([row.post["image"] for row in with_image if row.post is not None])
        return dict(zip((row.row for row in with_image), features, strict=True))


def checked_batches(
    rows: Iterator[RawRow], size: int, check: Callable[[RawRow], CheckedRow], num_workers: int
) -> Iterator[list[CheckedRow]]:
    """Rows checked, their images decoded; with workers, those of the next batch meanwhile.

    Args:
        rows: of the input.
        size: rows in a batch; the last one may have fewer.
        check: of a row.
        num_workers: threads; images are decoded outside Python's lock.
    """
    batches = iter(lambda: list(islice(rows, size)), [])
    if not num_workers:
        for batch in batches:
            yield [check(row) for row in batch]
        return
    with ThreadPoolExecutor(num_workers) as pool:
        waiting: deque[list[Any]] = deque()
        for batch in batches:
            waiting.append([pool.submit(check, row) for row in batch])
            if len(waiting) > 1:
                yield [one.result() for one in waiting.popleft()]
        while waiting:
            yield [one.result() for one in waiting.popleft()]


def answers_of(extractor: Extractor, posts: Sequence[Any]) -> list[Mapping[str, Any] | RowError]:
    """Results of the posts; a bad post gets an error and leaves the others unchanged.

    Raises:
        RuntimeError: the extractor gave another number of answers.
    """
    if not posts:
        return []
    try:
        answers = list(extractor(posts))
    except ValueError as error:
        if len(posts) == 1:
            return [RowError("extraction", str(error))]
        return [answer for post in posts for answer in answers_of(extractor, [post])]
    if len(answers) != len(posts):
        raise RuntimeError(f"extractor: {len(posts)} answers are needed, one a post, got {len(answers)}")
    return [_checked(answer) for answer in answers]


def _checked(answer: Mapping[str, Any]) -> Mapping[str, Any] | RowError:
    try:
        check_answer(answer)
    except ValueError as error:
        return RowError("extraction", str(error))
    return answer


class _Progress:
    """A bar over the posts of all processes of this run: own ones batch by batch, others' part by part."""

    def __init__(self, output: str, todo: Sequence[Part], own: Sequence[Part], show: bool) -> None:
        self.output, self.others = output, set(todo) - set(own)
        self.done = self.errors = self.errors_before = 0
        self.looked = time.monotonic()
        total = sum(part.end - part.start for part in todo)
        self.bar: Any = progress_bar(total=total, desc="extracting", show=show)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()

    def advance(self, rows: int, tables: PartTables) -> None:
        """Count rows that this process has done."""
        self.bar.update(rows)
        self.errors = self.errors_before + tables.counts["errors"]
        if not self.bar.disable and time.monotonic() - self.looked > LOOK:
            self._look()

    def written(self, part: Part) -> None:
        """A part of one's own is written."""
        self.errors_before = self.errors

    def wait_for_others(self, signals: StopSignals) -> None:
        """Watch the other processes until all parts of this run are there."""
        while self.others and not signals.received:
            self._look()
            if self.others:
                time.sleep(0.2)

    def _look(self) -> None:
        self.looked = time.monotonic()
        there = self.others & parts_there(self.output) if self.others else set()
        self.others -= there
        self.bar.update(sum(part.end - part.start for part in there))
        if self.errors:
            self.bar.set_postfix_str(f"{self.errors:,} errors", refresh=False)
