"""Write docs/api.md from the docstrings: `python docs/generate_api.py` (or `make docs`); `--check` only compares.

The sources are read, not imported, but for the tables of arguments, which are the help of the command line.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import griffe

from modeling_mgvmoe.training.arguments import ARGUMENT_CLASSES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
INTRODUCTION = """# API

Made from the docstrings by `make docs`; edit those, not this page. Equations E1 to E12 are in [the method](method.md).
"""
# Section -> module -> names; nothing for all that the module offers in `__all__`.
CONTENTS: dict[str, dict[str, list[str]]] = {
    "Model, processor, pipeline": {"modeling_mgvmoe": []},
    "Objectives": {"modeling_mgvmoe.objectives": []},
    "Sample graph": {"modeling_mgvmoe.sample_graph": []},
    "Extraction": {
        "modeling_mgvmoe.extraction": ["GraphExtractor", "RelationRules", "extract"],
        "modeling_mgvmoe.labels": ["Rejection"],
    },
    "Graphs of many posts": {
        "modeling_mgvmoe.graph.runner": ["BulkArguments", "BulkResult", "extract_in_bulk"],
        "modeling_mgvmoe.graph.label_file": ["CandidateLabels", "read_candidate_labels"],
        "modeling_mgvmoe.graph.tables": ["GraphTables"],
        "modeling_mgvmoe.graph.hetero_data": ["build_hetero_data"],
        "modeling_mgvmoe.graph.hetero_data_files": ["save_hetero_data", "load_hetero_data"],
        "modeling_mgvmoe.graph.writers": ["write_json_lines", "write_n_triples"],
        "modeling_mgvmoe.graph.graph_report": ["entity_graph", "graph_statistics", "read_graph", "write_report"],
    },
    "Data": {
        "modeling_mgvmoe.data": [],
        "modeling_mgvmoe.data.zero_shot_data": [
            "ZeroShotData",
            "data_from_folder",
            "data_from_posts",
            "sketchbook_data",
        ],
        "modeling_mgvmoe.data.prepare": ["PreparedData", "DatasetAdapter", "hold_out_seen"],
        "modeling_mgvmoe.data.mnre": ["read_mnre", "prepare_mnre"],
        "modeling_mgvmoe.data.multimodal_ner": ["read_multimodal_ner", "read_captions"],
        "modeling_mgvmoe.data.wikidiverse": ["read_wikidiverse"],
        "modeling_mgvmoe.data.implicitave": ["read_implicitave"],
        "modeling_mgvmoe.data.conll": ["read_conll"],
        "modeling_mgvmoe.data.crossre": ["read_crossre"],
        "modeling_mgvmoe.data.fewrel": ["read_fewrel"],
        "modeling_mgvmoe.data.parquet_folder": ["write_prepared", "push_prepared"],
        "modeling_mgvmoe.data.label_sets": ["LabelSet", "LabelInfo", "read_label_set"],
        "modeling_mgvmoe.data.splits": [
            "ClassSplit",
            "read_splits",
            "mre_class_split",
            "met_class_splits",
            "crossner_class_split",
            "m_unseen_split",
        ],
        "modeling_mgvmoe.data.evaluation_data": ["EvaluationData", "load_evaluation_data"],
        "modeling_mgvmoe.data.feature_cache": ["build_feature_cache", "ImageFeatureCache"],
    },
    "Training": {
        "modeling_mgvmoe.training.arguments": ["parse_arguments", "read_recipe"],
        "modeling_mgvmoe.training.build": ["load_data", "build_model", "load_feature_cache"],
        "modeling_mgvmoe.training.loop": ["train"],
        "modeling_mgvmoe.training.hf_trainer": ["TrainerParts", "trainer_parts"],
    },
    "Evaluation": {
        "modeling_mgvmoe.evaluation": [],
        "modeling_mgvmoe.evaluation.runs": ["EvaluationArguments", "run_evaluation"],
    },
    "Publishing": {
        "modeling_mgvmoe.publishing.repository": [
            "Source",
            "find_source",
            "build_repository",
            "check_repository",
            "push_folder",
        ],
        "modeling_mgvmoe.publishing.card": ["CardFacts", "make_card", "check_card"],
    },
    "Export": {"modeling_mgvmoe.export": []},
    "Explanation and demo page": {
        "modeling_mgvmoe.evaluation.explanation": ["explain_post", "Explanation", "Word"],
        "modeling_mgvmoe.evaluation.plots": ["draw_explanation", "draw_expert_usage"],
        "modeling_mgvmoe.evaluation.expert_usage": ["expert_usage", "ExpertUsage"],
        "modeling_mgvmoe.app.served_model": ["load_served_model", "ServedModel"],
        "modeling_mgvmoe.app.page": ["build_page", "launch_page"],
        "modeling_mgvmoe.app.space": ["write_space"],
    },
}
WIDTH = 100


def main(argv: list[str] | None = None) -> int:
    """Write the page, or say whether it is the one that would be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the page is stale")
    check, text = parser.parse_args(argv).check, api_page()
    if check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print(f"{PAGE.name} is {'up to date' if same else 'stale: run `make docs`'}")
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {text.count(chr(10)):,} lines")
    return 0


def api_page() -> str:
    """The whole page."""
    package = griffe.load("modeling_mgvmoe", search_paths=[ROOT], docstring_parser=griffe.Parser.google)
    parts = [INTRODUCTION]
    for section, modules in CONTENTS.items():
        parts += [f"## {section}\n", ""]
        place = len(parts) - 1
        for module_name, names in modules.items():
            module = package[module_name.partition(".")[2]] if "." in module_name else package
            parts.append(f"From `{module_name}`:\n")
            for name in names or [str(name).strip("'\"") for name in module.exports or []]:
                parts += object_parts(resolved(module[name]), name)
        if section == "Training":
            parts += [argument_table(kind) for kind in ARGUMENT_CLASSES]
        names = re.findall(r"^### `(.*)`$", "\n".join(parts[place:]), flags=re.MULTILINE)
        parts[place] = " · ".join(f"[`{name}`]" for name in names) + "\n"
    return linked("\n".join(parts))


def resolved(item: Any) -> Any:
    """What an alias stands for."""
    return item.final_target if item.is_alias else item


def object_parts(item: Any, name: str, level: int = 3) -> Iterator[str]:
    """Heading, signature and docstring of a class or function, then the methods of a class."""
    yield f"{'#' * level} `{name}`\n"
    if item.is_class and is_dataclass(item):
        yield fence(f"class {name}", [field_line(field) for field in own_fields(item)])
    elif item.is_class:
        yield fence(f"class {name}", parameters_of(item.members["__init__"]) if "__init__" in item.members else [])
    elif item.is_function:
        yield fence(name, parameters_of(item), item.returns)
    elif item.is_attribute:
        yield f"```text\n{name} = {item.value}\n```\n"
    yield from docstring_parts(item)
    if item.is_class:
        for member_name, member in methods_of(item).items():
            yield from object_parts(member, f"{name}.{member_name}", level + 1)


def methods_of(item: Any) -> dict[str, Any]:
    """Public methods with a docstring: a class's own, and those of base classes of ours."""
    own = {name: member for name, member in item.members.items() if not member.is_alias}
    inherited = {name: member.final_target for name, member in item.inherited_members.items()}
    return {
        name: member
        for name, member in {**own, **inherited, **own}.items()
        if (not name.startswith("_") or name == "__call__") and member.is_function and member.docstring
    }


def is_dataclass(item: Any) -> bool:
    """Whether the fields of a class are its arguments."""
    return any(re.search(r"dataclass|strict", str(decorator.value)) for decorator in item.decorators)


def own_fields(item: Any) -> list[Any]:
    """Annotated attributes of the class's body."""
    members = [member for member in item.members.values() if member.is_attribute and not member.name.startswith("_")]
    return [member for member in members if member.annotation is not None and "property" not in member.labels]


def field_line(field: Any) -> str:
    """A field with its type and its default."""
    value = "" if field.value is None else f" = {field.value}"
    value = re.sub(r"^ = field\(default_factory=(\w+)\)$", r" = \1()", value)
    return f"{field.name}: {field.annotation}{value}"


def parameters_of(function: Any) -> list[str]:
    """What stands between the brackets of a function, without self."""
    found, star = [], False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls") or parameter.kind is None:
            continue
        kind = parameter.kind.value
        if kind == "keyword-only" and not star:
            found.append("*")
            star = True
        star = star or kind == "variadic positional"
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        text = stars + parameter.name + (f": {parameter.annotation}" if parameter.annotation is not None else "")
        if parameter.default is not None and not stars:
            text += f" = {parameter.default}"
        found.append(text)
    return found


def fence(start: str, parameters: list[str], returns: Any = None) -> str:
    """A signature as a block, one parameter a line where one line is too short."""
    end = f") -> {returns}" if returns is not None else ")"
    one = f"{start}({', '.join(parameters)}{end}"
    if len(one) > WIDTH:
        one = "\n    ".join([f"{start}(", *(f"{parameter}," for parameter in parameters)]) + f"\n{end}"
    return f"```text\n{one}\n```\n"


def docstring_parts(item: Any) -> Iterator[str]:
    """The sections of a docstring in Markdown."""
    if item.docstring is None:
        return
    # Names of arguments that go on in the next line, in one.
    text = re.sub(r"^( *(?:\w+, )+\w+,)\n +(?=\w)", r"\1 ", item.docstring.value, flags=re.MULTILINE)
    for section in griffe.Docstring(text, parent=item).parse(griffe.Parser.google, warnings=False):
        kind, value = section.kind.value, section.value
        if kind == "text":
            yield markdown(value) + "\n"
        elif kind in ("parameters", "other parameters", "attributes"):
            title = {"parameters": "Arguments", "attributes": "Attributes"}.get(kind, "Further arguments")
            yield f"{title}:\n"
            yield "\n".join(entry(described(parameter, item), parameter.description) for parameter in value) + "\n"
        elif kind in ("returns", "yields"):
            yield f"Returns: {markdown(' '.join(one.description for one in value))}\n"
        elif kind == "raises":
            yield "Raises:\n"
            yield "\n".join(entry(f"`{one.annotation}`", one.description) for one in value) + "\n"
        elif kind == "admonition":
            yield f"{section.title}:\n\n{markdown(value.description)}\n"
        else:
            raise ValueError(f"{item.path}: a docstring section of kind {kind!r} is not expected")


def described(parameter: Any, item: Any) -> str:
    """The name of a parameter, with the type that its docstring gives, if it gives one."""
    names = ", ".join(f"`{name.strip()}`" for name in parameter.name.split(","))
    given = str(parameter.annotation) if parameter.annotation is not None else ""
    # Types are in the signature above; those of the docstring ("`int`, defaults to 8") say more.
    return f"{names} ({given})" if "`" in given else names


def entry(name: str, description: str) -> str:
    """A point of a list."""
    text = markdown(description).replace("\n", "\n  ")
    return f"- {name}: {text}"


def markdown(text: str) -> str:
    """Docstring text as Markdown: equations, and code that is shown and not run."""
    text = inspect.cleandoc(text)
    text = re.sub(r"^```python$", "```python notest", text, flags=re.MULTILINE)
    text = re.sub(r":math:`([^`]+)`", r"$`\1`$", text)

    def block(match: re.Match[str]) -> str:
        equations = [" ".join(part.split()) for part in re.split(r"\n\s*\n", match[1]) if part.strip()]
        return "\n".join(f"```math\n{equation}\n```\n" for equation in equations)

    return re.sub(r"\.\. math::\n((?:\n|[ \t]+\S.*(?:\n|$))+)", block, text).strip()


def argument_table(kind: type) -> str:
    """The fields of a dataclass of arguments, which are flags and keys of recipes, as a table."""
    lines = [f"### `{kind.__name__}`\n", f"{kind.__doc__}\n", "| flag | default | meaning |", "|---|---|---|"]
    for field in fields(kind):
        default = field.default if field.default is not MISSING else field.default_factory()
        choices = field.metadata.get("choices")
        listed = (
            f" One of {', '.join(map(str, choices))}." if choices and choices[0] not in field.metadata["help"] else ""
        )
        text = (field.metadata["help"] + listed).replace("|", "\\|")
        lines.append(f"| `--{field.name}` | `{default!r}` | {text} |")
    return "\n".join(lines) + "\n"


def linked(page: str) -> str:
    """Names in square brackets as links to their headings, or as mere names where they have none."""
    headings = re.findall(r"^#+ `([^`]+)`$", page, flags=re.MULTILINE)

    def link(match: re.Match[str]) -> str:
        found = [one for one in headings if one == match[1] or one.endswith(f".{match[1]}")]
        return f"[`{match[1]}`](#{re.sub(r'[^a-z0-9_-]', '', found[0].lower())})" if found else f"`{match[1]}`"

    return re.sub(r"\[`([^`\]]+)`\](?!\()", link, page)


if __name__ == "__main__":
    sys.exit(main())
