"""A text browser for tests without Chromium: real HTTP to a local server, pages in the form that solvers read.

It knows just the HTML that the local sites write (links, forms, fields, lists, tables) and runs no scripts, so it also
shows that the sites work as plain pages.
"""

from html.parser import HTMLParser
from http.client import HTTPConnection
from urllib.parse import urlencode, urljoin, urlsplit

from rlvr_lib.worlds.web_actions import Action
from rlvr_lib.worlds.web_pages import Node, Numbering, Page

ROLES = {"a": "link", "button": "button", "h1": "heading", "h2": "heading", "td": "cell", "th": "cell"}
ROLES |= dict.fromkeys(("p", "li", "span"), "StaticText")
VOID = ("input", "meta", "link", "br", "hr")


class Element:
    """One element of a page with what an action needs to know of it."""

    def __init__(self, tag: str, attributes: dict, form: "Element | None", label: "Element | None"):
        self.tag, self.attributes, self.form, self.label, self.text = tag, attributes, form, label, ""
        self.value = attributes.get("value", "")
        self.options: list[Element] = []

    @property
    def name(self) -> str:
        return " ".join((self.label.text if self.label else self.text).split())


class Reader(HTMLParser):
    """HTML -> elements in reading order."""

    def __init__(self):
        super().__init__()
        self.elements: list[Element] = []
        self.open: list[Element] = []

    def _enclosing(self, tag: str) -> Element | None:
        return next((element for element in reversed(self.open) if element.tag == tag), None)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        element = Element(
            tag, {key: value or "" for key, value in attributes}, *map(self._enclosing, ("form", "label"))
        )
        self.elements.append(element)
        if tag == "option":
            element.label = None
            self._enclosing("select").options.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self.open[-1:]:
            element.text += data


class PlainBrowser:
    """Open a page, look at it, act on it."""

    def __init__(self, port: int):
        self.port = port

    def open(self, url: str, method: str = "GET", body: str = "") -> None:
        """Request, follow redirects, read."""
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Host": parts.netloc, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request(method, target, body or None, headers)
        answer = connection.getresponse()
        self.status, self.html = answer.status, answer.read().decode()
        connection.close()
        if answer.status == 303:
            return self.open(urljoin(url, answer.getheader("Location")))
        self.url, reader = url, Reader()
        reader.feed(self.html)
        self.elements = reader.elements
        for box in self.elements:
            if box.tag == "select":
                chosen = [option.value for option in box.options if "selected" in option.attributes]
                box.value = (chosen or [option.value for option in box.options])[0]
        return None

    def look(self) -> Page:
        """The page with numbers."""
        title = next((element.text for element in self.elements if element.tag == "title"), "")
        self.shown = [(element, node) for element in self.elements if (node := self._node(element)) is not None]
        return Page(title, self.url, Numbering()(node for _, node in self.shown))

    def _node(self, element: Element) -> Node | None:
        kind = element.attributes.get("type", "text")
        if element.tag == "input":
            role = {"hidden": "", "search": "searchbox"}.get(kind, "textbox")
        else:
            role = {**ROLES, "select": "combobox", "option": "option"}.get(element.tag, "")
        if not role or (role == "StaticText" and not element.name):
            return None
        value = (("value", element.value),) if element.tag in ("input", "select") and element.value else ()
        return Node(id(element), role, element.name, 0, value)

    def act(self, action: Action, page: Page) -> None:
        """Do what the browser would do."""
        element = next(element for element, node in self.shown if node.key == page.node(action.element).key)
        if action.kind == "type":
            element.value = action.text
            if action.enter:
                self._send(element.form)
        elif element.tag == "a":
            self.open(urljoin(self.url, element.attributes["href"]))
        elif element.tag == "option":
            next(box for box in self.elements if element in box.options).value = element.value
        elif element.tag == "button":
            self._send(element.form)

    def _send(self, form: Element) -> None:
        fields = [item for item in self.elements if item.form is form and item.attributes.get("name")]
        body = urlencode([(item.attributes["name"], item.value) for item in fields])
        target = urljoin(self.url, form.attributes.get("action") or self.url)
        if form.attributes.get("method") == "post":
            self.open(target, "POST", body)
        else:
            self.open(f"{target.split('?')[0]}?{body}")
