"""TeX between dollars becomes MathML as the site is built: no page needs a network or a script for it."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FOUND = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


def typeset(found: re.Match[str]) -> str:
    """One equation as Arithmatex leaves it, \\(inline\\) or \\[displayed\\]."""
    tex = html.unescape(found[2]).strip()
    block = tex.startswith(r"\[")
    math = convert(tex[2:-2].strip(), display="block" if block else "inline")
    return f'<div class="equation">{math}</div>' if block else math


def on_page_content(html: str, **kwargs: Any) -> str:
    return FOUND.sub(typeset, html)
