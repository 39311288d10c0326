"""docker-compose.yml, Caddyfile and knocker.example.yaml as users copy them, with a real Caddy and real addresses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.image.containers import Containers, Done
from tests.net import SERVER, SERVER_6, Answer, Bench, NoAnswer
from tests.service import PROJECT, SCRIPTS, eventually, replaced

pytestmark = pytest.mark.timeout(900)

SEEN = b"Only those who knocked see this."
KNOCKER, CADDY = "knocker_knocker_1", "knocker_caddy_1"
ADMIN = "admin-key-0123456789-abcd"


def uncommented(text: str, *lines: str) -> str:
    """`text` with lines in force that it has as comments."""
    return replaced(text, {f"# {line}\n": f"{line}\n" for line in lines})


class Stack:
    """The project of docker-compose.yml, up; a context manager. All that can be uncommented in it is."""

    def __init__(self, containers: Containers, bench: Bench) -> None:
        self.containers, self.bench = containers, bench
        self.folder = containers.folder / "stack"
        self.folder.mkdir()
        self.settings = self.folder / "knocker.yaml"
        made = subprocess.run([SCRIPTS / "knocker", "genkey"], capture_output=True, text=True, check=True)
        (self.key,) = re.findall(r"^key: (\S+)$", made.stdout, re.MULTILINE)
        self._copy()

    def _copy(self) -> None:
        compose, caddyfile, settings = (
            (PROJECT / name).read_text() for name in ("docker-compose.yml", "Caddyfile", "knocker.example.yaml")
        )
        compose = uncommented(compose, 'ports: ["62201:62201/udp"]', "secrets: [admin]")
        compose = replaced(compose, {"# secrets:\n#   admin:\n#     file:": "secrets:\n  admin:\n    file:"})
        exchanged = {
            'key: "REPLACE_WITH_A_KEY_OF_YOUR_OWN"      ': f'key: "{self.key}"\n    udp: true',
            'key: "REPLACE_WITH_ANOTHER_KEY"            ': "key_file: /run/secrets/admin",
            # And with a short window: what is sent within one of the first start is refused.
            "udp: {enabled: false": "udp: {enabled: true, window_seconds: 30",
        }
        # No public name leads here, so that Caddy has to sign its certificates itself.
        caddyfile = replaced(caddyfile, {"\n{\n": "\n{\n\tlocal_certs\n\tskip_install_trust\n"})
        (self.folder / "docker-compose.yml").write_text(compose)
        (self.folder / "Caddyfile").write_text(caddyfile)
        for path, text in ((self.settings, replaced(settings, exchanged)), (self.folder / "admin.key", ADMIN)):
            path.touch(mode=0o600)
            path.write_text(text)
            os.chown(path, 1000, 1000)

    def compose(self, *command: str) -> Done:
        """What podman-compose says to a command, which stands for docker compose."""
        return self.containers.run("podman-compose", *command, cwd=self.folder, seconds=120)

    def __enter__(self) -> Stack:
        try:
            self.compose("up", "--no-build", "--detach")
            eventually(self._ready, "both answer", seconds=30)
            found = f"{CADDY}:/data/caddy/pki/authorities/local/root.crt"
            self.containers.podman("cp", found, str(self.folder / "root.crt"))
        except BaseException as error:
            error.add_note(self.log)
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.compose("down", "--volumes", "--timeout", "5")

    def _ready(self) -> bool:
        try:
            return self.bench.curl("-k", "https://knock.example.com/health", source=self.bench.stranger()).status == 200
        except NoAnswer:
            return False

    def curl(self, url: str, source: str, *args: str) -> Answer:
        """What a client with that address is answered; it trusts Caddy's own root."""
        return self.bench.curl("--cacert", str(self.folder / "root.crt"), *args, url, source=source)

    def app(self, source: str) -> int:
        """The status that it gets from the protected app; the app itself answers 200 alone."""
        answer = self.curl("https://app.example.com/", source)
        assert (answer.body == SEEN) == (answer.status == 200), answer
        return answer.status

    def knock(self, source: str, *args: str) -> Answer:
        """The answer to a knock as the README shows it."""
        return self.curl("https://knock.example.com/knock", source, "-H", f"X-Api-Key: {self.key}", *args)

    def given(self, source: str) -> int | None:
        """The seconds that a knock opens, None where nothing does."""
        answer = self.knock(source)
        return answer.json()["expires_in_seconds"] if answer.status == 200 else None

    @property
    def log(self) -> str:
        """What Knocker has said."""
        done = self.containers.podman("logs", KNOCKER)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def stack(containers: Containers, bench: Bench, image: str, caddy: str) -> Iterator[Stack]:
    """The one that all tests here share; each knocks from addresses of its own."""
    with Stack(containers, bench) as running:
        yield running


def test_knocker_runs_as_the_files_owner_with_nothing_that_it_does_not_need(stack: Stack) -> None:
    told: Any = json.loads(stack.containers.said("inspect", KNOCKER))[0]
    assert told["Config"]["User"] == "1000:1000"
    assert told["HostConfig"]["ReadonlyRootfs"]
    assert not told["EffectiveCaps"]
    assert "no-new-privileges" in str(told["HostConfig"]["SecurityOpt"])
    assert told["Config"]["Healthcheck"]["Test"][-2:] == ["knocker", "health"]
    stack.containers.podman("healthcheck", "run", KNOCKER)
    warnings = [line for line in stack.log.splitlines() if "#warn" in line or "#error" in line]
    assert all("udp-seen.log: there is no such file" in line for line in warnings)


@pytest.mark.parametrize("family", [4, 6])
def test_whoever_knocks_is_let_in_by_the_own_address(stack: Stack, bench: Bench, family: int) -> None:
    client, other = (bench.stranger() if family == 4 else bench.stranger_6() for _ in range(2))
    assert stack.app(client) == 401
    answer = stack.knock(client)
    assert answer.status == 200
    opened = client if family == 4 else f"{client.removesuffix('10')}/64"
    assert answer.json()["whitelisted_entry"] == opened
    assert stack.app(client) == 200
    assert stack.app(other) == 401
    grants = stack.curl("https://knock.example.com/grants", other, "-H", f"X-Api-Key: {ADMIN}").json()
    assert opened in str(grants), "a key from a secret"
    assert stack.knock(client, "-X", "DELETE").status == 204
    assert stack.app(client) == 401


@pytest.mark.parametrize("server", [SERVER, f"[{SERVER_6}]"], ids=["IPv4", "IPv6"])
def test_a_datagram_opens_for_its_sender(stack: Stack, bench: Bench, server: str) -> None:
    command = [*bench.client, str(SCRIPTS / "knocker"), "knock", "--udp", f"{server}:62201"]
    environment = os.environ | {"KNOCKER_KEY": stack.key, "HOME": str(stack.folder)}
    before = stack.log.count("via udp")

    def opened_by_one_more() -> bool:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        time.sleep(1)  # nothing answers
        return stack.log.count("via udp") > before

    eventually(opened_by_one_more, "a grant", seconds=50)
    *_, line = (line for line in stack.log.splitlines() if "via udp" in line)
    (opened,) = re.findall(r"opened (\S+)", line)
    assert stack.app(opened if "/" not in opened else f"{opened.removesuffix('/64')}10") == 200


def test_an_address_that_many_share_is_not_opened(stack: Stack, bench: Bench) -> None:
    """What comes from the machine itself wears the gateway's address, as all would behind Docker's userland-proxy."""
    url = "https://knock.example.com/knock"
    command = [*bench.server, "curl", "-sk", "--connect-to", "::127.0.0.1:", "-H", f"X-Api-Key: {stack.key}", url]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert json.loads(answer) == {"error": "Could not determine client IP."}
    assert "172.30.53.1" in stack.log
    assert "server.shared_addresses" in stack.log


def test_settings_count_after_a_reload_or_a_restart_and_no_grant_is_lost(stack: Stack, bench: Bench) -> None:
    client = bench.stranger()
    assert stack.knock(client).status == 200

    # An editor that writes into the file.
    text = stack.settings.read_text()
    stack.settings.write_text(replaced(text, {"ttl: 3600                   #": "ttl: 1800 #"}))
    stack.compose("exec", "-T", "knocker", "knocker", "reload")
    eventually(lambda: stack.given(bench.stranger()) == 1800, "reloaded")

    # And one that puts another file in its place, of which the container knows nothing until it starts again.
    new = stack.settings.with_suffix(".new")
    shutil.copy2(stack.settings, new)
    os.chown(new, 1000, 1000)
    new.write_text(replaced(new.read_text(), {"ttl: 1800 #": "ttl: 900 #"}))
    new.replace(stack.settings)
    warning = "another file has taken its place, but the old one is what is still seen here: restart the container"
    told = stack.containers.podman("exec", KNOCKER, "knocker", "reload")
    assert warning in told.stdout + told.stderr
    eventually(lambda: warning in stack.log, "said in the log too")
    assert stack.given(bench.stranger()) == 1800

    stack.compose("restart", "knocker")
    eventually(lambda: stack.given(bench.stranger()) == 900, "restarted", seconds=30)
    assert stack.app(client) == 200


def test_the_stack_has_the_addresses_that_the_settings_believe(stack: Stack) -> None:
    told: Any = json.loads(stack.containers.said("network", "inspect", "knocker_gate"))[0]
    settings: Any = yaml.safe_load((PROJECT / "knocker.example.yaml").read_text())["server"]
    assert [subnet["gateway"] for subnet in told["subnets"]] == settings["shared_addresses"]
    networks: Any = json.loads(stack.containers.said("inspect", CADDY))[0]["NetworkSettings"]["Networks"]
    (network,) = networks.values()
    assert [network["IPAddress"], network["GlobalIPv6Address"]] == settings["trusted_proxies"]
