"""Structured logs: constant dotted events, what varies as key=value; never a secret."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


def set_up_logging(form: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (stdout): JSON lines, or colours on a terminal."""
    out = stream or sys.stdout
    readable = form == "console" or (form == "auto" and out.isatty())
    # Tracebacks without local variables: those of this program hold keys.
    rendering: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if readable
        else [
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _plain_values,
            _in_reading_order,
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr)


def link_name(sender: str, receiver: str) -> str:
    """Return how a direction of a QKD link is written in logs and on screen."""
    return f"{sender}>{receiver}"


def route_name(route: tuple[str, ...]) -> str:
    """Return how a route is written in logs and on screen."""
    return ">".join(route)


def _plain_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Write routes and ids the way people search for them, and refuse bytes: they may be secrets."""
    for key, value in event.items():
        if isinstance(value, bytes | bytearray):
            event[key] = f"<{len(value)} bytes>"
        elif key in ("route", "split") and isinstance(value, tuple):
            event[key] = route_name(value)
        elif not isinstance(value, str | int | float | bool | list | dict | tuple | type(None) | BaseException):
            event[key] = str(value)
    return event


_FIRST = ("timestamp", "level", "event", "service", "kme", "relay_id", "link", "route")


def _in_reading_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put what every line has first, so that lines can be read below each other."""
    return {key: event[key] for key in (*_FIRST, *event) if key in event}
