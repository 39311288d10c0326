"""What a knock may be told on the command line; a fault says what is wanted, and shows nothing of what was given."""

from __future__ import annotations

import click

from knocker.core.addresses import Network
from knocker.core.hosts import parse_name


def _network(_: click.Context, __: click.Parameter, value: str | None) -> Network | None:
    try:
        return Network.parse(value) if value is not None else None
    except ValueError as error:
        raise click.BadParameter(f"expected an address or a network; this is {error}") from None


def _host(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    try:
        return parse_name(value) if value is not None else None
    except ValueError:
        raise click.BadParameter("expected a host name") from None


ttl_option = click.option("--ttl", metavar="SECONDS", type=click.IntRange(1, 0xFFFFFFFF), help="Ask for so long.")
ip_option = click.option("--ip", "network", metavar="ADDRESS", callback=_network, help="Open this address or network.")
host_option = click.option("--host", metavar="NAME", callback=_host, help="Only this host of the key's, by packet.")


def _realm(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value and not value.isprintable():
        raise click.BadParameter("expected a text on one line")
    return value


udp_option = click.option(
    "--udp", metavar="[HOST[:PORT]]", is_flag=False, flag_value="", help="By one silent packet instead."
)
_REALM = "The gate's udp.realm, instead of client.yaml's."
realm_option = click.option("--realm", metavar="NAME", callback=_realm, help=_REALM)
