"""Structured logs: constant dotted events, what varies as key=value; never a secret, and never in the way."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any, Literal, TextIO

import msgspec
import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, ExcInfo, WrappedLogger

from qkdrelay.escaping import escaped, escaped_json
from qkdrelay.network.names import route_name
from qkdrelay.service.log_writer import LogWriter

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
LINE_MAX = 1 << 16
"""Characters of a line of JSON, above which what is long in it is cut."""
_TRACEBACK_LINES_MAX = 100
"""Shown from its beginning, and from its end."""
_writer: LogWriter | None = None


def set_up_logging(form: LogFormat, level: LogLevel, stream: TextIO | None = None, *, site: str = "") -> None:
    """Log to ``stream`` (stdout): JSON lines, or colours on a terminal; what libraries log, too.

    Each line has the ``site`` it is from, if there are several.
    """
    global _writer  # noqa: PLW0603 - a process has one log
    out = stream or sys.stdout
    least = logging.getLevelNamesMapping()[level.upper()]
    readable = form == "console" or (form == "auto" and out is not None and out.isatty())
    if _writer is not None:
        _writer.close()

    def lost(lines: int, why: str) -> str:
        return render(None, "warning", {"event": "log.lost", "lines": lines, "reason": why})

    writer = _writer = LogWriter(out, lost)
    everywhere = {"site": site} if site else {}
    render: _ConsoleLines | _JsonLines
    render = _ConsoleLines(everywhere) if readable else _JsonLines(writer, least, everywhere)
    structlog.configure(
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: _Lines(writer),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_OfLibraries()])


def log_what_python_says() -> None:
    """Log what would go to stderr, where it might wait for a reader: warnings, errors in threads and in finalizers."""
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed
    sys.unraisablehook = _finalizer_failed


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is not SystemExit:
        name = failed.thread.name if failed.thread else ""
        exception = (failed.exc_type, failed.exc_value, failed.exc_traceback)
        structlog.get_logger().error("thread.failed", thread=name, exc_info=exception)


def _finalizer_failed(failed: sys.UnraisableHookArgs) -> None:
    exception = (failed.exc_type, failed.exc_value, failed.exc_traceback)
    kind = type(failed.object).__name__
    structlog.get_logger().error("object.failed", object=kind, message=failed.err_msg, exc_info=exception)


def lines_lost() -> int:
    """Return how many lines of this process's log could not be written."""
    return _writer.lost if _writer is not None else 0


def log_all(lines: Iterable[tuple[LogLevel, str, Mapping[str, object]]], **bound: str) -> None:
    """Log (level, event, fields) of each line, with ``bound`` in all of them: a whole batch in one go."""
    if not (lines := list(lines)):
        return
    renderer = structlog.get_config()["processors"][-1]
    if isinstance(renderer, _JsonLines):
        renderer.write(lines, bound)
        return
    log = structlog.get_logger().bind(**bound)
    for level, event, fields in lines:
        getattr(log, level)(event, **fields)


class _Lines:
    """A logger for structlog; it writes what was rendered."""

    def __init__(self, writer: LogWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.exception = writer.write


class _OfLibraries(logging.Handler):
    """Puts what a library has to say into the log, as a line like any other."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        try:
            message = record.getMessage()
        except Exception as error:  # a library's mistake
            message = f"{record.msg} ({type(error).__name__})"
        level = max(logging.DEBUG, min(record.levelno // 10 * 10, logging.CRITICAL))  # one that has a name
        structlog.get_logger().log(level, "library.message", logger=record.name, message=message)


class _ConsoleLines:
    """Renders a line for people, and a traceback below it."""

    def __init__(self, everywhere: Mapping[str, str]) -> None:
        """``everywhere`` is what every line has."""
        self._everywhere = everywhere
        self._render = structlog.dev.ConsoleRenderer(exception_formatter=_traceback)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        exc_info = event.pop("exc_info", None)
        line = {"timestamp": _iso(datetime.now(UTC)), "level": method, **event, **self._everywhere}
        # What every line has stands first, so that lines can be read below each other.
        order = ("timestamp", "level", "event", *_FIRST, *line)
        shown: EventDict = {escaped(key): _readable(key, line[key]) for key in order if key in line}
        try:
            return str(self._render(logger, method, {**shown, "exc_info": exc_info}))
        except Exception:  # it gives a meaning of its own to some names
            return "  ".join(f"{key}={value}" for key, value in shown.items())


def _readable(key: str, value: object) -> object:
    plain = _plain(key, value)
    return plain if plain is None or isinstance(plain, int | float) else escaped(_text(plain))


def _traceback(out: TextIO, exc_info: ExcInfo) -> None:
    whole = StringIO()
    structlog.dev.plain_traceback(whole, exc_info)
    lines = whole.getvalue().strip("\n").split("\n")
    if len(lines) > 2 * _TRACEBACK_LINES_MAX:
        lines[_TRACEBACK_LINES_MAX:-_TRACEBACK_LINES_MAX] = ["..."]
    # Indented: an error's text may have lines that look like ours.
    out.writelines(f"\n  {escaped(line)}" for line in lines)


class _JsonLines:
    """Renders one line for structlog, or writes many at once, for which structlog would take several times as long."""

    def __init__(self, writer: LogWriter, least: int, everywhere: Mapping[str, str]) -> None:
        """``everywhere`` is what every line has."""
        self._writer, self._everywhere = writer, everywhere
        self._levels = {name.lower() for name, value in logging.getLevelNamesMapping().items() if value >= least}

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        if "exc_info" in event:
            with suppress(Exception):  # whatever an error is like, that it happened is told
                event = _EXCEPTIONS(logger, method, event)
        return self._line(method, datetime.now(UTC), str(event.pop("event")), dict(event))

    def write(self, lines: Iterable[tuple[LogLevel, str, Mapping[str, object]]], bound: Mapping[str, str]) -> None:
        now = datetime.now(UTC)
        # A microsecond apart, so that lines which are sorted by their time keep their order.
        wanted = [line for line in lines if line[0] in self._levels]
        written = [
            self._line(level, now + number * _TICK, event, {**bound, **fields})
            for number, (level, event, fields) in enumerate(wanted)
        ]
        if written:
            self._writer.write("\n".join(written))

    def _line(self, level: str, at: datetime, event: str, fields: dict[str, Any]) -> str:
        line = {"timestamp": at, "level": level, "event": event}
        for key in _FIRST:
            if key in fields:
                line[key] = _plain(key, fields.pop(key))
        for key, value in (*fields.items(), *self._everywhere.items()):
            line[key] = _plain(key, value)
        for encode in (_encoded, _encoded_with_care):
            with suppress(Exception):
                if len(written := encode(line)) <= LINE_MAX:
                    return escaped_json(written)
        cut = {key: escaped(_text(value)) for key, value in line.items()}
        return json.dumps({**cut, "timestamp": _iso(at)})


def _encoded(line: dict[str, Any]) -> str:
    return msgspec.json.format(_ENCODER.encode(line), indent=0).decode()


def _encoded_with_care(line: dict[str, Any]) -> str:
    """Return the JSON of a line with text that no encoding has, or a number of any size."""
    return json.dumps({**line, "timestamp": _iso(line["timestamp"])}, default=_text, allow_nan=False)


_TICK = timedelta(microseconds=1)
_ENCODER = msgspec.json.Encoder(enc_hook=str)
# Without local variables: those of this program hold keys.
_EXCEPTIONS = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))


def _iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _text(value: object, how: Callable[[object], str] = repr) -> str:
    try:
        return value if isinstance(value, str) else how(value)
    except Exception as error:  # what cannot tell what it is must not take the line with it
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _plain(key: str, value: object) -> object:
    """Write routes and ids the way people search for them, and refuse bytes: they may be secrets."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    if isinstance(value, _AS_THEY_ARE):
        return value
    if isinstance(value, tuple):
        return route_name(value) if key in ("route", "split") and all(isinstance(kme, str) for kme in value) else value
    return _text(value, str)


_AS_THEY_ARE = (int, float, list, dict, type(None))
_FIRST = ("service", "kme", "relay_id", "link", "route")
