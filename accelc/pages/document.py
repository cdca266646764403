"""What every page is made of: elements whose text is escaped by construction, tables, figures, the page around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import count
from typing import TypeAlias
from xml.etree.ElementTree import Element, tostring

from accelc.printable import printable
from accelc.words import Said, Tone

Child: TypeAlias = "Element | Said | str | int | Iterable[Child] | None"
Attribute: TypeAlias = str | int | float | bool | None

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_SIGNS: Mapping[Tone, str] = {"good": "✓", "bad": "✗", "caution": "!"}


def tag(kind: str, /, *children: Child, **attributes: Attribute) -> Element:
    """An element. Children that are None are left out. Attributes: class_ is class, aria_label is aria-label; True
    stands without a value, None and False are left out.
    """
    made = Element(kind)
    for key, value in attributes.items():
        if value is not None and value is not False:
            made.set(key.rstrip("_").replace("_", "-"), "" if value is True else printable(str(value)))
    _add(made, children)
    return made


def _add(made: Element, children: Iterable[Child]) -> None:
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif isinstance(child, Said):
            made.append(toned(child))
        elif isinstance(child, str | int):
            _write(made, printable(str(child)))
        elif child is not None:
            _add(made, child)


def _write(made: Element, text: str) -> None:
    if len(made):
        made[-1].tail = (made[-1].tail or "") + text
    else:
        made.text = (made.text or "") + text


def toned(said: Said) -> Element:
    """A sentence with the sign and the colour of its tone."""
    sign = tag("span", f"{_SIGNS[said.tone]} ", class_="sign", aria_hidden="true") if said.tone in _SIGNS else None
    return tag("span", sign, said.text, class_=said.tone or None)


def paragraphs(lines: Iterable[Child], **attributes: Attribute) -> list[Element]:
    """Each line as a paragraph."""
    return [tag("p", line, **attributes) for line in lines]


def items(lines: Iterable[Child]) -> Element | None:
    """Lines as a list; None without lines."""
    made = [tag("li", line) for line in lines]
    return tag("ul", made, class_="lines") if made else None


def facts(rows: Iterable[tuple[str, Child]]) -> Element:
    """Names with what there is to say about them."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows], class_="facts")


def tiles(rows: Iterable[tuple[str, str, str]]) -> Element:
    """The few figures that matter most: name, figure, what to know about it."""
    made = [
        tag("div", tag("dt", name), tag("dd", figure, class_="big"), tag("dd", more, class_="quiet"))
        for name, figure, more in rows
    ]
    return tag("dl", made, class_="tiles")


def became(before: str, after: str) -> str:
    """1.74 → 1.70 MB: the unit once where it is the same."""
    number, _, unit = before.rpartition(" ")
    return f"{number} → {after}" if number and after.endswith(f" {unit}") else f"{before} → {after}"


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    numbers: Iterable[int] = (),
    marked: Iterable[int] = (),
) -> Element:
    """A table whose first column names its rows. numbers: columns that stand at the right. marked: rows in bold."""
    right, bold = set(numbers), set(marked)

    def cell(name: str, column: int, *children: Child, **attributes: Attribute) -> Element:
        return tag(name, *children, class_="right" if column in right else None, **attributes)

    head = tag("tr", [cell("th", column, text, scope="col") for column, text in enumerate(heads)])
    body = [
        tag(
            "tr",
            [
                cell("td", column, child) if column else cell("th", column, child, scope="row")
                for column, child in enumerate(row)
            ],
            class_="marked" if index in bold else None,
        )
        for index, row in enumerate(rows)
    ]
    made = tag("table", tag("thead", head), tag("tbody", body), aria_label=caption)
    moved = tag("div", made, class_="scroll", role="region", tabindex="0", aria_label=caption)
    return tag("div", tag("p", caption, class_="caption"), moved)


def figure(title: str, caption: Child, drawing: Child, same: Element | None, *, level: int = 3) -> Element:
    """A drawing with its title, what it shows, and a table of the same numbers."""
    head = tag("figcaption", tag(f"h{level}", title), tag("p", caption, class_="quiet") if caption else None)
    more = tag("details", tag("summary", "The same in numbers"), same) if same is not None else None
    return tag("figure", head, drawing, more)


def section(title: str, *children: Child, id_: str, level: int = 2) -> Element:
    """A part of the page that the contents can point to."""
    return tag("section", tag(f"h{level}", title), *children, id=id_, aria_label=title)


def page(kind: str, title: str, lead: Child, sections: Sequence[Element], foot: Child = None) -> str:
    """The whole page. kind: what made it, as "accelc bench"; title: of the window and the first heading."""
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
    )
    sheet = Element("style")
    sheet.text = style
    head.append(sheet)
    top = tag("header", tag("p", kind, class_="kind"), tag("h1", title), lead)
    body = tag("body", top, _contents(sections), tag("main", sections), tag("footer", foot) if foot else None)
    _number(body)
    return "<!DOCTYPE html>\n" + tostring(tag("html", head, body, lang="en"), encoding="unicode", method="html") + "\n"


def _contents(sections: Sequence[Element]) -> Element | None:
    named = [(each.get("id"), each.get("aria-label") or "") for each in sections if each.get("id")]
    if len(named) < 3:
        return None
    links = [tag("li", tag("a", title, href=f"#{where}")) for where, title in named]
    return tag("nav", tag("ul", links), aria_label="Contents")


def _number(body: Element) -> None:
    """Name each figure by its title, for those who hear the page."""
    numbers = count(1)
    for each in body.iter("figure"):
        title = next(child for child in each.iter() if child.tag in ("h3", "h4"))
        title.set("id", f"figure{next(numbers)}")
        each.set("aria-labelledby", title.get("id") or "")
