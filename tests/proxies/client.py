"""A client, run as a program: a line of its input is an order to send bytes, a line of its output what came back."""

from __future__ import annotations

import json
import socket
import ssl
import sys
from http.client import HTTPException, HTTPResponse
from typing import Any

_TLS = ssl.create_default_context()
_TLS.check_hostname = False
_TLS.verify_mode = ssl.CERT_NONE


def _answered(order: dict[str, Any]) -> dict[str, Any]:
    with socket.create_connection(
        (order["server"], order["port"]), timeout=order["timeout"], source_address=(order["source"], 0)
    ) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with _TLS.wrap_socket(plain, server_hostname=order["tls"]) if order["tls"] else plain as connection:
            connection.sendall(order["send"].encode("latin-1"))
            answer = HTTPResponse(connection, method=order["send"].partition(" ")[0])
            answer.begin()
            if answer.status == 101:
                connection.sendall(order["then"].encode("latin-1"))
                body = answer.fp.read(order["expect"])
            else:
                body = answer.read()
            return {"status": answer.status, "headers": answer.getheaders(), "body": body.decode("latin-1")}


for line in sys.stdin:
    try:
        told = _answered(json.loads(line))
    except (OSError, HTTPException) as fault:
        told = {"fault": repr(fault)}
    print(json.dumps(told), flush=True)
