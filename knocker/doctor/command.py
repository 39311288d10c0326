"""`knocker doctor`, the command (contract 5)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from knocker.account import read_url
from knocker.core.printable import printable
from knocker.doctor.diagnosis import diagnose
from knocker.doctor.evidence import ADVICE, FAULT, OK, UNSURE, Finding
from knocker.doctor.probing import examine
from knocker.doctor.remedies import PROXIES
from knocker.faults import NO_ANSWER, REFUSED, USAGE, Failed
from knocker.remote import known_account, reaching

_LABELS = {OK: "ok", FAULT: "FAULT", ADVICE: "advice", UNSURE: "unsure"}


@click.command()
@reaching
@click.option("--gate", metavar="URL", help="Where the gate itself is asked, if not at --url or $KNOCKER_URL.")
@click.option("--proxy", type=click.Choice(PROXIES), help="Which proxy it is, where that cannot be told.")
@click.argument("site", metavar="URL")
def doctor(
    url: str | None, key_file: str | None, as_json: bool, gate: str | None, proxy: str | None, site: str
) -> None:
    """Look for mistakes in the way of a proxy to its gate, from where visitors are.

    URL is the address of a service behind the gate, e.g. https://app.example.com. Needs an admin's key. Forged headers
    and odd paths are sent there, and the gate is asked which of them it believed. It never knocks.
    """
    try:
        where = read_url(site)
    except ValueError as error:
        raise Failed(USAGE, f"URL: {error}") from None
    caller = known_account(gate if gate is not None else url, key_file)
    if (caller.where.host, caller.where.port) == (where.host, where.port) and caller.where.path == where.path:
        raise Failed(USAGE, "URL: that is the gate itself", "name a service behind it, e.g. https://app.example.com")
    findings = diagnose(examine(caller, where, proxy or ""))
    if as_json:
        click.echo(json.dumps({"findings": [finding.shown() for finding in findings]}, indent=2))
    else:
        click.echo("\n".join(line for finding in findings for line in _told(finding)))
    levels = {finding.level for finding in findings}
    if FAULT in levels:
        raise SystemExit(REFUSED)
    if any(finding.level == UNSURE and finding.check == "asked" for finding in findings):
        raise SystemExit(NO_ANSWER)


def _told(finding: Finding) -> Iterator[str]:
    yield f"{_LABELS[finding.level]:<7} {printable(finding.text)}"
    if finding.mend:
        yield f"{'':<7} -> {printable(finding.mend)}"
