"""What the site needs beyond Markdown: links into the repository, equations, and the table of flags.

`configuration/mkdocs.yml` names this file as a hook of MkDocs and as an extension of Griffe, which reads docstrings.
"""

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Bring a page from GitHub's Markdown to that of MkDocs."""

    def outside(match: re.Match[str]) -> str:
        path = match[2].partition("#")[0]
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{page.file.src_path}: it links to ../{path}, which is not there")
        return match[1] if Path(path).name in match[1] else f"{match[1]} (`{path}` in the repository)"

    markdown = re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", outside, markdown)
    markdown = re.sub(r"\$`([^`]+)`\$", lambda match: convert(match[1]), markdown)
    markdown = re.sub(
        r"^```math\n(.+?)^```$", lambda match: displayed(match[1]), markdown, flags=re.MULTILINE | re.DOTALL
    )
    # Words behind the language tell the tests how to run a block.
    markdown = re.sub(r"^```(\w+) [\w ]+$", r"```\1", markdown, flags=re.MULTILINE)
    return markdown.replace("<!-- flags of examples/train.py -->", argument_tables())


def displayed(equation: str) -> str:
    """An equation on its own line, as MathML, which browsers draw without a script."""
    return f"\n{convert(' '.join(equation.split()), display='block')}\n"


def argument_tables() -> str:
    """The fields of the dataclasses of arguments, which are flags and keys of recipes, as tables."""
    from modeling_mgvmoe.training.arguments import ARGUMENT_CLASSES

    lines = []
    for kind in ARGUMENT_CLASSES:
        lines += [f"### `{kind.__name__}`", "", f"{kind.__doc__}", "", "| flag | default | meaning |", "|---|---|---|"]
        for field in fields(kind):
            default = field.default if field.default is not MISSING else field.default_factory()
            text = str(field.metadata["help"]).replace("|", "\\|")
            lines.append(f"| `--{field.name}` | `{default!r}` | {text} |")
        lines.append("")
    return "\n".join(lines)


class MarkdownDocstrings(griffe.Extension):
    """Equations and references of docstrings as Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is None:
            return
        text = inspect.cleandoc(obj.docstring.value)
        text = re.sub(r":math:`([^`]+)`", lambda match: convert(match[1]), text)
        text = re.sub(r"\[(`[\w.]+`)\](?![(\[])", r"\1", text)

        def block(match: re.Match[str]) -> str:
            equations = [" ".join(part.split()) for part in re.split(r"\n\s*\n", match[1]) if part.strip()]
            return "\n".join(map(displayed, equations))

        obj.docstring.value = re.sub(r"\.\. math::\n((?:\n|[ \t]+\S.*(?:\n|$))+)", block, text)
