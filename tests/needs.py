"""The programs of Debian's that tests run: whoever lacks one is told what to install, and the test is not run."""

from __future__ import annotations

import os
import shutil

import pytest

# By the names of the programs, as .ci/run installs them.
PACKAGES = {
    "ip": "iproute2",
    "curl": "curl",
    "openssl": "openssl",
    "haproxy": "haproxy",
    "nc": "netcat-openbsd",
    "wrk": "wrk",
    "strace": "strace",
    "taskset": "util-linux",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "chromium": "chromium",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "faketime": "faketime",
    "redis-server": "redis-server",
    "systemd-analyze": "systemd",
    "mmdebstrap": "mmdebstrap",
    "buildah": "buildah",
    "podman": "podman",
    "runc": "runc",
    "conmon": "conmon",
    "iptables": "iptables",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
}
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))  # those are not on everybody's


def missing(*programs: str) -> str:
    """Which of these are not there, and how they are had on Debian; empty where all of them are."""
    absent = [name for name in programs if not shutil.which(name, path=PATH)]
    packages = sorted({PACKAGES[name] for name in absent})
    return f"not installed: {', '.join(absent)} (Debian: apt-get install {' '.join(packages)})" if absent else ""


def need(*programs: str) -> None:
    """Leave a test out where one of these is missing."""
    if why := missing(*programs):
        pytest.skip(why)


def found(program: str) -> str:
    """Where it is; the test is left out where it is nowhere."""
    need(program)
    return str(shutil.which(program, path=PATH))


def needs(*programs: str) -> pytest.MarkDecorator:
    """The same for a whole test."""
    return pytest.mark.skipif(bool(missing(*programs)), reason=missing(*programs))
