"""A configuration of FarisZR/knocker v1 is taken as it is, with warnings only where something no longer applies."""

from __future__ import annotations

from knocker.core.limits import Limit
from knocker.settings import Logging, parse

OLDER = """
server:
  trusted_proxies: ["172.16.238.0/24", "fd00:dead:beef::/64"]
cors:
  allowed_origin: "https://webapp.example.com"
logging:
  level: DEBUG
security:
  always_allowed_ips: []
  excluded_paths: []
  excluded_paths_by_host:
    "jellyfin.example.com": ["/health"]
  max_whitelist_entries: 500
  knock_rate_limit: {window_seconds: 60, successful_requests: 10, failed_requests: 15}
whitelist:
  storage_path: "/data/whitelist.json"
  cleanup_interval_seconds: 30
firewalld:
  enabled: false
  zone_name: knocker
  monitored_ports: [{port: 443, protocol: tcp}]
api_keys:
  - name: "admin-key-for-remote-whitelisting"
    key: "4f9d2c8a71b35e60d9f8a7c6b5e4d3c2"
    max_ttl: 3600
    allow_remote_whitelist: true
  - name: null
    key: "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
    max_ttl: 14400
    allow_remote_whitelist: false
documentation:
  enabled: false
  openapi_output_path: "openapi.json"
"""


def test_an_older_configuration_means_what_it_meant() -> None:
    settings = parse(OLDER.encode())
    admin, phone = settings.keys
    assert (admin.name, admin.ttl, admin.max_ttl, admin.admin) == (
        "admin-key-for-remote-whitelisting",
        3600,
        3600,
        True,
    )
    assert (phone.name, phone.ttl, phone.max_ttl, phone.admin) == ("key-2", 14400, 14400, False)
    assert settings.storage.max_entries == 500
    assert settings.storage.cleanup_interval_seconds == 30
    assert settings.security.limit == Limit(60, 10, 15)
    assert settings.cors_origin == "https://webapp.example.com"
    assert settings.logging == Logging("debug", "text")
    assert list(settings.security.exclusions.by_host) == ["jellyfin.example.com"]


def test_an_older_configuration_is_warned_of_what_no_longer_applies_and_of_nothing_else() -> None:
    places = [warning.split(": ")[1] for warning in parse(OLDER.encode()).warnings]
    assert places == ["firewalld", "documentation"]


def test_an_older_configuration_may_leave_members_empty() -> None:
    emptied = OLDER.replace(
        """  excluded_paths_by_host:
    "jellyfin.example.com": ["/health"]
""",
        "  excluded_paths_by_host:\n",
    )
    assert parse(emptied.encode()).security.exclusions.by_host == {}
