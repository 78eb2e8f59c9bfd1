"""The command line's way to the coordinator: by what the environment or ``.env`` says."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from qkdrelay.broker.port import Client
from qkdrelay.client import ANSWER_S, CoordinatorClient
from qkdrelay.errors import SettingsError
from qkdrelay.messages.answers import ReplyBody
from qkdrelay.messages.requests import RequestBody

if TYPE_CHECKING:
    from qkdrelay_cli.settings import CliSettings

MISSING_KEY = "QKDRELAY_CLI_KEY: must be set"

R = TypeVar("R", bound=ReplyBody)


def connected_client(watch: Sequence[str] = ()) -> Client:
    """Return a client of the broker that the environment or ``.env`` names; SettingsError, BrokerUnreachableError."""
    return _connected(_settings(), watch)


def _settings() -> CliSettings:
    from qkdrelay.service.settings import load
    from qkdrelay_cli.settings import CliSettings

    _check_dotenv(Path(".env"))
    try:
        return load(CliSettings)
    except SettingsError as error:
        hint = error.hint or "run this where the deployment's .env is, or set the variable"
        if str(error) == MISSING_KEY:
            hint = f"an .env from before there was such a key gets one by `make up`; else {hint}"
        raise SettingsError(str(error), hint=hint) from None


def _connected(settings: CliSettings, watch: Sequence[str] = ()) -> Client:
    from qkdrelay.broker.rabbitmq.client import RabbitMqClient
    from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
    from qkdrelay.broker.rabbitmq.site_client import SiteClient
    from qkdrelay.network.names import CLI

    way = RabbitMqSettings(
        addresses=settings.broker,
        user=settings.cli_user,
        password=settings.cli_password.get_secret_value(),
        vhost=settings.broker_vhost,
        tls=settings.broker_tls,
    )
    if settings.coordinator is None:
        return RabbitMqClient(way, watch=watch)
    if watch:
        hint = "`coordinator show RELAY --follow` follows one that begins or ends here"
        raise SettingsError("what KMEs report is to be seen at the coordinator's site alone", hint=hint)
    return SiteClient(way, settings.at_site(settings.coordinator, CLI), settings.site)


def _check_dotenv(path: Path) -> None:
    """Raise SettingsError for what compose might read differently: the coordinator has its password from compose."""
    from qkdrelay.service import dotenv_file

    try:
        dotenv_file.read(path)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}", hint="only its owner may read it") from None


@contextmanager
def opened() -> Iterator[CoordinatorClient]:
    """Open a connection for the time of a ``with``."""
    from qkdrelay.service.settings import key_bytes

    settings = _settings()
    with _connected(settings) as connection:
        yield CoordinatorClient(connection, key_bytes(settings.cli_key))


def ask(body: RequestBody, kind: type[R], wait_s: float = ANSWER_S) -> R:
    """Return the coordinator's answer to one request; see `CoordinatorClient.ask`."""
    with opened() as coordinator:
        return coordinator.ask(body, kind, wait_s)
