"""/openapi.json tells what the routes do, and all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from openapi_spec_validator import OpenAPIV31SpecValidator

from knocker.core.refusals import Refusal
from knocker.listen.openapi import DOCUMENT
from knocker.listen.web import Web
from tests.wire import World


def test_it_is_openapi_31() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_it_is_served_as_it_is(tmp_path: Path) -> None:
    world = World(tmp_path)
    got = world.ask("/openapi.json", "198.51.100.7")
    assert (got.status, got.headers["content-type"], json.loads(got.body)) == (200, "application/json", DOCUMENT)
    assert world.ask("/openapi.json", "198.51.100.7", "POST").headers["allow"] == "GET, HEAD"


def test_every_route_is_in_it_and_no_other() -> None:
    routes = {re.sub(r"<([^>]+)>", r"{\1}", rule.rule) for rule in Web.app.url_map.iter_rules()}
    assert set(DOCUMENT["paths"]) == routes | {"/verify"}, "which is no route of Klein's"


def test_every_method_of_it_is_taken_and_others_are_not(tmp_path: Path) -> None:
    world = World(tmp_path)
    for path, told in DOCUMENT["paths"].items():
        where = path.replace("{grant_id}", "nothing").replace("{canary_id}", "nothing").replace("{name}", "page.js")
        for method in ("GET", "POST", "DELETE", "PUT", "PATCH"):
            status = world.ask(where, "198.51.100.7", method).status
            if path != "/verify":
                assert (status == 405) == (method.lower() not in told), (path, method, status)


def test_every_refusal_is_in_it() -> None:
    text = json.dumps(DOCUMENT)
    told = {refusal for refusal in Refusal if f"`{refusal.value}`" in text}
    assert set(Refusal) - told == {Refusal.METHOD}, "which is told by the methods that there are"
