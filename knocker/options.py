"""The options of `twistd knocker`: the settings are read here, before anything else happens."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from twisted.python.usage import Options as UsageOptions

from knocker import logs
from knocker.settings import Faulty, chosen_path, load


class Options(UsageOptions):
    """The options of `twistd knocker`."""

    optParameters = (("config", "c", None, "The settings file. Default: $KNOCKER_CONFIG_PATH, then ./knocker.yaml"),)

    def postOptions(self) -> None:
        """Read the settings now: a fault ends the start with one line for each, and nothing else."""
        self["config"] = chosen_path(self["config"], os.environ)
        try:
            self["settings"] = load(self["config"])
        except Faulty as faulty:
            give_up(faulty.faults)
        logging = self["settings"].logging
        self["log"] = logs.for_twistd(self.parent, logging.level, logging.format)
        # twistd may change the directory before a reload reads the file again.
        self["config"] = os.path.abspath(self["config"])


def give_up(faults: list[str]) -> NoReturn:
    """End the start: the faults on stderr, one a line, and status 1."""
    write_faults(faults)
    raise SystemExit(1)


def write_faults(faults: list[str]) -> None:
    """The faults alone, where a start cannot end at once."""
    stderr = sys.__stderr__ or sys.stderr  # by now twistd may have made the other one a part of its log
    stderr.write("".join(f"{fault}\n" for fault in faults))
    stderr.flush()
