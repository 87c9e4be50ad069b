"""The model behind the page and its answers; runs the package's own code unless the repository's is asked for."""

from __future__ import annotations

import inspect
import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..inference.model_folder import check_device, check_model_folder, load_model
from ..training.run_metadata import RUN_FILE, read_run_record
from . import markup
from .form import Fields, FormError, read_fields, read_whole_post

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor

logger = logging.getLogger(__name__)
T = TypeVar("T")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ServedModel:
    """A model that answers on the page.

    Attributes:
        name: folder or Hub name.
        model: in evaluation mode.
        processor: of the model.
        revision: commit, branch or tag on the Hub.
        record: the `run.json` of its training, or `None`.
    """

    name: str
    model: MGVMoEForZeroShotIE
    processor: MGVMoEProcessor
    revision: str | None = None
    record: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        """Hub name with its revision; of a folder its last part, with the one before where that is "model"."""
        if not os.path.isdir(self.name):
            return self.name + (f" at {self.revision}" if self.revision else "")
        above, last = os.path.split(os.path.abspath(self.name))
        return f"{os.path.basename(above)}/{last}" if last == "model" else last

    @property
    def training(self) -> str:
        """Name of the training data, in words."""
        if self.record is None and os.path.isfile(os.path.join(self.name, "README.md")):
            return "whose card, README.md in its folder, says what it was trained on"
        if self.record is None:
            return "what it was trained on is not written beside it"
        data, labels = self.record["dataset"], self.record["labels"]["train"]
        split = f" ({data['split']})" if data.get("split") else ""
        nouns = {"typing": "type", "relation": "relation"}
        classes = ", ".join(
            f"{len(names)} {nouns.get(task, task)}{'s' * (len(names) > 1)}" for task, names in labels.items() if names
        )
        return f"trained on {data['name']}{split}" + (f": {classes}" if classes else "")

    @property
    def has_types(self) -> bool:
        """Whether its scores know types of heads and tails."""
        return self.model.config.score == "similarity"


def load_served_model(
    name: str, revision: str | None = None, trust_remote_code: bool = False, device: str | None = None
) -> ServedModel:
    """Load a model with its processor.

    Args:
        name: folder or Hub name.
        revision: commit, branch or tag, of a Hub name only.
        trust_remote_code: run the Python files beside the weights, with your rights, and not this package's. Needed
            only for a model whose code is not this package's. From the Hub it asks for a commit, so that what runs
            is what was read.
        device: "cpu", "cuda", ...; `None`: a GPU if there is one.

    Raises:
        FileNotFoundError: the folder is none, or holds no model with its processor.
        ValueError: a revision of a folder, the code of a moving revision, or another kind of model.
        OSError: there is no such name on the Hub, or it is out of reach.
    """
    import torch

    check_model_folder(name)
    is_folder = os.path.isdir(name)
    if is_folder and revision is not None:
        raise ValueError(f"revision: a folder has none, it is for names on the Hub (got {revision!r} for {name})")
    if trust_remote_code and not is_folder and not COMMIT.fullmatch(revision or ""):
        raise ValueError(
            "trust_remote_code: give the commit that you have read with revision=, 40 hexadecimal digits, so that no "
            f"other code runs (got {revision!r}). Without trust_remote_code this package's own code runs."
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    load = _load_with_its_code if trust_remote_code else load_model
    try:
        model, processor = load(name, device, revision)
    except OSError as error:  # transformers does not always name what it could not get
        raise OSError(f"model: {name} cannot be loaded. {error}") from error
    return ServedModel(name, model, processor, revision, find_run_record(name, revision))


def find_run_record(name: str, revision: str | None = None) -> dict[str, Any] | None:
    """The `run.json` of a model: in its folder, in the run's folder above it, or in its repository on the Hub.

    Args:
        name: folder or Hub name.
        revision: of a Hub name.

    Returns:
        The record, or `None` where there is none within reach.

    Raises:
        ValueError: the file is no such record.
    """
    folders = [name, os.path.dirname(os.path.abspath(name))]
    if not os.path.isdir(name):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError

        try:
            folders = [os.path.dirname(hf_hub_download(name, RUN_FILE, revision=revision))]
        except (HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError):
            return None
    return next((record for folder in folders if (record := read_run_record(folder)) is not None), None)


def _load_with_its_code(name: str, device: str, revision: str | None) -> tuple[Any, Any]:
    """By the classes that the checkpoint names: the Auto classes take this package's, which they know, before them."""
    from transformers import PreTrainedConfig
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    from ..processing_mgvmoe import MGVMoEProcessor

    warnings.warn(f"The code beside the weights of {name} runs, with your rights.", stacklevel=3)
    keywords: dict[str, Any] = {} if revision is None else {"revision": revision}
    named = PreTrainedConfig.get_config_dict(name, **keywords)[0].get("auto_map", {})
    named = named | MGVMoEProcessor.get_processor_dict(name, **keywords)[0].get("auto_map", {})
    parts: list[Any] = []
    for auto_class in ("AutoModel", "AutoProcessor"):
        if auto_class not in named:
            raise ValueError(f"trust_remote_code: {name} has no own code for {auto_class}; leave it out")
        own: Any = get_class_from_dynamic_module(named[auto_class], name, **keywords)
        parts.append(own.from_pretrained(name, **keywords))
    model, processor = parts
    if "return_offsets_mapping" not in inspect.signature(processor.encode_post).parameters:
        raise ValueError(
            f"trust_remote_code: the code beside the weights of {name} is too old to be explained; leave it out, and "
            "this package's own code runs."
        )
    return model.to(device).eval(), processor


@dataclass(frozen=True)
class Shown:
    """The page's outputs after a click.

    Attributes:
        verdict: HTML of the answer and the scores, or of a message.
        weighed, experts: HTML of the explanation; empty beside a message.
        ranking: the scores, for another threshold; `None` beside a message.
    """

    verdict: str
    weighed: str = ""
    experts: str = ""
    ranking: list[dict[str, Any]] | None = None


def answer(served: ServedModel, fields: Fields, least: float) -> Shown:
    """Score the labels and explain the scores; an error becomes a message on the page.

    Args:
        served: the model.
        fields: the values of the page's inputs.
        least: see [`markup.verdict`].
    """
    from ..evaluation.explanation import explain_post

    def explain() -> Shown:
        known = fields if served.has_types else replace(fields, label_types="", type_sentences="")
        explanation = explain_post(served.model, served.processor, **read_fields(known))
        return Shown(
            markup.verdict(explanation.ranking, least),
            markup.side_by_side(explanation) + markup.weighed(explanation),
            markup.experts(explanation),
            explanation.ranking,
        )

    done = _in_words(explain)
    return Shown(done) if isinstance(done, str) else done


def whole_post(served: ServedModel, fields: Fields) -> str:
    """The graph of a post as HTML; an error becomes a message on the page."""

    def extract() -> str:
        arguments = read_whole_post(fields)
        if not served.has_types:
            arguments.pop("label_types", None)
        (graph,) = served.model.extract(processor=served.processor, **arguments)
        return markup.post_graph(graph)

    return _in_words(extract)


def _in_words(work: Callable[[], T]) -> T | str:
    """The result of `work`, or its error as a message."""
    try:
        return work()
    except FormError as error:
        return markup.message(str(error))
    except ValueError as error:  # of processor or model, which name the argument and the rule
        return markup.message(f"This cannot be answered. {error}")
    except Exception:
        logger.exception("the page could not answer")
        return markup.message("Something went wrong on the server while answering; its log says what.")


def verdict_again(ranking: Sequence[Mapping[str, Any]] | None, least: float) -> str | None:
    """The verdict of given scores under another threshold; `None` without scores."""
    return None if ranking is None else markup.verdict(ranking, least)
