"""A model, its processor and candidate labels (JSON files) as what the bulk extraction calls; their fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.environment import MIXED_PRECISIONS, choose_precision
from ..data.files import check_keys, read_json_object
from ..data.fingerprint import module_fingerprint
from ..data.label_sets import read_label_set
from ..data.schema import check_choice
from ..data.splits import SPLITS
from ..data.zero_shot_data import read_prepared_labels
from ..extraction import GraphExtractor, inverse_rules
from ..labels import RENAMED, TASKS, check_labels

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


# Of a file of candidates, what `extract` of a model takes by the same name.
LABELS = ("typing_labels", "relation_labels")
OPTIONS = (
    "label_descriptions",
    "label_types",
    "type_descriptions",
    "hypothesis_template",
    "label_separator",
    "relation_constraints",
    "symmetric",
    "inverses",
)


@dataclass(frozen=True)
class CandidateLabels:
    """Allowed labels of mentions and pairs.

    Attributes:
        typing, relation: labels; empty for a task that is not asked for.
        options: of [`OPTIONS`], as `extract` of a model takes them.
    """

    typing: tuple[str, ...] = ()
    relation: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """JSON form."""
        return {"typing": list(self.typing), "relation": list(self.relation), "options": dict(self.options)}


def read_candidate_labels(
    paths: Sequence[str | os.PathLike[str]], split: str = "test", with_types: bool = True
) -> CandidateLabels:
    """Read one file or several, whose labels are taken together.

    A file is one of these, told by its keys:

    - candidates: `typing_labels` and `relation_labels`, lists of which one may be missing, and what belongs to them,
      of [`OPTIONS`];
    - a label set of `configuration/labels/`, of one task;
    - `labels.json` of a prepared folder, of which one split is taken.

    Args:
        paths: of the files.
        split: of `labels.json`.
        with_types: take the types of head and tail that a label set or a `labels.json` names, for models with
            `score="similarity"`, the only ones that read them. A file of candidates is taken as it is.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: it breaks its format, gives no label, or contradicts another.
    """
    found = [_read(os.fspath(path), split, with_types) for path in paths]
    merged: dict[str, Any] = {}
    for path, one in zip(paths, found, strict=True):
        for name, value in one.options.items():
            known = merged.setdefault(name, value)
            if isinstance(value, Mapping) and isinstance(known, Mapping):
                both = [key for key in value if key in known and known[key] != value[key]]
                if both:
                    raise ValueError(f"labels: {os.fspath(path)}: {name} of {both[0]!r} differs from another file's")
                merged[name] = {**known, **value}
            elif isinstance(value, list) and isinstance(known, list):
                merged[name] = list(dict.fromkeys([*known, *value]))
            elif value != known:
                raise ValueError(f"labels: {os.fspath(path)}: {name} differs from another file's")
    labels = {task: tuple(dict.fromkeys(label for one in found for label in getattr(one, task))) for task in TASKS}
    if not any(labels.values()):
        raise ValueError(f"labels: at least one label is needed, got none in {', '.join(str(path) for path in paths)}")
    return CandidateLabels(**labels, options=merged)


def _read(path: str, split: str, with_types: bool) -> CandidateLabels:
    content = read_json_object(path, "labels")
    if "classes" in content:
        label_set = read_label_set(path)
        names = tuple(info.name for raw, info in label_set.classes.items() if raw not in label_set.left_out)
        options: dict[str, Any] = {"label_descriptions": _of(names, label_set.texts())}
        options["symmetric"], options["inverses"] = inverse_rules(label_set.inverses(), names)
        types = {"label_types": _of(names, label_set.allowed_types()), "type_descriptions": label_set.type_texts()}
        return CandidateLabels(**{label_set.task: names}, options=_filled(options | (types if with_types else {})))
    if "dataset" in content:
        if split not in SPLITS:
            raise ValueError(f"label_split must be one of {', '.join(SPLITS)}, got {split!r}")
        prepared = read_prepared_labels(path)
        words = prepared["words"]
        labels = prepared["labels"][split]
        candidates = [name for own in labels.values() for name in own]
        # The types of all splits stay: a label's score depends on them.
        kept = {**(words if with_types else {}), "label_descriptions": _of(candidates, words["label_descriptions"])}
        return CandidateLabels(**labels, options=_filled(kept))
    try:
        content = {RENAMED.get(name, name): value for name, value in content.items()}
        check_keys(content, (), (*LABELS, *OPTIONS))
        for name in LABELS:
            labels = content.get(name, [])
            if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
                raise ValueError(f"{name} must be a list of strings, got {labels!r:.80}")
            if labels:
                check_labels(labels, name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    typing, relation = (tuple(content.get(name, ())) for name in LABELS)
    return CandidateLabels(typing, relation, _filled({name: content[name] for name in OPTIONS if name in content}))


def _of(names: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _filled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that say something."""
    return {name: value for name, value in options.items() if value}


PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# What a saved processor says about how it was loaded, and not about what it does.
LOADING = ("auto_map", "transformers_version", "is_local", "local_files_only", "name_or_path")
# Any model should be able to make something of it.
TRIAL = {"id": "trial", "text": "this and that", "mentions": [(0, 4), (9, 13)]}


@dataclass(frozen=True)
class ExtractionOptions:
    """Options of extraction, besides the labels.

    Attributes:
        texts_at_once: marked texts in one forward pass.
        top_k: labels in each ranking; default all.
        threshold: least that the answered label needs, for all, or by task ("typing", "relation").
        reject_by: what the threshold is about, of `labels.REJECT_BY`.
        max_length: of a tokenized text.
        num_neighbors: of label propagation, see `extraction.extract`.
        mixed_precision: "no", "bf16", "fp16", or "auto": bf16 where the hardware has it. A run resumes only in the
            precision in which it began.
    """

    texts_at_once: int = 32
    top_k: int | None = None
    threshold: float | Mapping[str, float] | None = None
    reject_by: str = "probability"
    max_length: int | None = None
    num_neighbors: int = 0
    mixed_precision: str = "no"

    def __post_init__(self) -> None:
        check_choice("mixed_precision", self.mixed_precision, MIXED_PRECISIONS)

    def identity(self) -> dict[str, Any]:
        """JSON form."""
        return {name: value if not isinstance(value, Mapping) else dict(value) for name, value in vars(self).items()}


class ModelExtractor:
    """Posts to what a model finds in them.

    Args:
        model: on its device.
        processor: of the model.
        labels: candidates.
        options: how.
        mention_finder: a token-classification pipeline for posts without mentions.

    Attributes:
        identity: of all this, as JSON values: digests of weights, processor and finder, labels, options.

    Raises:
        ValueError: they do not fit each other.
    """

    def __init__(
        self,
        model: MGVMoEForZeroShotIE,
        processor: MGVMoEProcessor,
        labels: CandidateLabels,
        options: ExtractionOptions,
        mention_finder: Any = None,
    ) -> None:
        options = replace(options, mixed_precision=choose_precision(options.mixed_precision, model.device))
        self.model, self.processor, self.dtype = model, processor, PRECISIONS[options.mixed_precision]
        with self._precision():
            self.extractor = GraphExtractor(
                model,
                processor,
                list(labels.typing) or None,
                list(labels.relation) or None,
                mention_finder=mention_finder,
                threshold=options.threshold,
                reject_by=options.reject_by,
                top_k=options.top_k,
                batch_size=options.texts_at_once,
                max_length=options.max_length,
                num_neighbors=options.num_neighbors,
                errors="return",
                **labels.options,
            )
        self.extractor.numbered = False  # a place in a batch says nothing about the input
        self.identity: dict[str, Any] = {
            "model": module_fingerprint(model, model.config.to_dict()),
            "processor": processor_fingerprint(processor),
            "mention_finder": None if mention_finder is None else finder_fingerprint(mention_finder),
            "labels": labels.identity(),
            "options": options.identity(),
        }
        (answer,) = self([TRIAL])
        if "error" in answer:
            raise ValueError(f"model: it cannot extract from so simple a text as {TRIAL['text']!r}: {answer['error']}")

    def __call__(self, posts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """For each post its mentions and relations, or `error`."""
        with self._precision():
            return self.extractor(posts)

    def image_features(self, images: Sequence[Any]) -> np.ndarray:
        """(n, H'), the mean of the vision encoder's tokens, which no trained part has touched."""
        pixels = [torch.from_numpy(one) for one in self.processor.encode_images(list(images))]
        found = []
        with torch.inference_mode(), self._precision():
            for start in range(0, len(pixels), self.extractor.batch_size):
                batch = torch.stack(pixels[start : start + self.extractor.batch_size]).to(self.model.device)
                found.append(self.model.get_image_features(batch).float().mean(1).cpu().numpy())
        return np.concatenate(found)

    @property
    def feature_size(self) -> int:
        """H'."""
        return int(self.model.config.vision_width)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, dtype=self.dtype)


def load_mention_finder(name: str, device: torch.device | str | int) -> Callable[..., Any]:
    """A token-classification pipeline of transformers, from a folder or the Hub."""
    from transformers import pipeline

    return pipeline("token-classification", model=name, aggregation_strategy="simple", device=device)


def finder_fingerprint(finder: Any) -> str:
    """SHA-256, in hex, of the weights and the configuration of a pipeline's model; of a function its name."""
    model = getattr(finder, "model", None)
    if model is None:
        return getattr(finder, "__qualname__", type(finder).__qualname__)
    return module_fingerprint(model, model.config.to_dict())


def processor_fingerprint(processor: MGVMoEProcessor) -> str:
    """SHA-256, in hex, of all files but the code that a processor saves."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        for name in sorted(os.listdir(folder)):
            if name.endswith(".py"):
                continue
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
            if name.endswith(".json"):
                values = json.loads(content)
                for key in LOADING:
                    values.pop(key, None)
                content = json.dumps(values, sort_keys=True).encode()
            digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()
