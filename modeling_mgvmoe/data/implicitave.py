"""ImplicitAVE: titles of products with an image and an attribute whose value only the image tells.

A file of a domain, "Food_annotated_final.tsv" say, is a table with tabs between its columns, in which quotation marks
work as in CSV:

    id    images    category    texts                    attribute_names    attribute_values
    K7    K7.jpg    Shoes       [Title] Kelo's Autumn    Heel Height        Flat

"options_Food.json" has the values that each attribute may have. The files are not part of this project.

A record becomes a typing post. The text is "Shoes: Kelo's Autumn" and the mention is the category, "Shoes", for many
titles do not say what the product is. Labels are attribute and value, "Heel Height: Flat", for some values belong to
several attributes; the post's own candidates, `candidate_labels`, are the options of its attribute.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .files import read_json_object
from .label_sets import LabelInfo, LabelSet
from .post_images import attach_images, check_folder
from .prepare import DatasetAdapter, PreparedData, add_source_flags, choose_split, divide
from .schema import ON_BAD_SPAN, Counts, check_choice, keep_post, new_post
from .splits import ClassSplit, grouped_class_split

COLUMNS = ("id", "images", "category", "texts", "attribute_names", "attribute_values")
FILE = re.compile(r"(\w+)_annotated_final\.tsv")
# The name in the files of options of a domain; "Jewlery" is the authors' spelling.
OPTIONS = {
    "Food": "Food",
    "Home": "Home",
    "Clothing": "Clothing_Shoes_and_Jewelry",
    "Footwear": "Clothing_Shoes_and_Jewelry",
    "Jewlery_and_General_Apparel": "Clothing_Shoes_and_Jewelry",
}
TITLE = "[Title]"


def implicitave_files(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Paths of the tables by domain, in the folder or in `texts/` below it.

    What macOS puts beside files in archives ("._Food_annotated_final.tsv") is no table.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a domain is not known.
    """
    for place in (os.path.join(folder, "texts"), os.fspath(folder)):
        names = sorted(os.listdir(place)) if os.path.isdir(place) else []
        found = {match[1]: os.path.join(place, name) for name in names if (match := FILE.fullmatch(name))}
        if found:
            unknown = [domain for domain in found if domain not in OPTIONS]
            if unknown:
                raise ValueError(f"folder: domains must be {', '.join(OPTIONS)}, got {', '.join(unknown)}")
            return found
    raise FileNotFoundError(f"folder: {os.fspath(folder)!r} holds no file like Food_annotated_final.tsv")


def read_options(folder: str | os.PathLike[str], domain: str) -> dict[str, tuple[str, ...]]:
    """For each attribute of a domain its values, from "options_Food.json" in the folder or in `texts/` below it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no object of lists of distinct strings.
    """
    name = f"options_{OPTIONS[domain]}.json"
    below = os.path.join(folder, "texts", name)
    path = below if os.path.isfile(below) else os.path.join(folder, name)
    content = read_json_object(path)
    for attribute, values in content.items():
        if (
            not isinstance(values, list)
            or not values
            or not all(isinstance(one, str) and one.strip() for one in values)
        ):
            raise ValueError(
                f"{path}: {attribute!r} must have a list of strings that are not empty, got {values!r:.80}"
            )
        if len(set(values)) < len(values):
            raise ValueError(f"{path}: values of {attribute!r} must be distinct, got {values!r:.80}")
    return {attribute: tuple(values) for attribute, values in content.items()}


def read_implicitave(
    folder: str | os.PathLike[str],
    image_dir: str | os.PathLike[str] | None = None,
    progress: str | None = None,
    on_bad_span: str = "error",
) -> tuple[list[dict[str, Any]], Counts]:
    """Read the tables of all domains in a folder: every record becomes a post.

    Args:
        folder: of the tables and options; see [`implicitave_files`] and [`read_options`].
        image_dir: folder with the images; a post without a readable one has none.
        progress: title of a progress bar over the images; `None` shows none.
        on_bad_span: "error" refuses a category that can be no mention, "skip" leaves the record out and counts it.

    Returns:
        Posts in the package's schema and order of the files, with ids like "implicitave-K7-Heel_Height", labels like
        "Heel Height: Flat", the options of the attribute as `candidate_labels` and paths for images; and what was
        counted.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: a table breaks the format, or a value is not among the options; the message names file and line.
    """
    check_choice("on_bad_span", on_bad_span, ON_BAD_SPAN)
    check_folder(image_dir)
    counts = Counts("typing")
    posts: list[dict[str, Any]] = []
    for domain, path in implicitave_files(folder).items():
        options, before = read_options(folder, domain), len(posts)
        for line, record in _records(path):
            where = f"{path}, line {line}"
            attribute, value = record["attribute_names"], record["attribute_values"]
            if value not in options.get(attribute, ()):
                raise ValueError(
                    f"{where}: {value!r} must be among the options of {attribute!r}, got {options.get(attribute)}"
                )
            image = record["images"]
            if os.path.basename(image) != image or not image:
                raise ValueError(f"{where}: images must be the name of a file, without folders, got {image!r:.80}")
            category, title = record["category"].strip(), record["texts"].removeprefix(TITLE).strip()
            post = new_post(
                f"implicitave-{record['id']}-{'_'.join(attribute.split())}",
                f"{category}: {title}",
                [[0, len(category)]],
                _label(attribute, value),
                "implicitave",
                image,
                candidate_labels=[_label(attribute, one) for one in options[attribute]],
            )
            if keep_post(post, where, on_bad_span, counts):
                posts.append(post)
        counts.files[os.path.basename(path)] = len(posts) - before
    counts.count_posts(posts)
    attach_images(posts, image_dir, counts, progress)
    return posts, counts


def implicitave_class_split(labels: Iterable[str], seed: int) -> ClassSplit:
    """[`splits.thirds_class_split`] of attributes: all values of one ("Heel Height: Flat") are in the same split."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(label.partition(": ")[0], []).append(label)
    return grouped_class_split(groups, seed)


def _label(attribute: str, value: str) -> str:
    return f"{attribute}: {value}"


def _records(path: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table by column, with the numbers of their last lines."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", strict=True)
        try:
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ValueError(f"columns must be {', '.join(COLUMNS)}, got {reader.fieldnames!r:.80}")
            found = []
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(f"line {reader.line_num}: {len(COLUMNS)} columns are needed, got {row!r:.80}")
                found.append((reader.line_num, row))
        except (csv.Error, ValueError) as error:  # of UTF-8, too
            raise ValueError(f"{path}: {error}") from error
    return found


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add_source_flags(parser, "seed-0", images=True, labels="")


def _prepare(arguments: argparse.Namespace, configuration: str | os.PathLike[str]) -> PreparedData:
    posts, counts = read_implicitave(arguments.data, arguments.images, "checking images", arguments.on_bad_span)
    # Every option is a candidate, also one that no product has.
    labels = list(dict.fromkeys(label for post in posts for label in post["candidate_labels"]))
    chosen = choose_split(arguments.split, labels, configuration, implicitave_class_split)
    label_set = LabelSet("implicitave", 1, "typing", {label: LabelInfo(label, "") for label in labels})
    prepared = divide("implicitave", posts, counts, arguments.split, chosen, label_set)
    return replace(prepared, label_set_version=None)


IMPLICITAVE = DatasetAdapter(
    "implicitave",
    "ImplicitAVE: values of products' attributes that only the image tells",
    _add_flags,
    _prepare,
    not_public="it has no licence, and its images and titles are those of shops",
)
