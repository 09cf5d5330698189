"""For the reference: examples (``>>>``) and aligned columns of the docstrings become code blocks, not running text."""

import re
from typing import Any

import griffe

COLUMNS = re.compile(r"\S {3,}\S")


def fenced(text: str) -> str:
    """The paragraphs of a docstring; those that are meant as they are laid out are fenced."""
    done = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.splitlines()
        at = next((i for i, line in enumerate(lines) if line.startswith(">>>")), len(lines))
        before, example = lines[:at], lines[at:]
        if before and not before[0].startswith("    ") and any(COLUMNS.search(line) for line in before):
            done.append("\n".join(["```text", *before, "```"]))
        elif before:
            done.append("\n".join(before))
        if example:
            done.append("\n".join(["```pycon", *example, "```"]))
    return "\n\n".join(done)


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
