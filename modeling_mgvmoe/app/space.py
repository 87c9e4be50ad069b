"""A folder that is a Hub Space: the page, this package, what it needs, example posts, and a model that is at hand."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from huggingface_hub import metadata_load
from yaml import YAMLError

from ..data.atomic_io import whole_folder
from ..inference.model_folder import check_model_folder
from ..training.run_metadata import RUN_FILE
from .example_posts import ExamplePost, write_examples
from .markup import LEAST, check_least
from .served_model import find_run_record

PACKAGE = Path(__file__).resolve().parents[1]
# What the page imports, in the versions that are installed here. Gradio comes by `sdk_version`; as long as it takes no
# pillow from 13 on, it may not be in this environment, and its pillow is another one.
REQUIREMENTS = ("torch", "transformers", "huggingface_hub", "safetensors", "numpy")
GRADIO, PILLOW = "6.31.0", "pillow>=12.3,<13"
# Of this package. Weights that are copied have their own.
OWN_LICENSE = "apache-2.0"
# The Hub shows at most this many characters of it.
MOST_OF_DESCRIPTION = 60

README = """\
---
title: MG-VMoE
emoji: 🔎
colorFrom: blue
colorTo: yellow
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
{license}short_description: {description}
{models}---

# MG-VMoE

Type a post, add its image, mark a mention or a pair by selecting words, and write any labels: the page scores each
of them, and draws which words and which parts of the image were weighed and which experts fired.

The page runs the files in this folder and no other code. The model is `{model}`{where}.

`python app.py` runs it elsewhere, after `pip install -r requirements.txt gradio=={gradio}`.
"""

APP = '''\
"""The demo page of MG-VMoE as a Hub Space; the page itself is in `modeling_mgvmoe/app/`."""

from pathlib import Path

from modeling_mgvmoe.app.example_posts import examples_from_file
from modeling_mgvmoe.app.page import build_page, launch_page
from modeling_mgvmoe.app.served_model import load_served_model

HERE = Path(__file__).resolve().parent
MODEL = {model}
REVISION = {revision}

examples = examples_from_file(HERE / "examples" / "posts.json")
page = build_page(load_served_model({argument}, REVISION), examples, {least})

if __name__ == "__main__":
    launch_page(page)
'''


def write_space(
    folder: str | os.PathLike,
    model: str,
    examples: Sequence[ExamplePost],
    revision: str | None = None,
    overwrite: bool = False,
    least: float = LEAST,
) -> list[str]:
    """Write the folder: `README.md`, `app.py`, `requirements.txt`, `examples/`, `modeling_mgvmoe/` and maybe `model/`.

    Args:
        folder: new, or empty; whole or not there.
        model: name on the Hub, or a folder, which is copied into the Space.
        examples: posts to try it with.
        revision: of a name on the Hub.
        overwrite: replace a folder that is a Space.
        least: where the slider of "none of these" stands at first.

    Returns:
        The files, sorted.

    Raises:
        FileExistsError: the folder holds something, and it is not to be replaced or is no Space.
        FileNotFoundError: the model's folder is none.
        ValueError: a revision of a folder.
    """
    check_model_folder(model)
    is_folder = os.path.isdir(model)
    if is_folder and revision is not None:
        raise ValueError(f"revision: a folder has none, it is for names on the Hub (got {revision!r} for {model})")
    _check_place(folder, overwrite)
    copied = "model" if is_folder else model
    description = "Zero-shot entity types and relations of posts with images"
    assert len(description) <= MOST_OF_DESCRIPTION
    needed = sum(file.stat().st_size for file in Path(model).rglob("*") if file.is_file()) if is_folder else 0
    with whole_folder(os.fspath(folder), needed + 10**6) as partial:
        write_examples(examples, os.path.join(partial, "examples"))
        shutil.copytree(
            PACKAGE, os.path.join(partial, PACKAGE.name), ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
        if is_folder:
            shutil.copytree(model, os.path.join(partial, copied), ignore=shutil.ignore_patterns("__pycache__", ".*"))
            if (record := find_run_record(model)) is not None:  # it may lie in the folder above
                Path(partial, copied, RUN_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")
        contents = {
            "README.md": README.format(
                gradio=GRADIO,
                license=_license(model) if is_folder else f"license: {OWN_LICENSE}\n",
                description=description,
                models="" if is_folder else f"models:\n- {model}\n",
                model=copied,
                where=", beside the page" if is_folder else "" if revision is None else f" at `{revision}`",
            ),
            "app.py": APP.format(
                model=json.dumps(copied),
                revision="None" if revision is None else json.dumps(revision),
                argument="str(HERE / MODEL)" if is_folder else "MODEL",
                least=check_least(least),
            ),
            "requirements.txt": "".join(f"{name}=={_version(name)}\n" for name in REQUIREMENTS) + f"{PILLOW}\n",
        }
        for name, content in contents.items():
            Path(partial, name).write_text(content, encoding="utf-8")
        return sorted(str(file.relative_to(partial)) for file in Path(partial).rglob("*") if file.is_file())


def _license(model: str) -> str:
    """The line of the licence that the card of copied weights names; nothing where it names none."""
    readme = os.path.join(model, "README.md")
    try:
        named = (metadata_load(readme) or {}).get("license") if os.path.isfile(readme) else None
    except (ValueError, YAMLError):  # nobody has read this card
        named = None
    return f"license: {named}\n" if isinstance(named, str) else ""


def _check_place(folder: str | os.PathLike, overwrite: bool) -> None:
    if not os.path.lexists(folder) or (os.path.isdir(folder) and not os.listdir(folder)):
        return
    readme = Path(folder, "README.md")
    if not overwrite:
        raise FileExistsError(f"write_space: {folder} holds something; name a new folder, or overwrite it")
    if not readme.is_file() or "\nsdk: gradio\n" not in readme.read_text(encoding="utf-8"):
        raise FileExistsError(f"write_space: {folder} is no Space, so it is not replaced")


def _version(name: str) -> str:
    """The installed version, without its local part (+cpu), which no index has."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError as error:
        raise ValueError(f"write_space: {name} must be installed, for its version is written down") from error
