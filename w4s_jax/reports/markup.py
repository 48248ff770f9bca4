"""HTML that is escaped by construction.

text → **tag** → Markup → page

A child that is `Markup` goes in as it is; every other text is escaped, and so is every
attribute. Nothing else in this package writes an angle bracket, so no text of a model
can become an element. Characters that cannot be seen, turn the direction of reading or
cannot be encoded (control characters, lone surrogates) are shown by their names.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
_WITHOUT_END = frozenset({"meta", "br", "hr"})
_SHAPES = frozenset({"line", "circle", "rect", "path", "polyline"})


class Markup(str):
    """A piece of finished HTML."""

    __slots__ = ()


Child: TypeAlias = "str | Iterable[Child] | None"
"""Text, Markup, nothing, or several of them."""


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """One element.

    Args:
        name: Of the element.
        children: Its content; text is escaped.
        attributes: `class_` is `class`, `aria_label` is `aria-label`; None and False are left out.

    Example:
        >>> tag("p", "1 < 2", class_="note")
        '<p class="note">1 &lt; 2</p>'
    """
    start = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}"
    if name in _WITHOUT_END:
        return Markup(f"{start}>")
    if name in _SHAPES and not children:
        return Markup(f"{start}/>")
    return Markup(f"{start}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """Children one after another, text escaped."""
    return Markup("".join(_pieces(children)))


def escaped(text: str) -> Markup:
    """Text as HTML, unseen characters made visible.

    Example:
        >>> escaped("<" + chr(0))
        '&lt;␀'
    """
    return Markup(html.escape(visible(text)))


def visible(text: str) -> str:
    """The text with a name in place of every character that cannot be seen or encoded; newline and tab stay."""
    return _UNSEEN.sub(_named, text)


def _named(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _pieces(child: Child) -> Iterable[str]:
    if isinstance(child, Markup):
        yield child
    elif isinstance(child, str):
        yield escaped(child)
    elif child is not None:
        for one in child:
            yield from _pieces(one)


def _attribute(key: str, value: str | int | float | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    return f' {name}="{escaped(f"{value:.6g}" if isinstance(value, float) else str(value))}"'
