"""Grants as text and text as grants, where the file alone matters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from knocker.core.addresses import Address
from knocker.core.grant import Grant, Via
from knocker.core.hosts import Scope
from knocker.core.keys import Key, Keyring, digest_of
from knocker.core.knock import Forbidden
from knocker.core.moment import Moment
from knocker.store.document import Contents, document, grant_text, pages_of, read
from knocker.store.pages import Pages

NOW = Moment(1_800_000_000.0, 5000.0)
TABLET = Key("tablet", digest_of(b"the tablet's key"), 100, 1000, hosts=Scope.parse(["a.example", "b.example"]))
CHOSEN = Grant(
    "i" * 22,
    *Address.parse("203.0.113.9").network.parts,
    "tablet",
    TABLET.mark,
    Via.UDP,
    Scope.of_one("a.example"),
    NOW.wall,
    NOW.wall,
    NOW.wall + 100,
    NOW.boot + 100,
)


def again(*entries: Any, key: Key = TABLET, boot_id: str = "boot") -> Contents:
    head = {"version": 1, "saved_at": NOW.wall, "boot_id": "boot", "boot_time": NOW.boot}
    data = json.dumps({**head, "grants": list(entries)}).encode()
    return read(data, NOW, boot_id, Keyring([key]), Forbidden(), lambda: "new")


def entry(**other: Any) -> dict[str, Any]:
    return {**json.loads(grant_text(CHOSEN)), **other}


@pytest.mark.parametrize("boot_id", ["boot", "another"])
def test_a_host_that_a_knock_chose_is_still_chosen_after_a_restart(boot_id: str) -> None:
    (grant,) = read(
        b"".join(document(pages_of([CHOSEN]), NOW, "boot")), NOW, boot_id, Keyring([TABLET]), Forbidden(), str
    ).grants
    assert grant == CHOSEN


def test_grants_of_one_owner_and_address_for_several_hosts_are_no_repetition() -> None:
    whole = entry(id="w" * 22, host=None)
    found = again(entry(), entry(id="j" * 22, host="b.example"), whole)
    assert [grant.host for grant in found.grants] == ["a.example", "b.example", None]
    assert not found.bad
    assert again(entry(), entry(id="j" * 22)).bad == ["an entry that stands there twice"]


def test_a_packets_grant_without_a_word_about_its_host_is_a_bad_entry() -> None:
    for via, bad in (("udp", 1), ("http", 0)):
        lost = entry(via=via)
        del lost["host"]
        assert len(again(lost).bad) == bad


def test_a_host_that_its_key_lost_meanwhile_ends_it() -> None:
    found = again(entry(host="c.example"))
    assert (found.grants, found.bad) == ([], [])
    assert found.ended == ["its key's hosts no longer name c.example"]


@pytest.mark.parametrize("host", ["A.example", "*.example", "", 5, ["a.example"], "a.example:80", "a b"])
def test_what_is_no_host_is_a_bad_entry(host: object) -> None:
    found = again(entry(host=host))
    assert (found.grants, len(found.bad)) == ([], 1)


@pytest.mark.parametrize("boot_id", ["boot", "another"])
def test_the_layout_of_a_file_changes_nothing(boot_id: str) -> None:
    entries = [json.loads(grant_text(CHOSEN)) | {"id": f"grant-{number:012}"} for number in range(4)]
    entries[1]["entry"] = "nonsense"
    entries[2]["entry"] = "203.0.113.77"
    entries[3] |= {"entry": "203.0.113.78", "expires_at": NOW.wall - 1}
    pages = Pages()
    for entry in entries:
        pages.put(entry["id"], json.dumps(entry).encode())
    ours = b"".join(document(pages, NOW, "boot"))
    others = [json.dumps(json.loads(ours)).encode(), json.dumps(json.loads(ours), indent=2).encode(), b" " + ours]
    found, *again = [read(data, NOW, boot_id, Keyring([TABLET]), Forbidden(), str) for data in (ours, *others)]
    assert len(found.grants) == 2
    assert (len(found.bad), len(found.ended)) == (1, 1)
    told = [(one.grants, one.bad, one.ended, list(one.pages)) for one in (found, *again)]
    assert told == told[:1] * 4
