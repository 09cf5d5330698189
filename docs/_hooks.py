"""As the site is built: TeX becomes MathML, without a script or a network, and names lead to the reference."""

import html as escapes
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fontTools import subset
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

EQUATION = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
NAME = re.compile(r"<a\b.*?</a>|<h[1-6]\b.*?</h[1-6]>|<code>(steersman(?:\.\w+)+)</code>", re.DOTALL)
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
# ASCII, Greek, punctuation to mathematical operators, brackets, and the italic and script alphabets.
GLYPHS = [(0x20, 0xFF), (0x300, 0x3FF), (0x2000, 0x22FF), (0x27E6, 0x27EF), (0x1D400, 0x1D7FF)]


def typeset(found: re.Match[str]) -> str:
    """One equation as Arithmatex leaves it: inline between \\( and \\), displayed between \\[ and \\].

    Parts with a \\qquad between them stand beside each other where there is room, else below each other.
    """
    tex = escapes.unescape(found[2]).strip()
    block = tex.startswith(r"\[")
    parts = [convert(part.strip(), display="block" if block else "inline") for part in tex[2:-2].split(r"\qquad")]
    if "\\" in "".join(parts):
        raise PluginError(f"There is a command that latex2mathml does not know in {tex}")
    return f'<div class="equation">{"".join(parts)}</div>' if block else "".join(parts)


def linked(found: re.Match[str]) -> str:
    """A dotted name as a link to the reference, where it is there; what is a link or a heading stays."""
    if found[1] is None:
        return found[0]
    return f'<autoref identifier="{found[1]}" optional>{found[0]}</autoref>'


def whole(code: re.Match[str]) -> str:
    """Code whose flags are not broken behind their dashes."""
    return FLAG.sub(r'<span class="flag">\g<0></span>', code[0])


def on_page_content(html: str, **kwargs: Any) -> str:
    html = NAME.sub(linked, EQUATION.sub(typeset, html))
    return re.sub(r"<code\b.*?</code>", whole, html, flags=re.DOTALL)


def on_post_build(config: Any, **kwargs: Any) -> None:
    """A font for the equations, STIX Two Math out of ziamath: many machines have none, and then no index is low."""
    options = subset.Options(flavor="woff", layout_features=["ssty", "flac", "dtls"])  # those of mathematics
    package = find_spec("ziamath")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    font = subset.load_font(str(path), options)
    chosen = subset.Subsetter(options)
    chosen.populate(unicodes=[code for first, last in GLYPHS for code in range(first, last + 1)])
    chosen.subset(font)
    subset.save_font(font, str(Path(config["site_dir"]) / "equations.woff"), options)
