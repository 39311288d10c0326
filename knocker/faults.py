"""How the command says what went wrong, and its exit status (contract 5)."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

REFUSED, USAGE, NO_ANSWER, INTERRUPTED = 1, 2, 3, 130


class Failed(Exception):
    """What was asked could not be done: the exit status, an error on each line, and a hint where one helps.

    `passing`: the same may succeed a little later.
    """

    def __init__(self, status: int, error: str, hint: str = "", passing: bool = False) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.hint = hint
        self.passing = passing or status == NO_ANSWER


def say(kind: str, text: str) -> None:
    """One line on stderr; `kind` is error, hint or warning."""
    click.echo(f"knocker: {kind}: {text}", err=True)


def fail(status: int, error: str, hint: str = "") -> NoReturn:
    """Say what went wrong, and end."""
    for line in error.splitlines():
        say("error", line)
    if hint:
        say("hint", hint)
    sys.exit(status)
