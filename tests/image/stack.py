"""docker-compose.yml, Caddyfile and knocker.example.yaml as users copy them, up, with a real Caddy."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from itertools import count

from tests.image.containers import Containers, Done
from tests.net import Answer, Bench, NoAnswer
from tests.service import PROJECT, SCRIPTS, eventually, replaced

SEEN = b"Only those who knocked see this."
HEALTH = "https://knock.example.com/health"
KNOCKER, CADDY = "knocker_knocker_1", "knocker_caddy_1"
ADMIN = "admin-key-0123456789-abcd"


_numbers = count()


def uncommented(text: str, *lines: str) -> str:
    """`text` with lines in force that it has as comments."""
    return replaced(text, {f"# {line}\n": f"{line}\n" for line in lines})


class Stack:
    """The project of docker-compose.yml, up; a context manager. All that can be uncommented in it is.

    `changes` are made in each file beyond that, by its name.
    """

    def __init__(
        self, containers: Containers, bench: Bench, changes: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self._changes = changes or {}
        self.containers, self.bench = containers, bench
        self.folder = containers.folder / f"stack-{next(_numbers)}"
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
        # No public name leads here, so that Caddy has to sign its certificates itself.
        caddyfile = replaced(caddyfile, {"\n{\n": "\n{\n\tlocal_certs\n\tskip_install_trust\n"})
        exchanged = {
            'key: "REPLACE_WITH_A_KEY_OF_YOUR_OWN"      ': f'key: "{self.key}"\n    udp: true',
            'key: "REPLACE_WITH_ANOTHER_KEY"            ': "key_file: /run/secrets/admin",
            # And with a short window: what is sent within one of the first start is refused.
            "udp: {enabled: false": "udp: {enabled: true, window_seconds: 30",
        }
        settings = replaced(settings, exchanged)
        texts = {"docker-compose.yml": compose, "Caddyfile": caddyfile, "knocker.yaml": settings, "admin.key": ADMIN}
        for name, text in texts.items():
            path = self.folder / name
            path.touch(mode=0o644 if name in ("docker-compose.yml", "Caddyfile") else 0o600)
            path.write_text(replaced(text, self._changes.get(name, {})))
            os.chown(path, 1000, 1000)

    def compose(self, *command: str) -> Done:
        """What podman-compose says to a command, which stands for docker compose."""
        return self.containers.run("podman-compose", *command, cwd=self.folder, seconds=120)

    def __enter__(self) -> Stack:
        try:
            self.compose("up", "--no-build", "--detach")
            eventually(self.ready, "both answer", seconds=30)
            found = f"{CADDY}:/data/caddy/pki/authorities/local/root.crt"
            self.containers.podman("cp", found, str(self.folder / "root.crt"))
        except BaseException as error:
            error.add_note(self.log)
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.compose("down", "--volumes", "--timeout", "5")

    def ready(self) -> bool:
        """Whether Knocker answers through Caddy, over both families."""
        clients = self.bench.stranger(), self.bench.stranger_6()
        try:
            return all(self.bench.curl("-k", HEALTH, source=client).status == 200 for client in clients)
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
