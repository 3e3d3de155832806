"""HTML from Python: every text is escaped, every element is built by :func:`el`.

Elements may carry a ``key``: the script in the page (``app.js``) keeps an element over an action when tag and key
agree, so that the browser's own numbers of nodes persist where a user would say it is still the same thing.
"""

from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup, escape

VOID = frozenset({"input", "br", "hr", "meta", "link"})
Child = Any  # str, Markup, number, None, or a list of these


def el(tag: str, /, *children: Child, **attributes: Any) -> Markup:
    """One element. ``class_`` and ``for_`` lose their underscore; True is a bare attribute; None and False go."""
    parts = [
        _attribute(key.rstrip("_"), value)
        for key, value in attributes.items()
        if value is not None and value is not False
    ]
    opening = Markup(f"<{tag}{''.join(parts)}>")
    return opening if tag in VOID else opening + join(children) + Markup(f"</{tag}>")


def join(children: Child) -> Markup:
    """Children as one piece; lists are flattened, texts escaped."""
    if children is None:
        return Markup("")
    if isinstance(children, list | tuple):
        return Markup("").join(join(child) for child in children)
    return escape(children)


def _attribute(name: str, value: Any) -> str:
    name = "data-key" if name == "key" else name.replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(value)}"'


def link(text: str, path: str, **query: Any) -> Markup:
    """A link inside the site."""
    return el("a", text, href=address(path, **query))


def address(path: str, **query: Any) -> str:
    """A path with a query; empty values are left out."""
    kept = {key: value for key, value in query.items() if value not in ("", None)}
    return path + (f"?{urlencode(kept)}" if kept else "")


def button_form(text: str, path: str, **fields: Any) -> Markup:
    """A form that is one button."""
    hidden = [el("input", type="hidden", name=name, value=value) for name, value in fields.items()]
    return el("form", hidden, el("button", text), method="post", action=path, key=f"{path} {text}")


def field(label: str, name: str, value: Any = "", kind: str = "text") -> Markup:
    """A labelled one-line field."""
    return el("label", f"{label} ", el("input", type=kind, name=name, value=value, autocomplete="off"))


def choice(label: str, name: str, options: list[str], chosen: str) -> Markup:
    """A labelled drop-down list."""
    entries = [el("option", option, value=option, selected=option == chosen) for option in options]
    return el("label", f"{label} ", el("select", entries, name=name))


def document(title: str, banner: Markup, main_key: str, body: Child, notice: str = "") -> Markup:
    """A whole page: banner, a notice when something was done, the main part (kept only under an equal key)."""
    said = el("p", notice, role="status") if notice else None
    inner = el("main", said, el("h1", title), body, key=main_key)
    head = el("meta", charset="utf-8") + el("title", title) + el("script", src="/app.js", defer=True)
    style = el("link", rel="stylesheet", href="/app.css")
    return Markup("<!DOCTYPE html>") + el("html", el("head", head, style), el("body", banner, inner), lang="en")


__all__ = ["address", "button_form", "choice", "document", "el", "field", "join", "link"]
