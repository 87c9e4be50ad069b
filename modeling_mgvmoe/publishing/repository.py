"""A complete repository in a folder: model, processor, code, card, numbers, and what an Inference Endpoint needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..data.files import read_json_object
from ..inference.model_folder import check_model_folder, load_model
from ..training.run_metadata import RUN_FILE, read_run_record
from .card import CardFacts, code_blocks, make_card, read_evaluation

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi


CARD, METRICS, EVALUATION, REQUIREMENTS, HANDLER = (
    "README.md", "metrics.json", "evaluation.json", "requirements.txt", "handler.py"
)  # fmt: skip
# What a repository must have to be loaded and served.
NEEDED = (CARD, "config.json", "configuration_mgvmoe.py", "modeling_mgvmoe.py", "processing_mgvmoe.py",
          "pipeline_mgvmoe.py", "processor_config.json", "tokenizer.json", "tokenizer_config.json", HANDLER,
          REQUIREMENTS)  # fmt: skip
# Of those that install the package, what loading and scoring imports.
RUNTIME = ("torch", "transformers", "huggingface_hub", "safetensors", "numpy", "pillow")
WITHOUT_PACKAGE = "import sys; sys.modules['modeling_mgvmoe'] = None\n"
CHECK_SECONDS = 600


@dataclass(frozen=True)
class Source:
    """What is published.

    Attributes:
        model: folder of the saved model and its processor.
        run: folder of the run that made it, or `None`.
        evaluations: files of numbers that `examples/evaluate.py` wrote.
    """

    model: str
    run: str | None = None
    evaluations: tuple[str, ...] = ()


def find_source(folder: str, evaluations: Sequence[str] = ()) -> Source:
    """A run's folder, or the folder of a saved model alone or within its run.

    Raises:
        FileNotFoundError: there is no model, or no processor beside it.
    """
    inner = os.path.join(folder, "model")
    model = inner if os.path.isfile(os.path.join(inner, "config.json")) else folder
    if not os.path.isdir(model):
        raise FileNotFoundError(f"model: the folder {folder} does not exist")
    check_model_folder(model)
    above = os.path.dirname(os.path.abspath(model))
    run = next((one for one in (folder, above) if os.path.isfile(os.path.join(one, RUN_FILE))), None)
    for path in evaluations:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"evaluation: the file {path} does not exist")
    return Source(model, run, tuple(evaluations))


def build_repository(source: Source, output_dir: str, facts: CardFacts, max_shard_size: str = "5GB") -> list[str]:
    """Write everything that is pushed into an empty folder.

    Args:
        source: what is published.
        output_dir: an empty folder.
        facts: of the card; what the source tells is filled in here.
        max_shard_size: of a file of weights, such as "5GB".

    Returns:
        The files' names, sorted.

    Raises:
        ValueError: model and processor do not load, or do not fit each other, or a file of the source is broken.
    """
    from ..pipeline_mgvmoe import ZeroShotMultimodalIEPipeline

    record = read_run_record(source.run) if source.run else None
    evaluations = [read_evaluation(path) for path in source.evaluations]
    model, processor = load_model(source.model, "cpu")
    ZeroShotMultimodalIEPipeline(model=model, processor=processor).save_pretrained(
        output_dir, max_shard_size=max_shard_size
    )
    requirements = runtime_requirements()
    _write(output_dir, REQUIREMENTS, "".join(f"{line}\n" for line in requirements))
    validation = None
    if source.run and os.path.isfile(metrics := os.path.join(source.run, METRICS)):
        found = read_json_object(metrics)
        best = found.get("best", {})
        if not isinstance(best, dict):
            raise ValueError(f"{metrics}: best must be an object, got {best!r:.80}")
        validation = best.get("validation")
        _write(output_dir, METRICS, json.dumps(found, indent=1) + "\n")
    if record:
        _write(output_dir, RUN_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if evaluations:
        _write(output_dir, EVALUATION, json.dumps(evaluations, indent=1, ensure_ascii=False) + "\n")
    card = make_card(
        replace(
            facts,
            record=record,
            validation=validation,
            evaluations=tuple(evaluations),
            similarity=model.config.score == "similarity",
            requirements=", ".join(line for line in requirements if line.startswith(("torch", "transformers"))),
        )
    )
    _write(output_dir, CARD, str(card))
    names = sorted(os.path.relpath(os.path.join(where, name), output_dir)
                   for where, _, files in os.walk(output_dir) for name in files)  # fmt: skip
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise ValueError(f"model: a repository must have {', '.join(NEEDED)}, but {', '.join(missing)} is missing")
    return names


def runtime_requirements() -> list[str]:
    """The packages that loading and scoring need, with the bounds of this package."""
    from importlib.metadata import requires

    found = [line for line in requires("mg-vmoe") or () if ";" not in line]
    return [line for line in found if _package(line) in RUNTIME]


def _package(requirement: str) -> str:
    return "".join(
        character if character.isalnum() or character in "-_." else " " for character in requirement
    ).split()[0]


def check_repository(folder: str, repo_id: str) -> str:
    """Run the card's own code on the folder, in a process that has only what a user of it has.

    Returns:
        What it printed.

    Raises:
        RuntimeError: it fails; the last line says why.
    """
    with open(os.path.join(folder, CARD), encoding="utf-8") as file:
        (code, *_) = code_blocks(file.read(), "python")
    code = WITHOUT_PACKAGE + code.replace(f'"{repo_id}"', repr(os.path.abspath(folder)))
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = {**os.environ, "HF_MODULES_CACHE": elsewhere, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
        )
    if done.returncode:
        raise RuntimeError(f"the card's code fails on the repository: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


def listing(folder: str, names: Sequence[str]) -> list[tuple[str, int]]:
    """Every file with its bytes."""
    return [(name, os.path.getsize(os.path.join(folder, name))) for name in names]


def _write(folder: str, name: str, text: str) -> None:
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write(text)


def describe(value: Any) -> str:
    """A count of bytes for a person."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


# Files of an earlier push that this one does not have are taken away, where they are of these kinds: an old shard of
# the weights or an old piece of code would be loaded.
OURS = (".safetensors", ".safetensors.index.json", ".py", ".json", ".txt")


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no "user/name", before a model is loaded.

    Raises:
        ValueError: naming the rule.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id: {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"repo_id must be 'user/name' or 'organization/name', got {repo_id!r}")


def push_folder(
    folder: str,
    names: Sequence[str],
    repo_id: str,
    private: bool,
    revision: str | None = None,
    message: str = "Model, processor, code and card",
    create_pr: bool = False,
    token: str | None = None,
) -> CommitInfo:
    """Put files into a new or existing model repository, in one commit.

    Args:
        folder: where they are.
        names: relative to it.
        repo_id: "user/name".
        private: a new repository is seen by its owner only; an existing one must be so already. There is no default:
            weights may not be public where their data is not.
        revision: branch; made if need be. Default: "main".
        message: of the commit.
        create_pr: as a pull request.
        token: default: the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        The commit, with its `oid` and `commit_url`.

    Raises:
        ValueError: there is no token, it is refused or may not write there, or the repository is public and `private`
            is set.
        ConnectionError: the Hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_repo_id(repo_id)
    api = HfApi(token=token)
    with plain_errors(repo_id):
        api.whoami()
        there = _visibility(api, repo_id)
        if there == "public" and private:
            raise ValueError(f"private: the repository {repo_id} is there already and public; set it to private first")
        if there is None:
            api.create_repo(repo_id, private=private, exist_ok=True)
        if revision not in (None, "main"):
            api.create_branch(repo_id, branch=str(revision), exist_ok=True)
        old = api.list_repo_files(repo_id, revision=revision)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=name.replace(os.sep, "/"), path_or_fileobj=os.path.join(folder, name))
            for name in names
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in stale_files(old, names)]
        return api.create_commit(
            repo_id, operations, commit_message=message, revision=revision, create_pr=create_pr or None
        )


def stale_files(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Files of an earlier push that would be loaded with this one's, or passed for its numbers."""
    return sorted(name for name in set(old) - set(new) if "/" not in name and name.endswith(OURS))


def _visibility(api: HfApi, repo_id: str) -> str | None:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return "private" if api.repo_info(repo_id).private else "public"
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


@contextmanager
def plain_errors(repo_id: str) -> Iterator[None]:
    """What the Hub's client raises, in words that say what to do.

    Raises:
        ValueError, ConnectionError: see [`push_folder`].
    """
    # HTTPError is that of the HTTP library, of which the Hub's client has had two.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ValueError(
            "token: there is none. Run `hf auth login`, or set HF_TOKEN, with one that may write"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 401:
            raise ValueError(
                "token: the Hub does not know it. Make one that may write and run `hf auth login`"
            ) from error
        if status == 403:
            raise ValueError(
                f"repo_id: this token may not write to {repo_id}; it needs the right to write, and "
                f"{repo_id.partition('/')[0]} must be you or an organization of yours"
            ) from error
        raise ConnectionError(f"the Hub answered {status}: {str(error).strip().splitlines()[0]}") from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError("HF_HUB_OFFLINE is set, so nothing can be sent") from error
    except HTTPError as error:
        raise ConnectionError(f"the Hub cannot be reached: {error or type(error).__name__}") from error
