"""Which line of which recipe mends what `knocker doctor` found; the recipes are docs/proxies of the repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NGINX = "in location = /_knocker"
_LUA = "in knocker.lua"
_ENVOY = "in Envoy's authorization_request.headers_to_add"
_ENVOY_STRIP = "in Envoy's early_header_mutation"
_NO_TRUST = "no `insecure: true` and only your CDN in trustedIPs at the entry point"

_REMEDIES: dict[str, dict[str, str]] = {
    "asked": {
        "caddy": "in the site's block of the Caddyfile: `import knocker_auth`, before reverse_proxy",
        "nginx": "in the site's location: `auth_request /_knocker;`, and no `return` beside it",
        "traefik": "at the router: `middlewares: [no-forgeries, knocker]`",
        "envoy": "the filter envoy.filters.http.ext_authz before the router, with `failure_mode_allow: false`",
        "haproxy": "`http-request lua.ask_knocker unless to_knock`, and the three `http-request deny` lines below it",
    },
    "x-forwarded-for": {
        "caddy": "nothing may set X-Forwarded-For inside forward_auth, and `trusted_proxies` names only your CDN",
        "nginx": f"{_NGINX}: `proxy_set_header X-Forwarded-For $remote_addr;`",
        "traefik": f"`trustForwardHeader: false` at forwardAuth, {_NO_TRUST}",
        "envoy": f"{_ENVOY}: `x-forwarded-for: %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%`;"
        " and `use_remote_address: true`",
        "haproxy": f'{_LUA}: `"X-Forwarded-For: " .. client`, where client is txn.sf:src()',
    },
    "knock-x-forwarded-for": {
        "caddy": "at the knock host: nothing may set X-Forwarded-For, and `trusted_proxies` names only your CDN",
        "nginx": "in the knock host's location: `proxy_set_header X-Forwarded-For $remote_addr;`",
        "traefik": f"at the entry point: {_NO_TRUST}",
        "envoy": f"{_ENVOY_STRIP}: `remove: x-forwarded-for`, and `use_remote_address: true`",
        "haproxy": "`http-request set-header X-Forwarded-For %[src]`",
    },
    "x-forwarded-host": {
        "caddy": "inside forward_auth: `header_up X-Forwarded-Host {hostport}`",
        "nginx": f"{_NGINX}: `proxy_set_header X-Forwarded-Host $host;`",
        "traefik": f"`trustForwardHeader: false` at forwardAuth, {_NO_TRUST}",
        "envoy": f"{_ENVOY}: `x-forwarded-host: %REQ(:authority)%`",
        "haproxy": f'{_LUA}: `"X-Forwarded-Host: " .. host`',
    },
    "x-forwarded-uri": {
        "caddy": "forward_auth sets X-Forwarded-Uri by itself; nothing inside it may change that",
        "nginx": f"{_NGINX}: `proxy_set_header X-Forwarded-Uri $request_uri;`",
        "traefik": f"`trustForwardHeader: false` at forwardAuth, {_NO_TRUST}",
        "envoy": "`path_prefix: /verify` in http_service, and no x-forwarded-uri in allowed_headers",
        "haproxy": f'{_LUA}: `"X-Forwarded-Uri: " .. path`',
    },
    "x-original-uri": {
        "caddy": "inside forward_auth: `header_up -X-Original-*`",
        "nginx": f"{_NGINX}: `proxy_pass_request_headers off;`",
        "traefik": 'at the middleware no-forgeries: `X-Original-URI: ""`, or `authRequestHeaders: [Accept]`',
        "envoy": f"no x-original-uri in allowed_headers; {_ENVOY_STRIP}: `remove: x-original-uri`",
        "haproxy": f"{_LUA}: none of the client's headers goes into the question",
    },
    "decoded": {
        "nginx": f"{_NGINX}: `$request_uri`, never `$uri` or `$document_uri`, in X-Forwarded-Uri",
        "caddy": "nothing that rewrites the path may stand before forward_auth",
        "traefik": "middlewares that change the path belong behind knocker",
        "envoy": "`path_with_escaped_slashes_action: REJECT_REQUEST`, and no rewriting before ext_authz",
        "haproxy": f"{_LUA}: the path is txn.sf:pathq(), and no http-request before lua.ask_knocker changes it",
    },
    "method": {
        "caddy": "forward_auth sets X-Forwarded-Method by itself; nothing inside it may change that",
        "nginx": f"{_NGINX}: `proxy_set_header X-Forwarded-Method $request_method;`",
        "traefik": f"`trustForwardHeader: false` at forwardAuth, {_NO_TRUST}",
        "envoy": f"no x-forwarded-method in allowed_headers; {_ENVOY_STRIP}: `remove: x-forwarded-method`",
        "haproxy": f'{_LUA}: `"X-Forwarded-Method: " .. method`',
    },
    "needless": {
        "caddy": "inside forward_auth: `header_up -Cookie` and `header_up -Authorization`",
        "nginx": f"{_NGINX}: `proxy_pass_request_headers off;`",
        "traefik": "at forwardAuth: `authRequestHeaders: [Accept, Accept-Language, Sec-Fetch-Mode]`",
        "envoy": "`disallowed_headers` with authorization, and no cookie in allowed_headers",
        "haproxy": f"{_LUA}: none of the client's headers goes into the question",
    },
    "body": {
        "caddy": "forward_auth sends no body; nothing inside it may set Content-Length",
        "nginx": f'{_NGINX}: `proxy_pass_request_body off;` and `proxy_set_header Content-Length "";`',
        "traefik": "no `forwardBody: true` at forwardAuth",
        "envoy": "no `with_request_body` at ext_authz",
        "haproxy": f"{_LUA}: no Content-Length in the question",
    },
    "connections": {
        "nginx": f'{_NGINX}: `proxy_http_version 1.1;` and `proxy_set_header Connection "";`, with `keepalive 16;`'
        " in the upstream",
    },
    "publish": {
        "caddy": "at the knock host: `/canaries /canaries/*` in the line `@public path`",
        "nginx": "at the knock host: `canaries|canaries/.+` in the regex of its location",
        "traefik": "at the router of the knock host: Path(`/canaries`) and PathPrefix(`/canaries/`)",
        "envoy": "at the route of the knock host: `canaries|canaries/.+` in the regex",
        "haproxy": "`canaries|canaries/.+` in the regex of `acl published`",
    },
}
PROXIES = ("caddy", "nginx", "traefik", "envoy", "haproxy")


def remedy(problem: str, proxy: str) -> str:
    """What mends `problem` in this proxy, or in each of them where it is not known which one it is."""
    lines = _REMEDIES[problem]
    if proxy in lines:
        return f"{proxy}: {lines[proxy]}"
    return "; ".join(f"{name}: {lines[name]}" for name in PROXIES if name in lines)


def mend_of_why(asked: Mapping[str, Any], proxy: str) -> str:
    """What gives a request its client; by what the gate was told of it."""
    if not asked["trusted"]:
        return f'add "{asked["peer"]}" to server.trusted_proxies in knocker.yaml, if that is your proxy'
    if "only addresses of server.trusted_proxies" in (asked["why"] or ""):
        return (
            "let server.trusted_proxies hold only addresses from which proxies ask, none that a visitor can have; if"
            " the proxy itself sees all visitors by one such address, as behind Docker's userland-proxy or a"
            " masquerading network, let it see their own"
        )
    return remedy("x-forwarded-for", proxy)
