"""A complete repository in a folder: model, processor, code, model card, numbers, what an Inference Endpoint needs."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from ..data.adapters import NOT_PUBLIC
from ..data.files import read_json, read_json_object
from ..data.label_sets import TASKS
from ..data.sketchbook import generate_posts, split_classes
from ..evaluation.report import COLUMNS, MEANING, markdown_table
from ..evaluation.runs import OURS
from ..inference.model_folder import check_model_folder, load_model
from ..pipeline_mgvmoe import TASK
from ..training.arguments import DataArguments, ModelArguments, TrainingArguments
from ..training.run_metadata import RUN_FILE, read_run_record

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, EvalResult, HfApi, ModelCard


TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "card_template.md")
TAGS = (TASK, "multimodal", "information-extraction", "entity-typing", "relation-extraction", "mixture-of-experts",
        "custom_code")  # fmt: skip
# A task of the Hub; ours is none, and goes to the tags.
PIPELINE_TAG = "zero-shot-classification"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
MODEL_ID = re.compile(r"[\w.-]+/[\w.-]+")
# For the model index: metric of an evaluation, type and name on the Hub.
INDEXED = {
    "accuracy": ("accuracy", "Accuracy"),
    "macro_f1": ("f1", "Macro-F1"),
    "harmonic_macro_f1": ("f1", "Macro-F1, harmonic mean of seen and unseen"),
    "auroc": ("roc_auc", "AUROC of rejection"),
}
# Made by this package: only of weights trained on it alone is the licence ours to name.
OWN_DATA, OWN_LICENSE = "sketchbook", "apache-2.0"


@dataclass(frozen=True)
class UsageExample:
    """A post of our own for the code that the card shows.

    Attributes:
        task: "typing" or "relation".
        text: the post.
        mentions: its words that are marked, by the keys that the pipeline takes.
        right: names of the right label, as datasets call it.
        others: labels beside it, for datasets that have none of these names.
    """

    task: str
    text: str
    mentions: Mapping[str, str]
    right: tuple[str, ...]
    others: tuple[str, ...]


EXAMPLES = (
    UsageExample("typing", "Kelo Mar reads the poem again", {"mention": "Kelo Mar"},
                 ("person", "author", "writer", "other person"), ("city", "organization", "event")),
    UsageExample("typing", "what a night at the Dunvik Lights, see you next summer", {"mention": "Dunvik Lights"},
                 ("event", "festival or holiday", "other event"), ("person", "city", "organization")),
    UsageExample("typing", "moved to Dunvik for the job", {"mention": "Dunvik"},
                 ("city", "location", "other location", "country", "site"), ("person", "organization", "event")),
    UsageExample("typing", "Dunvik United win again in extra time", {"mention": "Dunvik United"},
                 ("sports team", "organization", "organisation", "other organization", "company"),
                 ("person", "city", "event")),
    UsageExample("typing", "finally watched The Long Ferry, cried twice", {"mention": "The Long Ferry"},
                 ("movie", "film or television show", "book", "written work", "song", "other work of art"),
                 ("person", "city", "organization")),
    UsageExample("relation", "Kelo Mar signs for Dunvik United", {"head": "Kelo Mar", "tail": "Dunvik United"},
                 ("member of",), ("born in", "married to", "founder of")),
    UsageExample("relation", "Kelo Mar and Mura Lind present their song together",
                 {"head": "Kelo Mar", "tail": "Mura Lind"}, ("peer of", "partner of"),
                 ("parent of", "born in", "member of")),
    UsageExample("relation", "Kelo Mar grew up in a small flat in Dunvik", {"head": "Kelo Mar", "tail": "Dunvik"},
                 ("lives in", "born in"), ("member of", "married to", "founder of")),
    UsageExample("relation", "Mura Lind wins the Silver Oar", {"head": "Mura Lind", "tail": "Silver Oar"},
                 ("awarded",), ("member of", "born in", "founder of")),
    UsageExample("relation", "the Harbour Hall in Dunvik opens tonight", {"head": "Harbour Hall", "tail": "Dunvik"},
                 ("located at", "present in", "held in", "part of"), ("member of", "born in", "founder of")),
    UsageExample("relation", "happy birthday to my sister Mura, love, Kelo", {"head": "Kelo", "tail": "Mura"},
                 ("sibling of",), ("member of", "born in", "founder of")),
)  # fmt: skip
LABELS_SHOWN = 4


@dataclass(frozen=True)
class CardFacts:
    """Contents of a model card.

    Attributes:
        repo_id: "user/name".
        record: what `run.json` holds, or `None`.
        validation: the scores of `metrics.json`'s best step by task, or `None`.
        evaluations: what files of `examples/evaluate.py` hold.
        similarity: whether the score begins as similarity, so that types may be given.
        license: as the Hub names it; `None`: that of the package, for a model that was trained on its own data only.
        language: as the Hub names it.
        base_model: Hub names of the encoders; `None`: those of the record that are Hub names.
        datasets: Hub names of the data; `None`: the name in the record.
        requirements: versions that loading needs.
        notes: further limits.
    """

    repo_id: str
    record: Mapping[str, Any] | None = None
    validation: Mapping[str, Any] | None = None
    evaluations: Sequence[Mapping[str, Any]] = ()
    similarity: bool = False
    license: str | None = None
    language: str = "en"
    base_model: Sequence[str] | None = None
    datasets: Sequence[str] | None = None
    requirements: str = "transformers"
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("base_model", "datasets"):
            pattern = MODEL_ID if name == "base_model" else HUB_ID
            for value in getattr(self, name) or ():
                if not pattern.fullmatch(value):
                    raise ValueError(f"{name} must hold names on the Hub, such as 'user/name', got {value!r}")


def make_card(facts: CardFacts) -> ModelCard:
    """The card, checked by [`check_card`].

    Raises:
        ValueError: the license is missing, and the data is not this package's own; or as [`check_card`].
    """
    from huggingface_hub import ModelCard, ModelCardData

    encoders = _encoders(facts)
    base_model = list(facts.base_model) if facts.base_model is not None else [e for e in encoders if _on_the_hub(e)]
    datasets = facts.datasets
    if datasets is None:
        datasets = facts.record["dataset"]["name"].split(", ") if facts.record else []
    data = ModelCardData(
        language=facts.language,
        license=facts.license or default_license(facts.record),
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        base_model=base_model or None,
        datasets=list(datasets) or None,
        tags=list(TAGS),
        metrics=["accuracy", "f1"],
        model_name=facts.repo_id.rpartition("/")[2],
        eval_results=_index(facts) or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=TEMPLATE,
        title=facts.repo_id.rpartition("/")[2],
        repo_id=facts.repo_id,
        record=facts.record,
        usage=usage(facts.record),
        requirements=facts.requirements,
        tables=[_table(evaluation) for evaluation in facts.evaluations],
        validation=_validation(facts),
        posts=_posts(facts.record),
        classes=_classes(facts.record),
        encoders=", ".join(encoders) or "from random weights",
        parameters=_parameters(facts.record),
        recipe=recipe(facts.record) if facts.record else "",
        similarity=facts.similarity,
        notes=list(facts.notes),
    )
    check_card(card)
    return card


def is_own_data(record: Mapping[str, Any] | None) -> bool:
    """Whether a run was trained on nothing but what this package makes itself, so that its weights may be public."""
    if record is None or set(record["dataset"]["name"].split(", ")) != {OWN_DATA}:
        return False
    if record["arguments"]["model"].get("model_name_or_path") is not None:
        return False  # nothing says what those weights were trained on
    # A folder of somebody's own posts may have that name as well.
    return all(set(names) <= _drawn_labels(_task(key)) for key, names in record["labels"]["train"].items())


def _task(key: str) -> str:
    """The task that labels are listed under; of several datasets "name/task"."""
    return key.rpartition("/")[2]


def _drawn_labels(task: str) -> set[str]:
    """All labels of the sketchbook for a task."""
    if task not in TASKS:
        return set()
    classes = split_classes(task, 0)
    return {*classes.train, *classes.validation, *classes.test}


def default_license(record: Mapping[str, Any] | None) -> str:
    """The licence of weights for which none was named.

    Raises:
        ValueError: only whoever trained them can say, for the data is not this package's own.
    """
    if is_own_data(record):
        return OWN_LICENSE
    name = None if record is None else record["dataset"]["name"]
    why = "there is no run.json, which would say what it was trained on"
    if name is not None:
        reasons = dict.fromkeys(NOT_PUBLIC[one] for one in name.split(", ") if one in NOT_PUBLIC)
        why = ", and ".join([f"it was trained on {name}", *reasons])
    raise ValueError(
        f"license: name the licence of these weights as the Hub writes it, such as 'cc-by-nc-4.0' or 'other': {why}"
    )


def usage(record: Mapping[str, Any] | None) -> str:
    """Python that asks the pipeline `pipe`: a post of ours for each task that was trained, and labels that fit it.

    The labels are those of the run's unseen classes where our posts have a right one among them.
    """
    if record is None:
        tasks: dict[str, list[str]] = {task: [] for task in TASKS}
    else:
        trained = record["labels"]["train"]
        tasks = {}
        for key, names in record["labels"]["test"].items():
            if names or trained.get(key):
                own = tasks.setdefault(_task(key), [])
                own += [name for name in names if name not in own]
    lines = []
    for task, names in tasks.items():
        post, labels = _example(task, names, record)
        lines.append(f"print(pipe({_python(post)}, candidate_labels={_python(labels)}))")
    return "\n".join(lines)


def _example(task: str, names: Sequence[str], record: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """A post as the pipeline takes it, and labels of which one is right."""
    if names and is_own_data(record):
        (post,) = generate_posts(task, "test", labels=names[:1], posts_per_class=1)
        text, spans = post["text"], post["mentions"]
        keys = ("mention",) if len(spans) == 1 else ("head", "tail")
        marked = {key: tuple(span) for key, span in zip(keys, spans, strict=True)}
        return {"text": text, "image": None, **marked}, list(names[:LABELS_SHOWN])
    own = [example for example in EXAMPLES if example.task == task]
    fitting = [(example, label) for example in own for label in example.right if label in names]
    example, right = fitting[0] if fitting else (own[0], own[0].right[0])
    # Another name of the same class would be right as well.
    others = [name for name in names if name not in example.right] if fitting else list(example.others)
    starts = {key: example.text.index(words) for key, words in example.mentions.items()}
    marked = {key: (start, start + len(example.mentions[key])) for key, start in starts.items()}
    return {"text": example.text, "image": None, **marked}, [right, *others][:LABELS_SHOWN]


def recipe(record: Mapping[str, Any]) -> str:
    """The run's arguments that are not the default, as YAML for `examples/train.py --config`."""
    import yaml

    classes: dict[str, Any] = {"model": ModelArguments, "data": DataArguments, "training": TrainingArguments}
    sections = {}
    for section, own in record["arguments"].items():
        defaults = {
            field.name: field.default_factory() if callable(field.default_factory) else field.default
            for field in fields(classes[section])
        }
        sections[section] = {name: value for name, value in own.items() if value != defaults.get(name)}
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True).rstrip()


def check_card(card: ModelCard) -> None:
    """Raise where the card could not be read, or its code is none, before anything is sent.

    Raises:
        ValueError: naming what is wrong.
    """
    import yaml
    from huggingface_hub import ModelCard

    read = ModelCard(str(card))
    for name in ("language", "license", "library_name", "pipeline_tag", "tags", "metrics"):
        if not getattr(read.data, name, None):
            raise ValueError(f"card: its front matter must have {name}, which is missing")
    if read.data.to_dict() != card.data.to_dict():
        raise ValueError("card: its front matter must read back as it was written")
    if "{{" in read.text or "{%" in read.text:
        raise ValueError("card: a place of the template was not filled")
    for block in code_blocks(str(card), "python"):
        ast.parse(block)
    for block in code_blocks(str(card), "yaml"):
        yaml.safe_load(block)


def code_blocks(text: str, language: str) -> list[str]:
    """The code between the fences of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def read_evaluation(path: str) -> dict[str, Any]:
    """A file of numbers that `examples/evaluate.py` wrote.

    Raises:
        ValueError: it is none.
    """
    found = read_json(path, "evaluation")
    needed = {"protocol", "summary", "seeds", "dataset", "command"}
    missing = needed - set(found if isinstance(found, dict) else ())
    if missing:
        raise ValueError(
            f"evaluation: {path} must be a .json file of examples/evaluate.py, but has no {', '.join(sorted(missing))}"
        )
    summary = found["summary"]
    if not isinstance(summary, dict) or not all(isinstance(scores, dict) for scores in summary.values()):
        raise ValueError(f"evaluation: {path}: summary must hold the methods' scores by task, got {summary!r:.80}")
    if any(OURS not in scores for scores in summary.values()):
        raise ValueError(f"evaluation: {path} has no scores of {OURS}")
    return found


def _index(facts: CardFacts) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    found = []
    for evaluation in facts.evaluations:
        name = _dataset_name(evaluation)
        for task, methods in evaluation["summary"].items():
            for metric, (kind, shown) in INDEXED.items():
                if metric in methods[OURS]:
                    found.append(
                        EvalResult(
                            task_type=PIPELINE_TAG,
                            task_name=f"Zero-shot {task}",
                            dataset_type=name,
                            dataset_name=f"{name}, {evaluation['protocol']} classes, {task}",
                            dataset_split="test",
                            metric_type=kind,
                            metric_name=shown,
                            metric_value=round(methods[OURS][metric]["mean"], 4),
                        )
                    )
    return found


def _dataset_name(evaluation: Mapping[str, Any]) -> str:
    """Name of what was evaluated on, of a folder the last part: the training may have been on another dataset."""
    return os.path.basename(os.path.normpath(evaluation["dataset"].strip("`")))


def _table(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """Every method's scores of an evaluation, mean and deviation over its seeds."""
    protocol, several = evaluation["protocol"], len(evaluation["seeds"]) > 1
    columns = COLUMNS[protocol]
    rows = []
    for task, methods in evaluation["summary"].items():
        for method, scores in methods.items():
            cells = []
            for metric in columns:
                own = scores.get(metric)
                mean = "" if own is None else f"{own['mean']:.3f}"
                cells.append(f"{mean} ± {own['std']:.3f}" if own is not None and several else mean)
            rows.append([method, task, *cells])
    seeds = ", ".join(map(str, evaluation["seeds"]))
    command = evaluation["command"].strip("`")
    facts = f"{evaluation.get('machine', '')}. `{_without_folders(command)}`"
    notes = "".join(f"\n\n> {note}" for note in evaluation.get("notes", ()))
    heading = f"### {_dataset_name(evaluation)}: {protocol}, seed{'s' if several else ''} {seeds}"
    return {
        "title": f"{heading}\n\n{MEANING[protocol]}",
        "text": f"{markdown_table(['method', 'task', *columns.values()], rows)}\n\n{facts}{notes}",
    }


def _without_folders(command: str) -> str:
    """Folders of one machine by their last part."""
    return " ".join(
        os.path.basename(os.path.normpath(part)) if os.path.isabs(part) else part for part in command.split()
    )


def _validation(facts: CardFacts) -> dict[str, Any] | None:
    if not facts.validation:
        return None
    text = "; ".join(
        f"{task}: accuracy {own['accuracy']:.3f}, macro-F1 {own['macro_f1']:.3f} on {own['n']:,} posts "
        f"(chance {own['chance']:.3f}, majority class {own['majority']:.3f})"
        for task, own in facts.validation.items()
    )
    labels = facts.record["labels"]["validation"] if facts.record else {}
    return {"text": text, "count": sum(map(len, labels.values())) or ""}


def _encoders(facts: CardFacts) -> list[str]:
    if not facts.record:
        return list(facts.base_model or ())
    model = facts.record["arguments"]["model"]
    names = ("text_model_name_or_path", "vision_model_name_or_path", "model_name_or_path")
    return [model[name] for name in names if model.get(name)]


def _on_the_hub(name: str) -> bool:
    return bool(MODEL_ID.fullmatch(name)) and not os.path.exists(name)


def _posts(record: Mapping[str, Any] | None) -> str:
    if not record:
        return ""
    return ", ".join(f"{count:,} {name} posts" for name, count in record.get("posts", {}).items())


def _classes(record: Mapping[str, Any] | None) -> str:
    if not record:
        return ""
    shown = []
    for task, names in record["labels"]["train"].items():
        if names:
            shown.append(f"{len(names)} for {task}: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}")
    return "; ".join(shown)


def _parameters(record: Mapping[str, Any] | None) -> str:
    own = (record or {}).get("parameters")
    return f"{own['all']:,}, of which {own['trained']:,} were trained" if own else ""


def _python(value: Any) -> str:
    """A literal with double quotes, as the rest of the card has them."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_python(key)}: {_python(own)}" for key, own in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_python, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


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
    """Contents of a publication.

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

    from packaging.requirements import Requirement

    found = [line for line in requires("mg-vmoe") or () if ";" not in line]
    return [line for line in found if Requirement(line).name in RUNTIME]


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
REPLACED = (".safetensors", ".safetensors.index.json", ".py", ".json", ".txt")


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
    return sorted(name for name in set(old) - set(new) if "/" not in name and name.endswith(REPLACED))


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
    """Turn the Hub client's errors into messages that say what to do.

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
