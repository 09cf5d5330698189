"""As the site is built: TeX becomes MathML, without a script or a network, and names lead to the reference."""

import html as escapes
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

EQUATION = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
NAME = re.compile(r"<a\b.*?</a>|<h[1-6]\b.*?</h[1-6]>|<code>(steersman(?:\.\w+)+)</code>", re.DOTALL)


def typeset(found: re.Match[str]) -> str:
    """One equation as Arithmatex leaves it: inline between \\( and \\), displayed between \\[ and \\]."""
    tex = escapes.unescape(found[2]).strip()
    block = tex.startswith(r"\[")
    math = convert(tex[2:-2].strip(), display="block" if block else "inline")
    if "\\" in math:
        raise PluginError(f"There is a command that latex2mathml does not know in {tex}")
    return f'<div class="equation">{math}</div>' if block else math


def linked(found: re.Match[str]) -> str:
    """A dotted name as a link to the reference, where it is there; what is a link or a heading stays."""
    if found[1] is None:
        return found[0]
    return f'<autoref identifier="{found[1]}" optional>{found[0]}</autoref>'


def on_page_content(html: str, **kwargs: Any) -> str:
    return NAME.sub(linked, EQUATION.sub(typeset, html))
