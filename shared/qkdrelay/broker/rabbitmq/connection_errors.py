"""Errors of a connection to RabbitMQ, in a line and a hint for the person at the terminal."""

from __future__ import annotations

import socket
from typing import Final

from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout
from pika.exceptions import (
    AuthenticationError,
    ChannelClosed,
    ConnectionClosed,
    ConnectionClosedByBroker,
    ConnectionOpenAborted,
    IncompatibleProtocolError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from qkdrelay.broker.rabbitmq.settings import DEFAULT_PORT, DEFAULT_TLS_PORT, RabbitMqSettings
from qkdrelay.broker.rabbitmq.tls import tls_fault
from qkdrelay.errors import BrokerUnreachableError, SettingsError

HINT_PROVISION: Final = "load the broker's definitions of this network (users, queues, permissions) first"


def explain(error: BaseException, settings: RabbitMqSettings, address: tuple[str, int]) -> BrokerUnreachableError:
    """Turn what pika raised on connecting to ``address`` (host, port) into one line and a hint."""
    where = f"{address[0]}:{address[1]}"
    hint: str | None
    cause = _cause(error)
    if settings.tls is not None and (fault := tls_fault(str(cause), where, settings.tls, DEFAULT_TLS_PORT)):
        return BrokerUnreachableError(fault[0], hint=fault[1])
    match cause:
        case SettingsError():
            message, hint = f"cannot connect to the broker at {where}: {cause}", cause.hint
        case AuthenticationError() | ProbableAuthenticationError():
            message, hint = _not_let_in(settings, where)
        case (ProbableAccessDeniedError() | ConnectionClosedByBroker()) as refusal if "not found" in str(refusal):
            message, hint = f"the broker at {where} has no virtual host {settings.vhost!r}", HINT_PROVISION
        case ProbableAccessDeniedError():
            message = f"the broker at {where} does not let user {settings.user!r} into {settings.vhost!r}"
            hint = HINT_PROVISION
        case IncompatibleProtocolError():
            # A published port of a container accepts, and hangs up, before the broker inside is ready.
            message = f"what answers at {where} is no AMQP broker, or none that is ready"
            hint = f"is the broker still starting? AMQP's usual port is {DEFAULT_PORT}"
            if settings.tls is None:
                message += ", or it wants TLS"
                hint += f"; for TLS, usually at {DEFAULT_TLS_PORT}, set QKDRELAY_BROKER_TLS"
        case socket.gaierror() | UnicodeError():  # the latter for what cannot be a host's name
            message, hint = f"the broker's host {address[0]!r} is unknown", "check the address"
        case ConnectionRefusedError():
            message = f"nothing answers at {where}"
            hint = "look whether the broker is running and the port is right"
        case ConnectionResetError() | BrokenPipeError():
            message = f"what answers at {where} hung up: {cause}"
            hint = "is the broker still starting?"
        # The last is what pika raises when its own time-out has closed what was being opened.
        case TimeoutError() | AMQPConnectorStackTimeout() | ConnectionOpenAborted():
            message = f"no answer from {where} within {settings.connect_timeout_s:g} s"
            hint = "look whether the broker is running and can be reached from here"
        case other:
            message, hint = f"cannot connect to the broker at {where}: {describe(other)}", None
    return BrokerUnreachableError(message, hint=hint)


def _not_let_in(settings: RabbitMqSettings, where: str) -> tuple[str, str]:
    if settings.password is None:
        return (
            f"the broker at {where} does not let {settings.user!r} in by its certificate",
            "that site must know of this one: provision both of the same topology",
        )
    return (
        f"the broker at {where} does not accept user {settings.user!r} with this password",
        "check the user and the password",
    )


def blocked(reason: str) -> BrokerUnreachableError:
    """Say that the broker takes nothing, for the ``reason`` that it gives: "low on memory", "low on disk"."""
    return BrokerUnreachableError(
        f"the broker takes nothing: {reason or 'it gives no reason'}",
        hint="make room there, or raise its limit; what was asked for may still be carried out once it goes on",
    )


def describe(error: object) -> str:
    """Put an error of pika's into words; many of them have none of their own."""
    if isinstance(error, BaseException):
        error = _cause(error)
    if isinstance(error, ConnectionClosed | ChannelClosed):
        return f"{error.reply_code} {error.reply_text}"
    if isinstance(error, BaseException):
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return str(error)


def _cause(error: BaseException) -> BaseException:
    """Unwrap what pika's connection workflow has wrapped."""
    while isinstance(inner := _inner(error), BaseException):
        error = inner
    return error


def _inner(error: BaseException) -> object:
    """Return the error that ``error`` merely wraps, or None."""
    for attribute in ("exceptions", "exception"):
        inner = getattr(error, attribute, None)
        if inner:
            return inner[-1] if isinstance(inner, list | tuple) else inner
    return error.args[0] if error.args and isinstance(error.args[0], BaseException) else None
