"""A folder becomes a repository on the Hub, in one commit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

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
