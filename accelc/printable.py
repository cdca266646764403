"""Text from models and file names, for people to see."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line: what could move the cursor or break the encoding is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
