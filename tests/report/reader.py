"""A page as a browser would read it."""

import base64
import hashlib
from html.parser import HTMLParser


class Reader(HTMLParser):
    """Collects elements, attributes, text outside of scripts, and whether every element is closed."""

    void = frozenset({"meta", "input", "br", "img", "link", "hr"})

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.stack, self.unbalanced, self.scripts, self.style = [], "", [], [], [], ""
        self.feed(page)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in self.void:
            self.stack.append(name)
        if name == "script":
            self.scripts.append("")

    def handle_endtag(self, name):
        if not self.stack or self.stack.pop() != name:
            self.unbalanced.append(name)

    def handle_data(self, data):
        if self.stack and self.stack[-1] == "script":
            self.scripts[-1] += data
        elif self.stack and self.stack[-1] == "style":
            self.style += data
        else:
            self.text += data

    def policy(self):
        """Return the page's Content-Security-Policy."""
        return next(own["content"] for _, own in self.elements if own.get("http-equiv") == "Content-Security-Policy")


def source(text):
    """Return how a policy names a style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
