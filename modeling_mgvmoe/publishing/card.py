"""The model card of a repository, from the run that made the model and what was measured."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ..evaluation.protocol_report import COLUMNS, MEANING
from ..evaluation.report import markdown_table
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
# Sentences of our own, one for each task, for the usage that the card shows.
EXAMPLES = {
    "typing": ("Kelo Mar lifts the cup in Dunvik", {"mention": (0, 8)}),
    "relation": ("Kelo Mar signs for Dunvik United", {"head": (0, 8), "tail": (19, 32)}),
}
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
        license, language: as the Hub names them.
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
    license: str = "apache-2.0"
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
    """The card, checked by [`check_card`]."""
    from huggingface_hub import ModelCard, ModelCardData

    encoders = _encoders(facts)
    base_model = list(facts.base_model) if facts.base_model is not None else [e for e in encoders if _on_the_hub(e)]
    datasets = facts.datasets
    if datasets is None:
        datasets = [facts.record["dataset"]["name"]] if facts.record else []
    data = ModelCardData(
        language=facts.language,
        license=facts.license,
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


def usage(record: Mapping[str, Any] | None) -> str:
    """Python that asks the pipeline `pipe`, with unseen classes of the run as labels."""
    labels = record["labels"]["test"] if record else {"typing": ["person", "place", "event"]}
    lines = []
    for task, names in labels.items():
        text, mentions = EXAMPLES[task]
        post = {"text": text, "image": None, **mentions}
        lines.append(f"print(pipe({_python(post)}, candidate_labels={_python(list(names)[:LABELS_SHOWN])}))")
    return "\n".join(lines)


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
