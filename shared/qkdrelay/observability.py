"""Structured logs: constant dotted events, what varies as key=value; never a secret."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TextIO

import msgspec
import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


def set_up_logging(form: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (stdout): JSON lines, or colours on a terminal."""
    out = stream or sys.stdout
    least = logging.getLevelNamesMapping()[level.upper()]
    readable = form == "console" or (form == "auto" and out.isatty())
    # Tracebacks without local variables: those of this program hold keys.
    processors: list[Processor] = (
        [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _plain_values,
            _in_reading_order,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
        if readable
        else [
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            _JsonLines(out, least),
        ]
    )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr)


def log_all(lines: Iterable[tuple[LogLevel, str, Mapping[str, object]]], **bound: str) -> None:
    """Log (level, event, fields) of each line, with ``bound`` in all of them: a whole batch in one go."""
    renderer = structlog.get_config()["processors"][-1]
    if isinstance(renderer, _JsonLines):
        renderer.write(lines, bound)
        return
    log = structlog.get_logger().bind(**bound)
    for level, event, fields in lines:
        getattr(log, level)(event, **fields)


class _JsonLines:
    """Renders one line for structlog, or writes many at once, for which structlog would take several times as long."""

    def __init__(self, out: TextIO, least: int) -> None:
        # The logger's own way to write whole lines: the thread of the broker logs, too.
        self._out = structlog.WriteLogger(out)
        self._levels = {name.lower() for name, value in logging.getLevelNamesMapping().items() if value >= least}

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> str:
        level = "error" if method == "exception" else method
        return self._line(level, datetime.now(UTC), str(event.pop("event")), dict(event))

    def write(self, lines: Iterable[tuple[LogLevel, str, Mapping[str, object]]], bound: Mapping[str, str]) -> None:
        now = datetime.now(UTC)
        # A microsecond apart, so that lines which are sorted by their time keep their order.
        wanted = [line for line in lines if line[0] in self._levels]
        written = [
            self._line(level, now + number * _TICK, event, {**bound, **fields})
            for number, (level, event, fields) in enumerate(wanted)
        ]
        if written:
            self._out.msg("\n".join(written))

    @staticmethod
    def _line(level: str, at: datetime, event: str, fields: dict[str, Any]) -> str:
        line = {"timestamp": at, "level": level, "event": event}
        for key in _FIRST:
            if key in fields:
                line[key] = _plain(key, fields.pop(key))
        for key, value in fields.items():
            line[key] = _plain(key, value)
        return msgspec.json.format(_ENCODER.encode(line), indent=0).decode()


_TICK = timedelta(microseconds=1)
_ENCODER = msgspec.json.Encoder(enc_hook=str)


def link_name(sender: str, receiver: str) -> str:
    """Return how a direction of a QKD link is written in logs and on screen."""
    return f"{sender}>{receiver}"


def route_name(route: tuple[str, ...]) -> str:
    """Return how a route is written in logs and on screen."""
    return ">".join(route)


def _plain(key: str, value: object) -> object:
    """Write routes and ids the way people search for them, and refuse bytes: they may be secrets."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    if key in ("route", "split") and isinstance(value, tuple):
        return route_name(value)
    if not isinstance(value, int | float | bool | list | dict | tuple | type(None) | BaseException):
        return str(value)
    return value


def _plain_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        event[key] = _plain(key, value)
    return event


_FIRST = ("service", "kme", "relay_id", "link", "route")


def _in_reading_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put what every line has first, so that lines can be read below each other."""
    return {key: event[key] for key in ("timestamp", "level", "event", *_FIRST, *event) if key in event}
