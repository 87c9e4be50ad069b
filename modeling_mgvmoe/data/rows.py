"""Your own rows: files, folders and datasets of posts, brought row by row into the schema of [`schema`].

A row has `text`; a mention as `mention` (typing), `head` and `tail` (relation) or `mentions` (one or two), each the
words of the mention or a span; `label`; optionally `image`, a path relative to the row's file, `image_text`, words for
the image (`caption`, `captions` and `alt_text` are read where it is missing), and `id`.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..spans import POST_COLUMNS, is_absent, mentions_of, read_image_text, read_mentions, warn_of_columns
from .files import read_lines
from .fingerprint import place_by_hash
from .schema import ON_BAD_SPAN, OPTIONAL_COLUMNS, Counts, check_choice, post_features, task_of, validate_post
from .splits import SPLITS

if TYPE_CHECKING:
    from datasets import Dataset


LABELS_FILE = "labels.json"
# Files of text rows, which are read here; Parquet and everything else is read by the library `datasets`.
TEXT_ENDINGS = (".jsonl", ".json", ".csv", ".tsv")
ENDINGS = (*TEXT_ENDINGS, ".parquet")
# How a file's name says which split it holds, as `datasets` reads names.
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
               "val": "validation", "dev": "validation", "test": "test", "testing": "test"}  # fmt: skip
# Other names of `image_text` in rows of one's own, read where that is missing.
IMAGE_TEXT_ALIASES = ("caption", "captions", "alt_text")
# Beyond a post's columns what the metadata of an image folder calls a path.
COLUMNS = (*POST_COLUMNS, "file_name", *IMAGE_TEXT_ALIASES)
# Share of the posts that are held out for validation where the rows say nothing of it.
VALIDATION_SHARE = 0.1


def read_rows(path: str | os.PathLike[str], on_bad_span: str = "error", counts: Counts | None = None) -> Dataset:
    """The posts of one file, in the package's schema. Images are not opened.

    Args:
        path: of [`ENDINGS`]; a `.json` is a list of rows. In CSV a span is the words of the mention or
            JSON: `Kelo`, `[0, 4]`.
        on_bad_span: of [`schema.ON_BAD_SPAN`]: refuse the file, or leave the row out and count it.
        counts: gets the ids of rows that were left out.

    Returns:
        A dataset with the columns of [`post_features`].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its kind is another, it holds no post, or a row is wrong; the message names file, row and column.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"dataset: the file {path!r} does not exist")
    if os.path.splitext(path)[1].lower() == ".parquet":
        return as_posts(read_parquet(path), path, os.path.dirname(path), on_bad_span, counts)
    if not path.lower().endswith(ENDINGS):
        raise ValueError(f"dataset: a file that ends in {', '.join(ENDINGS)} is needed (got {path!r})")
    records = list(read_records(path))
    if not records:
        raise ValueError(f"{path}: it holds no post")
    return _normalised(records, path, os.path.dirname(path), on_bad_span, counts)


class BrokenLine(ValueError):
    """A row or file holds no JSON."""


def read_records(path: str, keep_broken: bool = False) -> Iterator[tuple[str, Any]]:
    """The rows of a file of text, of [`TEXT_ENDINGS`], each with where it stands, as they are.

    Args:
        path: of the file.
        keep_broken: yield a [`BrokenLine`] for a line of JSONL that cannot be parsed, instead of raising it.

    Raises:
        ValueError: a row cannot be parsed.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending == ".jsonl":
        for number, line in read_lines(path):
            if line.strip():
                where = f"{path}, line {number}"
                try:
                    yield where, _parse_json(line, where)
                except BrokenLine as error:
                    if not keep_broken:
                        raise
                    yield where, error
    elif ending == ".json":
        content = _parse_json("\n".join(line for _, line in read_lines(path)), path)
        if not isinstance(content, list):
            raise ValueError(f"{path}: a JSON list of posts is needed, got {type(content).__name__}")
        yield from ((f"{path}, post {number}", post) for number, post in enumerate(content))
    else:
        yield from _read_csv(path, "\t" if ending == ".tsv" else ",")


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenLine(f"{where}: no JSON: {error}") from error


def _read_csv(path: str, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a table; a cell with a mention is read as JSON where it is a JSON list or object."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            names = reader.fieldnames or ()
            if twice := [name for name in names if name and names.count(name) > 1]:
                raise ValueError(f"{path}: columns must have distinct names, got {twice[0]!r} twice")
            for number, row in enumerate(reader):
                where = f"{path}, row {number}"
                if None in row:
                    raise ValueError(f"{where}: it has more cells than the {len(names)} columns")
                yield where, {name: _cell(name, value) for name, value in row.items() if value not in (None, "")}
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: it cannot be read as a table in UTF-8: {error}") from error


def _cell(name: str, value: str) -> Any:
    if name in ("mention", "mentions", "head", "tail", *OPTIONAL_COLUMNS, *IMAGE_TEXT_ALIASES) and value.lstrip()[
        :1
    ] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value  # words that begin with a bracket
    return value


def as_posts(
    rows: Dataset, where: str, folder: str = "", on_bad_span: str = "error", counts: Counts | None = None
) -> Dataset:
    """A dataset of rows as posts in the package's schema. Images stay closed, and where they are.

    Args:
        rows: as `datasets` read them; a label may be a `ClassLabel`.
        where: how to call them in messages.
        folder: what paths of images are relative to.
        on_bad_span, counts: as of [`read_rows`].

    Raises:
        ValueError: a row is wrong.
    """
    from datasets import ClassLabel, Image, concatenate_datasets

    warn_of_columns(rows.column_names, COLUMNS)
    column = next((name for name in ("image", "file_name") if name in rows.column_names), None)
    stored, within = rows, False
    if column is not None and isinstance(rows.features[column], Image):
        # Undecoded: {"bytes", "path"}. Where all have bytes, these are not copied.
        stored = rows.cast_column(column, Image(decode=False))
        within = not _has_paths(stored, column)
    label = rows.features.get("label")
    names = list(label.names) if isinstance(label, ClassLabel) else None
    records: list[tuple[str, Any]] = []
    for number, raw in enumerate(stored.remove_columns([column]) if within else stored):
        row = {name: _cell(name, value) if isinstance(value, str) else value for name, value in raw.items()}
        if names is not None and isinstance(row.get("label"), int):
            row["label"] = names[row["label"]] if row["label"] >= 0 else None
        records.append((f"{where}, row {number}", row))
    kept: list[int] = []
    posts = _normalised(records, where, folder, on_bad_span, counts, kept)
    if not within:
        return posts
    images = stored.select_columns([column])
    images = images if len(kept) == len(images) else images.select(kept)
    images = images.rename_column(column, "image") if column != "image" else images
    return concatenate_datasets([posts.remove_columns("image"), images.cast_column("image", Image())], axis=1)


def locate_images(rows: Dataset, folder: str) -> Dataset:
    """The rows with every path of an image joined to a folder; images that are within the rows stay as they are."""
    from datasets import Image

    if "image" not in rows.column_names:
        return rows
    stored = rows.cast_column("image", Image(decode=False)) if isinstance(rows.features["image"], Image) else rows
    images = stored["image"]
    if any(isinstance(image, bytes) or (isinstance(image, Mapping) and image.get("bytes")) for image in images):
        return rows
    return rows.remove_columns("image").add_column("image", [locate_image(image, folder) for image in images])


def _has_paths(images: Dataset, column: str) -> bool:
    """Whether an image is not within the rows, but named by its path: it is then to be joined to the folder."""
    import pyarrow.compute

    stored = images.data.column(column)
    outside = pyarrow.compute.and_(
        pyarrow.compute.is_null(pyarrow.compute.struct_field(stored, "bytes")),
        pyarrow.compute.is_valid(pyarrow.compute.struct_field(stored, "path")),
    )
    return bool(pyarrow.compute.any(outside).as_py())


def _normalised(
    records: Iterable[tuple[str, Any]],
    source: str,
    folder: str,
    on_bad_span: str,
    counts: Counts | None,
    kept: list[int] | None = None,
) -> Dataset:
    """The posts of rows, whose ids are distinct; `kept` gets the numbers of the rows that were not left out."""
    from datasets import Dataset

    check_choice("on_bad_span", on_bad_span, ON_BAD_SPAN)
    name = os.path.splitext(os.path.basename(source))[0]
    posts = []
    places: dict[str, str] = {}
    records = list(records)
    columns = {name for _, row in records if isinstance(row, Mapping) for name in row}
    if columns & set(IMAGE_TEXT_ALIASES):
        columns.add("image_text")
    optional = [name for name in OPTIONAL_COLUMNS if name in columns]
    for number, (where, row) in enumerate(records):
        post = read_row(row, where, f"{name}-{number}", folder, on_bad_span, counts)
        if post is None:
            continue
        if (first := places.setdefault(post["id"], where)) != where:
            raise ValueError(f"{where}: id must be distinct, got {post['id']!r}, which is also that of {first}")
        posts.append({**dict.fromkeys(optional), **post})  # `from_list` reads the columns off the first one
        if kept is not None:
            kept.append(number)
    if not posts:
        raise ValueError(f"{source}: it holds no post whose span fits its text")
    return Dataset.from_list(posts, features=post_features(*optional))


def read_row(
    row: Any, where: str, default_id: str, folder: str, on_bad_span: str = "error", counts: Counts | None = None
) -> dict[str, Any] | None:
    """One row as a post in the package's schema: the one place in which a labelled row is read.

    Args:
        row: its columns.
        where: its file and place, for messages.
        default_id: of a row without one.
        folder: what its image's path is relative to.
        on_bad_span, counts: as of [`read_rows`].

    Returns:
        The post; `None` if its span does not fit and such rows are left out.

    Raises:
        ValueError: naming the place and the column.
    """
    try:
        mentions = mentions_of(row, COLUMNS)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    name, label = row.get("id"), row.get("label")
    post = {
        "id": default_id if is_absent(name) else str(name) if isinstance(name, int) else name,
        "text": row["text"],
        "mentions": mentions,
        "label": None if is_absent(label) else label.strip() if isinstance(label, str) else label,
        "image": _stored_image(row.get("image", row.get("file_name")), folder, where),
        "source": row["source"] if isinstance(row.get("source"), str) else os.path.basename(folder) or "rows",
        **_optional_columns(row, where),
    }
    if isinstance(post["label"], str) and isinstance(post["text"], str):
        try:
            post["mentions"] = [list(span) for span in read_mentions(mentions, post["text"])]
        except ValueError as error:
            if on_bad_span == "skip":
                if counts is not None:
                    counts.bad_spans.append(post["id"])
                return None
            raise ValueError(f"{where}: post {post['id']!r}: {error}") from error
    validate_post(post, where)
    return post


def _optional_columns(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The `schema.OPTIONAL_COLUMNS` of a row: lists of strings, `None` for nothing."""
    found: dict[str, Any] = {}
    if any(name in row for name in ("image_text", *IMAGE_TEXT_ALIASES)):
        found["image_text"] = _image_text(row, where)
    if "candidate_labels" in row:
        labels = row["candidate_labels"]
        # Anything else as it is, to be validated.
        found["candidate_labels"] = None if is_absent(labels) else [labels] if isinstance(labels, str) else labels
    return found


def _image_text(row: Mapping[str, Any], where: str) -> list[str] | None:
    """The texts of `image_text` or, where it holds none, of its other names together; `None` for none."""
    try:
        own = read_image_text(row.get("image_text"))
        others = [text for name in IMAGE_TEXT_ALIASES for text in read_image_text(row.get(name), name)]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return own or list(dict.fromkeys(others)) or None


def locate_image(image: Any, folder: str) -> Any:
    """The image of a row, ready to be read.

    Args:
        image: a path, an address, a data URL, bytes, a dict of "bytes" and "path", an image, or nothing: None, NaN,
            "", an empty list.
        folder: what a path is relative to.

    Returns:
        The same with the path joined to the folder; `None` for nothing.
    """
    if isinstance(image, list | tuple) and len(image) < 2:  # as the processor takes it: a list of one at most
        image = image[0] if image else None
    if isinstance(image, Mapping):
        if image.get("bytes") is not None:
            return dict(image)
        image = image.get("path")
    if is_absent(image):
        return None
    if isinstance(image, str) and not is_address(image, folder):
        return os.path.join(folder, image)
    return image


def is_address(image: str, folder: str = "") -> bool:
    """Whether a string names no file in a folder: an address, a chain of these, or a data URL."""
    # A chain is a name that a file may have as well.
    chain = "::" in image and not os.path.isfile(os.path.join(folder, image))
    return chain or "://" in image or image.startswith("data:")


def _stored_image(image: Any, folder: str, where: str) -> Any:
    """An image as `datasets.Image` stores it."""
    found = locate_image(image, folder)
    if isinstance(found, str) and found.startswith("data:"):
        try:
            return {"bytes": base64.b64decode("".join(found.partition(",")[2].split()), validate=True), "path": None}
        except ValueError as error:
            raise ValueError(f"{where}: image: no base64 in the data URL {found!r:.80}: {error}") from error
    if isinstance(found, str) and is_address(found):
        # `datasets` would fetch it from any host without asking.
        raise ValueError(
            f"{where}: image must hold the image's bytes or the path of a file, got the address {found!r:.200}"
        )
    if isinstance(found, bytes):
        return {"bytes": found, "path": None}
    if found is not None and not isinstance(found, str | dict) and not hasattr(found, "tobytes"):
        raise ValueError(f"{where}: image must be a path, bytes or an image, got {found!r:.80}")
    return {"bytes": None, "path": found} if isinstance(found, str) else found


def read_parts(
    source: str, names: Sequence[str] = SPLITS, on_bad_span: str = "error", counts: Counts | None = None
) -> dict[str, Dataset]:
    """Splits of a source of rows, and further files of a prepared folder.

    Args:
        source: a file, which is one split, the one in its name or else "train"; a folder of files named after splits,
            in itself or in a folder `data`, one a split or several, as `push_to_hub` writes them; a folder of images
            with `metadata.csv` or `metadata.jsonl`; or the name of a dataset on the Hub.
        names: the splits and files to read.
        on_bad_span, counts: as of [`read_rows`].

    Returns:
        Posts by name, those that are there.

    Raises:
        FileNotFoundError: there is no such source, or none of the names in it.
        ValueError: a row is wrong.
    """
    from datasets import concatenate_datasets, load_dataset

    if os.path.isfile(source):
        return {split_of_file(source): read_rows(source, on_bad_span, counts)}
    if not os.path.isdir(source):
        return _known_parts(_load_from_hub(source), names, source, "", on_bad_span, counts)
    found = {}
    for name in names:
        parts = [read_rows(path, on_bad_span, counts) for path in files_of(source, name)]
        if parts:
            found[name] = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    if not found and any(file.startswith("metadata.") for _, _, files in os.walk(source) for file in files):
        loaded = load_dataset("imagefolder", data_dir=source)
        found = _known_parts(loaded, names, source, source, on_bad_span, counts)
    if not found:
        raise FileNotFoundError(
            f"dataset: {os.path.join(source, names[0])}.parquet does not exist, nor another file named after a split "
            f"({', '.join(SPLITS)}) that ends in {', '.join(ENDINGS)}, nor images with metadata.csv or .jsonl"
        )
    return found


def find_labels_file(source: str) -> str | None:
    """The path of the `labels.json` that belongs to a folder or to a dataset on the Hub; `None` if there is none.

    Raises:
        FileNotFoundError: the Hub cannot be asked, and the cache does not tell.
    """
    if os.path.exists(source) or source.lower().endswith(ENDINGS):
        path = os.path.join(source, LABELS_FILE)
        return path if os.path.isfile(path) else None
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError

    try:
        return hf_hub_download(source, LABELS_FILE, repo_type="dataset")
    # There is none, or `read_parts` says why there is no such dataset.
    except (RemoteEntryNotFoundError, RepositoryNotFoundError, ValueError):
        return None
    except OSError as error:
        # Without the Hub nothing may be taken for "none", or classes that must be unseen would be read as any.
        if try_to_load_from_cache(source, LABELS_FILE, repo_type="dataset") is _CACHED_NO_EXIST:
            return None
        raise FileNotFoundError(
            f"dataset: {source!r} is no file or folder, and cannot be loaded from the Hub: {error}"
        ) from error


def split_of_file(path: str) -> str:
    """The split that a file's name says, `my_test.csv`; "train" where it says none."""
    words = re.split(r"[^a-z]+", os.path.splitext(os.path.basename(path))[0].lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "train")


def files_of(folder: str | os.PathLike[str], name: str) -> list[str]:
    """Files of a split or a further part: `train.csv`, `train-00000-of-00002.parquet`, also in a folder `data`.

    Raises:
        ValueError: a split is in several files that are not parts of one.
    """
    names = [alias for alias, split in SPLIT_NAMES.items() if split == name] or [name]
    endings = "|".join(ending[1:] for ending in ENDINGS if ending != ".json")  # a folder's .json says other things
    pattern = re.compile(rf"({'|'.join(names)})(-\d+-of-\d+)?\.({endings})", re.IGNORECASE)
    for place in (os.fspath(folder), os.path.join(folder, "data")):
        there = sorted(os.listdir(place)) if os.path.isdir(place) else []
        matches = [match for file in there if (match := pattern.fullmatch(file))]
        if len(matches) > 1 and not all(match[2] for match in matches):
            raise ValueError(
                f"dataset: {name} must be one file, or parts of one, got {', '.join(match[0] for match in matches)} "
                f"in {place}"
            )
        if matches:
            return [os.path.join(place, match[0]) for match in matches]
    return []


def _load_from_hub(name: str) -> Mapping[str, Any]:
    from datasets import load_dataset

    # A name on the Hub has one slash at most.
    if name.count("/") > 1 or name.startswith((".", "/")) or name.lower().endswith(ENDINGS):
        raise FileNotFoundError(f"dataset: {name!r} does not exist")
    try:
        loaded: Mapping[str, Any] = load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        raise FileNotFoundError(
            f"dataset: {name!r} is no file or folder, and cannot be loaded from the Hub: {error}"
        ) from error
    return loaded


def _known_parts(
    loaded: Mapping[str, Any],
    names: Sequence[str],
    where: str,
    folder: str,
    on_bad_span: str,
    counts: Counts | None,
) -> dict[str, Dataset]:
    found = {}
    for own, rows in loaded.items():
        name = SPLIT_NAMES.get(str(own), str(own))
        if name in names and name not in found:
            found[name] = as_posts(rows, f"{where}, {own}", folder, on_bad_span, counts)
    if not found:
        raise FileNotFoundError(
            f"dataset: {where} must have splits named after {', '.join(names)}, got {', '.join(map(str, loaded))}"
        )
    return found


def hold_out(posts: Dataset, share: float = VALIDATION_SHARE) -> tuple[Dataset, Dataset]:
    """The posts that stay in training, and those held out for validation, at least one; see [`texts_to_hold_out`].

    Raises:
        ValueError: no class has a second text.
    """
    texts: list[str] = list(posts["text"])
    # Not the hash of `prepare.hold_out_seen`, which shall find posts below its share among those that stay.
    places = texts_to_hold_out(zip(texts, posts["label"], strict=True), "validation: ")
    if not places:
        raise ValueError(
            "dataset: to hold posts out for validation, a class with two texts is needed, got one of each"
        )
    chosen = {text for text, place in places.items() if place < share} or {min(places, key=places.__getitem__)}
    held = [row for row, text in enumerate(texts) if text in chosen]
    kept = [row for row, text in enumerate(texts) if text not in chosen]
    return posts.select(kept), posts.select(held)


def texts_to_hold_out(posts: Iterable[tuple[str, str]], salt: str = "") -> dict[str, float]:
    """The place by hash of each text that may be held out: all but the first of each class.

    A share of them depends on neither order nor seed, stays when posts are added, and leaves no text on both sides.

    Args:
        posts: text and label of each.
        salt: put before each text that is hashed; with another one other texts are held out.
    """
    first: dict[str, str] = {}
    places: dict[str, float] = {}
    for text, label in posts:
        first.setdefault(label, text)
        places[text] = 0.0
    return {text: place_by_hash(salt + text) for text in places.keys() - set(first.values())}


def candidates_of(splits: Mapping[str, Dataset]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Candidate labels by split and task: the labels of its posts, and all training classes if one is among them."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for split in SPLITS:
        found[split] = {}
        columns = splits[split].select_columns(["id", "mentions", "label"]) if split in splits else ()
        for post in columns:
            found[split].setdefault(task_of(post), {})[post["label"]] = None
    for split in ("validation", "test"):
        for task, names in found[split].items():
            trained = found["train"].get(task, {})
            if set(names) & set(trained):
                found[split][task] = {**trained, **names}
    return {split: {task: tuple(names) for task, names in own.items()} for split, own in found.items()}


def read_parquet(path: str) -> Dataset:
    """The rows of a file. Images in it stay closed.

    Raises:
        ValueError: it is no Parquet file, is damaged, holds no post, or names an image by an address, which
            `datasets` would fetch from any host without asking.
    """
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset
    from datasets.exceptions import DatasetsError

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = file.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: it cannot be read as Parquet: {error}") from error
    if not rows:
        raise ValueError(f"{path}: it holds no post")
    try:
        posts = Dataset.from_parquet(path)
    except (pyarrow.ArrowException, DatasetsError, NotImplementedError) as error:
        raise ValueError(f"{path}: damaged or of types that are not read: {error.__cause__ or error}") from error
    _check_images(posts, path)
    return posts


def _check_images(posts: Dataset, path: str) -> None:
    import pyarrow.compute
    from datasets import Image

    if not isinstance(posts.features.get("image"), Image):
        return
    images = posts.data.column("image")
    paths = pyarrow.compute.struct_field(images, "path")
    outside = pyarrow.compute.is_null(pyarrow.compute.struct_field(images, "bytes"))
    for row, (name, alone) in enumerate(zip(paths.to_pylist(), outside.to_pylist(), strict=True)):
        if alone and name is not None and ("://" in name or "::" in name):
            raise ValueError(
                f"{path}, row {row}: image must hold the image's bytes or the path of a file, got the address "
                f"{name!r:.200}"
            )
