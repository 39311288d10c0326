"""The log as the admin reads it: text, or one JSON object a line, from the first line of the start on.

Nothing in an event can begin a line of its own, whatever a request held; and no fault of the log's stream may
reach who logs, since that could be a verdict.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

from knocker.core.printable import printable
from knocker.core.quota import Quota, more

_RANKS = {LogLevel.debug: 0, LogLevel.info: 1, LogLevel.warn: 2, LogLevel.error: 3, LogLevel.critical: 3}
_LEVELS = {level.name: rank for level, rank in _RANKS.items()}
_OURS = "knocker"
_OF_OTHERS = 20  # lines of one kind a minute that are not ours; what we say ourselves is bounded where it is said


@implementer(ILogObserver)
class Log:
    """Writes events to `stream`, from `level` (debug, info, warn, error) on, as `format` (text, json) says."""

    def __init__(self, stream: TextIO | None = None, level: str = "info", format: str = "text") -> None:  # noqa: A002
        self.stream = stream
        self._quota = Quota()
        self.set(level, format)

    def set(self, level: str, format: str) -> None:  # noqa: A002 - the setting's name
        """Change both; the next event heeds it."""
        self._least = _LEVELS[level]
        self._line = _json_line if format == "json" else _text_line

    def __call__(self, event: LogEvent) -> None:
        """Write one event, if its level is high enough."""
        if self.stream is None:
            return
        with suppress(Exception):  # a full disk, a closed pipe
            if _RANKS.get(_level(event), 3) < self._least:
                return
            unsaid = self._left_out(event)
            if unsaid is not None:
                self._write(self.stream, self._told({**event, "more": more(unsaid)} if unsaid else event))

    def _left_out(self, event: LogEvent) -> int | None:
        """None where Twisted has said the like too often: some of its lines are one for each hostile packet."""
        if _is_ours(event):
            return 0
        kind = f"{event.get('log_namespace')} {event.get('log_format')}"
        return self._quota.left_out(kind, _OF_OTHERS, event.get("log_time") or time.time())

    def _told(self, event: LogEvent) -> str:
        try:
            return self._line(event)
        except Exception as error:  # noqa: BLE001 - a field whose text cannot be had
            sorry = f"an event that could not be told: {type(error).__name__}"
            return self._line({"log_level": LogLevel.error, "log_namespace": __name__, "log_format": sorry})

    @staticmethod
    def _write(stream: TextIO, line: str) -> None:
        try:
            stream.write(line)
        except UnicodeEncodeError:
            stream.write(line.encode("ascii", "backslashreplace").decode("ascii"))
        stream.flush()


def _time(event: LogEvent) -> datetime:
    return datetime.fromtimestamp(event.get("log_time") or time.time(), UTC)


def _level(event: LogEvent) -> Any:
    return event.get("log_level") or LogLevel.info


def _failure(event: LogEvent) -> Failure | None:
    found = event.get("log_failure") or (event.get("failure") if event.get("isError") else None)
    return found if isinstance(found, Failure) else None


def _message(event: LogEvent) -> str:
    if event.get("isError") and "log_failure" not in event and _failure(event) is not None:
        return str(event.get("why") or "Unhandled Error")  # twisted.python.log.err
    return formatEvent(event) + str(event.get("more", ""))


def _is_ours(event: LogEvent) -> bool:
    namespace = str(event.get("log_namespace"))
    return namespace == _OURS or namespace.startswith(_OURS + ".")


def _traceback(event: LogEvent) -> str:
    failure = _failure(event)
    return str(failure.getTraceback()) if failure is not None else ""


def _text_line(event: LogEvent) -> str:
    stamp = _time(event).strftime("%Y-%m-%dT%H:%M:%S+0000")
    namespace = printable(str(event.get("log_namespace") or "-"))
    line = f"{stamp} [{namespace}#{_level(event).name}] {printable(_message(event))}\n"
    return line + "".join(f"\t{printable(row)}\n" for row in _traceback(event).splitlines())


def _json_line(event: LogEvent) -> str:
    namespace = str(event.get("log_namespace") or "-")
    found: dict[str, Any] = {
        "time": _time(event).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": str(_level(event).name),
        "logger": namespace,
        "message": _message(event),
    }
    traceback = _traceback(event)
    if traceback:
        found["traceback"] = traceback
    if _is_ours(event):
        # The fields of others hold requests, transports and the like.
        fields = {name: value for name, value in event.items() if not name.startswith("log_") and _plain(value)}
        found |= {name: value for name, value in fields.items() if name not in found}
    return json.dumps(found, separators=(",", ":")) + "\n"


def _plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(isinstance(item, str) for item in value)
    if isinstance(value, int):
        return abs(value) < 1 << 63
    return value is None or isinstance(value, str)


def text_lines() -> Log:
    """For ``twistd --logger=knocker.logs.text_lines``."""
    return Log(sys.stdout)


def json_lines() -> Log:
    """For ``twistd --logger=knocker.logs.json_lines``: JSON even where the settings cannot be read."""
    return Log(sys.stdout, format="json")


def for_twistd(options: MutableMapping[str, Any] | None, level: str, format: str) -> Log | None:  # noqa: A002
    """Let twistd or twist log our way from their first line on; None where the admin chose another way.

    `options`: those of twistd or twist themselves, while ours are read.
    """
    if options is None:
        return None
    log = Log(None, level, format)
    if "fileLogObserverFactory" in options:  # twist, whose options do not tell what was asked for
        if any(word.startswith("--log-fo") for word in sys.argv[1:]):
            return None
        options["fileLogObserverFactory"] = _writing(log)
        if not any(word.startswith("--log-l") for word in sys.argv[1:]):
            options["logLevel"] = LogLevel.debug  # ours decides
    elif options.get("logger") or options.get("syslog"):
        return None
    else:
        _chosen[:] = [lambda: _writing(log)(_stream(options))]
        options["logger"] = "knocker.logs.chosen"
    return log


# twistd takes its logger by name alone, so what was chosen has to wait for it here.
_chosen: list[Callable[[], Log]] = []


def chosen() -> Log:
    """What `for_twistd` prepared."""
    return _chosen[-1]()


def _writing(log: Log) -> Callable[[TextIO], Log]:
    def start(stream: TextIO) -> Log:
        log.stream = stream
        return log

    return start


def _stream(options: MutableMapping[str, Any]) -> Any:
    """Where twistd would log to: standard output, or its --logfile, begun anew at SIGUSR1."""
    name, stays = options.get("logfile") or "", options.get("nodaemon", False)
    if name == "-" and not stays:
        raise SystemExit("Daemons cannot log to stdout, exiting!")
    if name == "-" or (stays and not name):
        return sys.stdout
    file: Any = LogFile.fromFullPath(name or "twistd.log")  # type: ignore[no-untyped-call]
    if not signal.getsignal(signal.SIGUSR1):
        from twisted.internet import reactor

        signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(file.rotate))  # type: ignore[attr-defined]
    return file
