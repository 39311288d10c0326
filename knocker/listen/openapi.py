"""GET /openapi.json: the API as OpenAPI 3.1 tells it; the refusals come from the tables that answer them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from knocker.core.refusals import Refusal
from knocker.listen.answers import STATUS

_Schema = dict[str, Any]

_TEXT: _Schema = {"type": "string"}
_SECONDS: _Schema = {"type": "integer", "minimum": 0, "description": "Whole seconds."}
_TIME: _Schema = {"type": "integer", "description": "Unix time, whole seconds."}
_ENTRY: _Schema = {
    "type": "string",
    "description": "An address or a network, as RFC 5952 writes it.",
    "examples": ["203.0.113.7"],
}


def _object(
    required: dict[str, _Schema], optional: dict[str, _Schema] | None = None, *, closed: bool = False
) -> _Schema:
    found: _Schema = {"type": "object", "properties": {**required, **(optional or {})}}
    if required:
        found["required"] = list(required)
    if closed:
        found["additionalProperties"] = False
    return found


def _or_null(schema: _Schema) -> _Schema:
    return {**schema, "type": [schema["type"], "null"]}


_SCHEMAS: dict[str, _Schema] = {
    "Error": _object({"error": _TEXT}),
    "Knock": _object(
        {},
        {
            "ip_address": _or_null({**_ENTRY, "description": "Another address or network, for keys that may."}),
            "ttl": {"type": ["integer", "null"], "minimum": 1, "description": "Seconds; capped at the key's max_ttl."},
        },
        closed=True,
    ),
    "Granted": _object({"whitelisted_entry": _ENTRY, "expires_at": _TIME, "expires_in_seconds": _SECONDS}),
    "Grant": _object(
        {
            "id": _TEXT,
            "entry": _ENTRY,
            "key": _or_null(_TEXT),
            "via": {"enum": ["http", "remote", "udp", "file"]},
            "hosts": {"type": ["array", "null"], "items": _TEXT, "description": "null is every host."},
            "created_at": _TIME,
            "last_knock_at": _TIME,
            "expires_at": _TIME,
            "expires_in_seconds": _SECONDS,
        }
    ),
    "Grants": _object(
        {
            "grants": {"type": "array", "items": {"$ref": "#/components/schemas/Grant"}},
            "admin": {"type": "boolean", "description": "Whether the key sees all."},
            "key": {"type": "string", "description": "Whose key asks."},
        }
    ),
    "Explanation": _object(
        {
            "ip": _or_null(_TEXT),
            "host": _or_null(_TEXT),
            "path": _or_null(_TEXT),
            "allowed": {"type": "boolean"},
            "status": {"enum": [200, 401, 403]},
            "cause": _TEXT,
            "steps": {
                "type": "array",
                "items": _object(
                    {
                        "step": {"enum": ["client", "list", "grant", "scope", "path"]},
                        "outcome": {"enum": ["allows", "goes on"]},
                        "text": _TEXT,
                        "setting": _TEXT,
                    }
                ),
            },
            "request": {"anyOf": [{"$ref": "#/components/schemas/Request"}, {"type": "null"}]},
        }
    ),
    "Request": _object(
        {
            "peer": _TEXT,
            "trusted": {"type": "boolean", "description": "Whether the peer is in server.trusted_proxies."},
            "forwarded_for": {"type": "array", "items": _TEXT, "description": "The lines of X-Forwarded-For."},
            "client": _or_null(_TEXT),
            "why": {**_or_null(_TEXT), "description": "Why there is no client, where there is none."},
            "host": _or_null(_TEXT),
            "refused": {
                **_or_null(_TEXT),
                "description": "Why a knock would open nothing, or empty.",
            },
        }
    ),
    "Canary": _object(
        {
            "id": _TEXT,
            "address": _TEXT,
            "path": _TEXT,
            "host": _TEXT,
            "expires_in_seconds": {**_SECONDS, "maximum": 60},
            "time": {"type": "number", "description": "Unix time by the gate's clock."},
        }
    ),
    "Found": _object(
        {
            "id": _TEXT,
            "expires_in_seconds": {**_SECONDS, "maximum": 60},
            **{name: {"$ref": "#/components/schemas/Value"} for name in ("address", "path", "host")},
            "questions": {"type": "array", "maxItems": 64, "items": {"$ref": "#/components/schemas/Question"}},
            "others": {
                "type": "array",
                "maxItems": 8,
                "items": {"$ref": "#/components/schemas/Others"},
                "description": "How often its maker's client was asked about without anything of it.",
            },
        }
    ),
    "Others": _object({"host": _or_null(_TEXT), "has_path": {"type": "boolean"}, "count": {"type": "integer"}}),
    "Value": _object(
        {
            "value": _TEXT,
            "used": {"type": "boolean", "description": "Whether a /verify took it for its client, path or host."},
            "headers": {"type": "array", "items": _TEXT, "description": "From where."},
        }
    ),
    "Question": _object(
        {
            "peer": _TEXT,
            "trusted": {"type": "boolean", "description": "Whether the peer is in server.trusted_proxies."},
            **{name: _or_null(_TEXT) for name in ("client", "why", "host", "path", "method")},
            "path_in_target": {"type": "boolean", "description": "The path stood behind /verify, not in a header."},
            "allowed": {"type": "boolean"},
            "cause": _TEXT,
            "arrived": {"type": "object", "description": "The headers in which the canary stood."},
            "headers": {"type": ["array", "null"], "items": _TEXT, "description": "The names of all its headers."},
            "closes": {"type": "boolean", "description": "It asked for the end of the connection."},
        }
    ),
    "Health": _object({"status": {"const": "ok"}}),
    "Ready": _object({"status": {"enum": ["ready", "not ready"]}}, {"reasons": {"type": "array", "items": _TEXT}}),
}

_KEYED = (Refusal.BAD_KEY, Refusal.LIMITED)  # what any request with a key may get
_ASKING = (Refusal.FORGED, *_KEYED)
_KNOCKING = (Refusal.NO_CLIENT, *_ASKING, Refusal.TOO_LARGE)
_BODY = (
    *(Refusal.MALFORMED, Refusal.NOT_AN_OBJECT, Refusal.INVALID_DATA, Refusal.INVALID_TTL, Refusal.INVALID_ADDRESS),
    *(Refusal.TOO_BROAD, Refusal.NO_PERMISSION, Refusal.CONTENT_TYPE, Refusal.NOT_STORED, Refusal.FULL),
)


def _json(schema: str, description: str) -> _Schema:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _refusals(refusals: Iterable[Refusal]) -> dict[str, _Schema]:
    texts: dict[int, list[str]] = {}
    for refusal in refusals:
        texts.setdefault(STATUS[refusal], []).append(refusal.value)
    found = {
        str(status): _json("Error", " ".join(f"`{text}`" for text in several)) for status, several in texts.items()
    }
    if "429" in found:
        found["429"]["headers"] = {"Retry-After": {"schema": _SECONDS, "required": True}}
    return dict(sorted(found.items()))


def _keyed(
    summary: str, done: dict[str, _Schema], refusals: Iterable[Refusal], more: dict[str, Any] | None = None
) -> dict[str, Any]:
    responses = {**done, **_refusals(refusals)}
    return {"summary": summary, "security": [{"key": []}], **(more or {}), "responses": responses}


def _open(summary: str, responses: dict[str, _Schema]) -> dict[str, Any]:
    return {"summary": summary, "security": [], "responses": responses}


def _query(**names: str) -> list[_Schema]:
    return [{"name": name, "in": "query", "schema": _TEXT, "description": text} for name, text in names.items()]


_GRANTED = {"200": _json("Granted", "Granted, and on disk.")}
_CLOSED = {"204": {"description": "Closed, and that is on disk."}}
_HTML = {"200": {"description": "A page.", "content": {"text/html": {"schema": _TEXT}}}}
_KNOCK_BODY = {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Knock"}}}}}
_PATHS: dict[str, Any] = {
    "/knock": {
        "post": _keyed("Open, or extend, the caller's grant.", _GRANTED, (*_KNOCKING, *_BODY), _KNOCK_BODY),
        "get": _keyed("The same without a body, for a plain curl.", _GRANTED, (*_KNOCKING, *_BODY)),
        "delete": _keyed(
            "Close the caller's own grant of that key; 204 also when there was none.",
            _CLOSED,
            (*_KNOCKING, Refusal.CLOSED_NOT_STORED),
        ),
    },
    "/grants": {
        "get": _keyed(
            "The caller's grants; an admin's key sees all.",
            {"200": _json("Grants", "Sorted by expiry.")},
            (*_ASKING, Refusal.INVALID_DATA, Refusal.TOO_LARGE),
            {"parameters": _query(key="Only those of the key of this name.", host="Only those that open this host.")},
        ),
    },
    "/grants/{grant_id}": {
        "parameters": [{"name": "grant_id", "in": "path", "required": True, "schema": _TEXT}],
        "delete": _keyed(
            "Close one grant.", _CLOSED, (*_ASKING, Refusal.NO_GRANT, Refusal.CLOSED_NOT_STORED, Refusal.TOO_LARGE)
        ),
    },
    "/explain": {
        "get": _keyed(
            "What /verify would answer, and why; for an admin's key.",
            {"200": _json("Explanation", "The verdict and its steps.")},
            (*_KEYED, Refusal.NO_PERMISSION, Refusal.INVALID_DATA, Refusal.INVALID_ADDRESS, Refusal.TOO_LARGE),
            {"parameters": _query(ip="Whose request; else this one.", host="For which host.", path="For which path.")},
        ),
    },
    "/canaries": {
        "post": _keyed(
            "Random values to forge, so as to see what the proxy lets through; for an admin's key.",
            {"200": _json("Canary", "It watches for a minute.")},
            (*_KEYED, Refusal.NO_PERMISSION, Refusal.TOO_LARGE),
        ),
    },
    "/canaries/{canary_id}": {
        "parameters": [{"name": "canary_id", "in": "path", "required": True, "schema": _TEXT}],
        "get": _keyed(
            "Which questions to /verify bore the values, and what was made of them.",
            {"200": _json("Found", "What it has seen.")},
            (*_KEYED, Refusal.NO_PERMISSION, Refusal.NO_CANARY, Refusal.TOO_LARGE),
        ),
    },
    "/verify": {
        "get": _open(
            "The proxy's question, by any method: may this request pass?",
            {
                "200": {"description": "It may. `X-Forwarded-For` has the client's address where it is known."},
                "401": {"description": "It may not."},
                "403": {"description": "It may not, with `security.deny.status: 403`."},
            },
        ),
    },
    "/health": {"get": _open("Whether the process answers.", {"200": _json("Health", "It does.")})},
    "/ready": {
        "get": _open(
            "Whether everything works.", {"200": _json("Ready", "It does."), "503": _json("Ready", "It does not.")}
        ),
    },
    "/openapi.json": {"get": _open("This document.", {"200": {"description": "OpenAPI 3.1."}})},
    "/": {"get": _open("The page to knock on.", {**_HTML, "404": _json("Error", "There is none.")})},
    "/page/{name}": {
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": _TEXT}],
        "get": _open(
            "What that page loads.", {"200": {"description": "A file."}, "404": _json("Error", "There is none.")}
        ),
    },
}
DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Knocker",
        "version": "1",
        "description": "Who knocks with a key is let in, by address, for a while.",
    },
    "paths": _PATHS,
    "components": {
        "schemas": _SCHEMAS,
        "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}},
    },
}
TEXT = json.dumps(DOCUMENT).encode()
