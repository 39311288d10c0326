"""Texts of strangers, so that they steer neither a terminal nor a log."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line: what would end it, or move a terminal's cursor, is written as its escape."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
