"""Pages as trees, read by the rules of HTML that matter here."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree.ElementTree import Element, SubElement

VOID = {"meta", "br", "link", "img", "input", "hr"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("document")
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = SubElement(self.open[-1], tag, {key: value or "" for key, value in attrs})
        if tag not in VOID:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        last = self.open[-1]
        if len(last):
            last[-1].tail = (last[-1].tail or "") + data
        else:
            last.text = (last.text or "") + data


def read(page: str) -> Element:
    """The document; an element that is not closed, or closed twice, fails."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == [reader.root], "elements are left open"
    return reader.root


def texts(root: Element, path: str) -> list[str]:
    """The text of every element that a path finds."""
    return ["".join(each.itertext()) for each in root.iterfind(path)]


def with_class(root: Element, name: str) -> list[Element]:
    """Elements of a class."""
    return [each for each in root.iter() if name in each.get("class", "").split()]


def place(each: Element, side: str) -> float:
    """Where a drawn element stands, in percent."""
    found = re.search(rf"(?:^|;){side}:([\d.]+)%", each.get("style", ""))
    assert found is not None, each.get("style")
    return float(found[1])
