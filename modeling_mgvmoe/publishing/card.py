"""The model card of a repository, from the run that made the model and what was measured."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ..data.label_sets import TASKS
from ..data.parquet_folder import NOT_PUBLIC
from ..data.sketchbook import generate_posts, split_classes
from ..evaluation.report import COLUMNS, MEANING, markdown_table
from ..evaluation.runs import OURS
from ..pipeline_mgvmoe import TASK
from ..training.arguments import DataArguments, ModelArguments, TrainingArguments

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

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
    """What a card is made of.

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
        datasets = [facts.record["dataset"]["name"]] if facts.record else []
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
    """Whether a run was trained on what this package makes itself, so that its weights may be public."""
    if record is None or record["dataset"]["name"] != OWN_DATA:
        return False
    # A folder of somebody's own posts may have that name as well.
    return all(set(names) <= _drawn_labels(task) for task, names in record["labels"]["train"].items())


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
        why = f"it was trained on {name}" + (f", and {NOT_PUBLIC[name]}" if name in NOT_PUBLIC else "")
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
        tasks = {task: list(names) for task, names in record["labels"]["test"].items() if names or trained.get(task)}
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
    with open(path, encoding="utf-8") as file:
        try:
            found = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"evaluation: {path} must be JSON: {error}") from error
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
        name = _dataset_name(evaluation, facts)
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


def _dataset_name(evaluation: Mapping[str, Any], facts: CardFacts) -> str:
    """As in the record, or the last part of the folder that was evaluated on."""
    folder = os.path.basename(os.path.normpath(evaluation["dataset"].strip("`")))
    return facts.record["dataset"]["name"] if facts.record else folder


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
    return {
        "title": f"### {protocol.capitalize()}, seed{'s' if several else ''} {seeds}\n\n{MEANING[protocol]}",
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
