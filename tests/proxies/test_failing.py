"""Whatever goes wrong with Knocker, no proxy lets anybody in."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import LONG
from tests.net import HOME, Bench, NoAnswer
from tests.proxies.conftest import HERE, Builder, Client, Gateway, reached, settings
from tests.proxies.recipes import all_but
from tests.service import Server, eventually

GATEWAYS = all_but("caddy-ours", "caddy-first", "haproxy")

# How many seconds a proxy waits for Knocker, where its recipe cannot say 5.
PATIENCE = {"caddy-first": None, "traefik": 30}


class House:
    """One Knocker that all gateways of this file ask, and a client that it lets in while it can."""

    def __init__(self, builder: Builder) -> None:
        self.knocker = builder.knocker(settings("app.example.com"))
        self.bench = builder.bench
        self.inside = builder.bench.stranger()
        self.gateways: dict[str, Gateway] = {}
        self.missing: dict[str, str] = {}
        for name in GATEWAYS:
            try:
                self.gateways[name] = builder.gateway(name, knocker=self.knocker)
            except pytest.skip.Exception as reason:
                self.missing[name] = str(reason)
        assert self.gateways["caddy"].knock(self.inside).status == 200

    @property
    def everybody(self) -> list[str]:
        """Who has knocked, who has not, and who need not."""
        return [self.inside, self.bench.stranger(), HOME]

    def is_open(self) -> bool:
        """Whether each gateway lets in who has knocked."""
        return all(reached(gateway.send(self.inside)) for gateway in self.gateways.values())


@pytest.fixture(scope="module")
def house(bench: Bench, client: Client, app: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Knocker and all gateways, ready before anything goes wrong."""
    builder = Builder(bench, client, tmp_path_factory.mktemp("failing"))
    try:
        yield House(builder)
    finally:
        builder.close()


@pytest.fixture(scope="module", params=["refuses", "hangs", 500, 503, 404, 429, 400, 302, 401, 403])
def trouble(
    request: pytest.FixtureRequest, house: House, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int | str]:
    """What is wrong with Knocker meanwhile: or the status with which another server in its place answers."""
    eventually(house.is_open, "all is well before")
    folder, port = tmp_path_factory.mktemp("trouble"), house.knocker.port
    if request.param == "refuses":
        assert house.knocker.terminate() == 0
        yield request.param
        house.knocker.start()
    elif request.param == "hangs":
        house.knocker.signal(signal.SIGSTOP)
        yield request.param
        house.knocker.signal(signal.SIGCONT)
    else:
        (folder / "status").write_text("200")
        command = [sys.executable, str(HERE / "stand_in.py"), str(port)]
        house.knocker.kill()
        with Server(command, folder, port, house.bench.server):
            assert house.is_open()  # so whether it is asked shows
            (folder / "status").write_text(str(request.param))
            yield request.param
        house.knocker.start()
    eventually(house.is_open, "all is well again")


@pytest.mark.timeout(180)  # Traefik's half a minute, and before the first of these all gateways start
@pytest.mark.parametrize("name", GATEWAYS)
def test_nobody_gets_in_while_something_is_wrong_with_knocker(house: House, name: str, trouble: int | str) -> None:
    if name in house.missing:
        pytest.skip(house.missing[name])
    gateway = house.gateways[name]
    patience = PATIENCE.get(name, 5)
    if trouble == "hangs" and (not patience or (patience > 5 and not LONG)):
        with pytest.raises(NoAnswer):
            gateway.send(house.inside, timeout=1)
        return
    hanging = trouble == "hangs"
    for client in [house.inside] if hanging else house.everybody:
        for path in ["/metrics"] if hanging else ["/", "/metrics"]:
            answer = gateway.send(client, target=path, timeout=(patience or 0) + 10)
            assert not reached(answer)
            if trouble == "refuses":
                assert answer.status == gateway.recipe.without_knocker
            elif trouble in (401, 403):
                assert answer.status == trouble
            else:
                assert answer.status >= (302 if trouble == 302 else 400)
