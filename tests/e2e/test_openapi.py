"""A real Knocker answers as /openapi.json says, whatever it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from knocker.listen.openapi import DOCUMENT
from tests.conftest import LONG
from tests.e2e.conftest import ADMIN, PHONE, phone, settings
from tests.service import Knocker, free_port

OPERATIONS = [
    f"{method.upper()} {path}"
    for path, told in DOCUMENT["paths"].items()
    for method in told
    if method in ("get", "post", "delete")
]


@pytest.fixture(scope="module")
def knocker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knocker]:
    """One for all operations."""
    admin = {"name": "admin", "key": ADMIN, "ttl": 600, "allow_remote_whitelist": True}
    told = settings(phone(), admin, trusted_proxies=[], allow_loopback_clients=True)
    made = Knocker(tmp_path_factory.mktemp("asked"), told, free_port())
    try:
        made.start()
        yield made
    finally:
        made.end(PHONE, ADMIN)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_real_knocker_answers_as_its_document_says(knocker: Knocker, name: str) -> None:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{knocker.port}/openapi.json")
    method, path = name.split(" ")
    operation = schema[path][method]
    seen: set[int] = set()

    @hypothesis.settings(max_examples=100 if LONG else 10, deadline=None, database=None, derandomize=True)
    @hypothesis.given(case=operation.as_strategy())
    def check(case: Any) -> None:
        for key in (PHONE, ADMIN, "wrong-key-0123456789"):
            answer = case.call(headers={"X-Api-Key": key})
            case.validate_response(answer, checks=[status_code_conformance, response_schema_conformance])
            seen.add(answer.status_code)

    check()
    assert seen
    assert 500 not in seen
