"""The images: Knocker's as its Dockerfile says, over a Debian of the same release as the one that this names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.containers import Containers
from tests.net import Bench, bench_or_skip
from tests.refused import refused
from tests.service import CADDY, PROJECT

# They take minutes, packages from an index and much of a disk: `make image-test` asks for them.
collect_ignore_glob = [] if os.environ.get("KNOCKER_TEST_IMAGE") == "1" else ["test_*.py"]

IMAGE, BASE = "localhost/knocker:local", "localhost/base:local"

_BASE = """
FROM scratch
ADD base.tar /
COPY trust /
"""
# As the one that its makers publish, as far as the compose file can tell.
_CADDY = """
FROM scratch
ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data PATH=/usr/bin
COPY caddy /usr/bin/caddy
WORKDIR /srv
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
"""


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """Two namespaces: the server with the containers, and clients with addresses of their own."""
    with bench_or_skip() as made:
        yield made


@pytest.fixture(scope="session")
def containers(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """An engine with a base image, on a machine that is known to run a container of it."""
    folder = tmp_path_factory.mktemp("containers")
    with Containers(bench, folder) as made:
        _build_base(made, folder / "base")
        tried = made.podman("run", "--rm", "--network=none", "--cap-drop=ALL", "--read-only", BASE, "true", check=False)
        if tried.returncode:
            refused("to run a container", tried.stderr)
        yield made


def _build_base(containers: Containers, folder: Path) -> None:
    """A Debian with Python: what Docker's python image has that the Dockerfile asks for."""
    named = re.search(r"^ARG BASE=python:[\d.]+-slim-(\w+)$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    assert named
    folder.mkdir()
    packages = "--include=python3,python3-venv,python-is-python3"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", packages, named[1], str(folder / "base.tar")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400, check=False)
    if done.returncode:
        refused("a Debian to build on", done.stderr[-2000:])
    for name in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf"):  # how this machine gets at packages
        if Path(name).is_file():
            (folder / f"trust{name}").parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, folder / f"trust{name}")
    (folder / "trust").mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(_BASE)
    containers.build(BASE, folder / "Dockerfile", folder)


@pytest.fixture(scope="session")
def image(containers: Containers) -> str:
    """Knocker's image, built by the Dockerfile as it is."""
    containers.build(IMAGE, PROJECT / "Dockerfile", PROJECT, BASE=BASE)
    return IMAGE


@pytest.fixture(scope="session")
def caddy(containers: Containers) -> str:
    """An image of Caddy's, under the name that the compose file gives it."""
    folder = containers.folder / "caddy"
    folder.mkdir()
    shutil.copy(CADDY, folder / "caddy")
    (folder / "Dockerfile").write_text(_CADDY)
    containers.build("localhost/caddy:2.11", folder / "Dockerfile", folder)
    return "localhost/caddy:2.11"
