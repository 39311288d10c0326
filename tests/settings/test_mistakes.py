"""Mistakes that people make in knocker.yaml, one at a time: each is told in one line that says what to do."""

from __future__ import annotations

import pytest

from knocker.settings import Faulty
from knocker.settings.reading import parse

KEY = "kn_SwBBx9Rd9tmDVgd7mcFQAqxwDPOWzNian2uDLPverV01RixkX"
GOOD = f"""
server:
  trusted_proxies: [172.30.53.2]
security:
  excluded_paths: [/api/v1/status]
api_keys:
  - name: phone
    key: "{KEY}"
    ttl: 3600
"""

# What is written instead of what, and what the one line has to say.
MISTAKES = {
    "a tab": (
        "    ttl",
        "\tttl",
        "line 9, column 1: not valid YAML: found character '...' that cannot start any token; indent",
    ),
    "a mapping of one key": (
        "  - name",
        "    name",
        'api_keys: expected a list of at least one key, each beginning with "- "',
    ),
    "an hour": ("3600", "1h", "api_keys[0].ttl: expected a positive integer, got '1h'"),
    "no ttl": (
        "    ttl: 3600\n",
        "",
        "api_keys[0].ttl: missing: the seconds that a knock with this key opens the gate",
    ),
    "a slip": (
        "trusted_proxies",
        "trusted_proxy",
        "server: unknown setting trusted_proxy; did you mean trusted_proxies?",
    ),
    "no list": ("[172.30.53.2]", "172.30.53.2", "server.trusted_proxies: expected a list, as [one, another]"),
    "a name for an address": ("172.30.53.2", "caddy", "server.trusted_proxies[0]: expected an IP address or a network"),
    "everybody": ("172.30.53.2", "0.0.0.0/0", "server.trusted_proxies[0]: 0.0.0.0/0 covers everybody"),
    "a path without /": ("/api/v1/status", "status", "'status' cannot be excluded: a path begins with /"),
    "every path": ("/api/v1/status", "/*", "'/*' cannot be excluded: it would exclude every path"),
    "a URL for a host": (
        "3600",
        "3600\n    hosts: [https://a.example]",
        "hosts[0]: expected a host name, or *. and a domain, without",
    ),
    "a port in quotes": (
        "server:",
        "server:\n  port: '8000'",
        "server.port: expected a whole number from 1 to 65535, got '8000'",
    ),
    "a short key": (KEY, "secret123", "api_keys[0].key: too easy to guess: use 16 characters or more"),
    "the example's key": (
        KEY,
        "REPLACE_WITH_A_KEY_OF_YOUR_OWN",
        "this is the example's text; put a key of your own here",
    ),
    "a number for a key": (f'"{KEY}"', "12345678901234567890", "a key is a text; put it in quotes"),
    "typographer's quotes": ('"', "\u201d", "a key has only printable ASCII characters"),
    "a colon": (
        "phone",
        "my: phone",
        "not valid YAML: mapping values are not allowed here; a text with a colon needs quotes",
    ),
    "no colon": (
        "    ttl: 3600",
        "    ttl 3600\n    max_ttl: 7200",
        "a name without a colon, in this line or the one before",
    ),
    "an open quote": (f'{KEY}"', KEY, "a quote or a bracket is not closed"),
    "twice": ("security:", "server:", "the setting server stands here a second time"),
    "too far to the right": (
        "api_keys:",
        "  api_keys:",
        "security: unknown setting api_keys; did you mean api_keys without",
    ),
    "a word for a date": ("3600", "3600\n    expires: tomorrow", "expires: expected a date such as 2027-01-31"),
    "UDP with any key": (
        f'{KEY}"',
        'own-key-0123456789-abcd"\n    udp: true',
        "has to be one that `knocker genkey` made",
    ),
    "a yes in quotes": (
        "security:",
        "udp: {enabled: 'yes'}\nsecurity:",
        "udp.enabled: expected true or false, got 'yes'",
    ),
    "less at most": ("3600", "3600\n    max_ttl: 60", "api_keys[0].ttl: 3600 is more than max_ttl, 60"),
    "a page without its address": (
        "security:",
        "security:\n  deny: {page: knock}",
        "it links to knock_page.url, which must be set",
    ),
    "a name for a URL": (
        "security:",
        "knock_page: {url: a.example}\nsecurity:",
        "expected an address such as https://knock",
    ),
}


@pytest.mark.parametrize(("right", "wrong", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_what_to_do(right: str, wrong: str, told: str) -> None:
    parse(GOOD.encode())
    assert right in GOOD
    with pytest.raises(Faulty) as caught:
        parse(GOOD.replace(right, wrong).encode())
    assert told in caught.value.faults[0]
    assert KEY not in "".join(caught.value.faults)
