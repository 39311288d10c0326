"""Containers of the tests' own, without a Docker engine: buildah builds and podman runs what Docker would.

All of it lives below one folder and in namespaces of its own for mounts, processes and the network. Those end with the
tests, however these end, and take every container along.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.needs import PATH, need
from tests.net import Bench
from tests.refused import held, refused
from tests.service import SCRIPTS

_NEEDED = (
    *("mmdebstrap", "buildah", "podman", "runc", "iptables", "conmon"),
    *("/usr/lib/podman/netavark", "/usr/lib/podman/aardvark-dns"),
)

# Without systemd's cgroups, journal and timers, which a machine for tests may not have.
_CONTAINERS = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
static_dir = "{folder}/graph/libpod"
tmp_dir = "{folder}/tmp"
volume_path = "{folder}/volumes"
image_copy_tmp_dir = "{folder}"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""
_STORAGE = """
[storage]
driver = "{driver}"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""

# Not `exec cat`: the first process of such a namespace has to take leave of those that others leave behind.
# What the engine keeps outside its folder is out of everybody else's sight.
_HOLDING = """
for folder in /dev/shm /run/containers /run/netns /run/runc; do
    mkdir -p $folder && mount -t tmpfs none $folder || exit
done
echo
cat
:"""

Done = subprocess.CompletedProcess[str]


class Containers:
    """The engine; a context manager. Ports that it publishes are the bench's server's."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.folder = folder
        self._bench = bench
        self._environment = os.environ | {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "PATH": f"{SCRIPTS}{os.pathsep}{PATH}",
        }

    def __enter__(self) -> Self:
        need(*_NEEDED)
        if os.geteuid():
            refused("containers", "they need root here")
        self._hold()
        (self.folder / "containers.conf").write_text(_CONTAINERS.format(folder=self.folder))
        (self.folder / "storage.conf").write_text(_STORAGE.format(folder=self.folder, driver=self._driver()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run("podman", "rm", "--all", "--force", "--time", "1", check=False)
        self._holder.kill()
        self._holder.communicate()
        shutil.rmtree(self.folder)
        for parent in Path("/sys/fs/cgroup").glob("**/libpod_parent"):
            for group, _, _ in os.walk(parent, topdown=False):
                with suppress(OSError):  # somebody else's, in use
                    os.rmdir(group)

    def _hold(self) -> None:
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", _HOLDING]
        self._holder = held(command, "namespaces for containers")
        outer = self._holder.pid
        self._inside = int(Path(f"/proc/{outer}/task/{outer}/children").read_text())

    def _driver(self) -> str:
        """overlay where it works, else vfs, which copies every layer whole."""
        tried = self.folder / "tried"
        for name in ("lower", "upper", "work", "merged"):
            (tried / name).mkdir(parents=True)
        options = f"lowerdir={tried}/lower,upperdir={tried}/upper,workdir={tried}/work"
        done = self.run("mount", "-t", "overlay", "-o", options, "none", f"{tried}/merged", check=False)
        return "vfs" if done.returncode else "overlay"

    def run(
        self, *command: str, check: bool = True, cwd: Path | None = None, online: bool = False, seconds: float = 60
    ) -> Done:
        """Run a command among the containers; `online` leaves it this machine's own network, for packages."""
        within = ["nsenter", f"--target={self._inside}", "--mount", "--pid", f"--wd={cwd or self.folder}", "--"]
        done = subprocess.run(
            [*([] if online else self._bench.server), *within, *command],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def build(self, name: str, file: Path, context: Path, **arguments: str) -> Done:
        """Build an image called `name`; nothing is pulled."""
        given = [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
        command = ["buildah", "bud", "--isolation", "chroot", "--pull-never", "--format", "docker"]
        return self.run(*command, *given, "--tag", name, "--file", str(file), str(context), online=True, seconds=400)

    def podman(self, *command: str, check: bool = True, seconds: float = 60) -> Done:
        """What podman says."""
        return self.run("podman", *command, check=check, seconds=seconds)

    def said(self, *command: str) -> str:
        """What podman prints, without the line's end."""
        return self.podman(*command).stdout.strip()
