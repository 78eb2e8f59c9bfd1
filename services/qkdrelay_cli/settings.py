"""Settings of the command line."""

from __future__ import annotations

from typing import Annotated

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from qkdrelay.broker.rabbitmq.settings import DEFAULT_PORT
from qkdrelay.network.names import CLI
from qkdrelay.service.settings import PREFIX, Addresses, BrokerSettings, HexKey, OrNothing


class CliSettings(BrokerSettings):
    """Settings of the command line; read from ``.env`` in the working directory, too."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", hide_input_in_errors=True, frozen=True
    )

    broker: Addresses = f"127.0.0.1:{DEFAULT_PORT}"
    cli_user: str = CLI
    cli_password: SecretStr
    """For the broker, which gets to see it."""
    cli_key: HexKey
    """Shared with the coordinator, and with nobody else."""
    coordinator: Annotated[Addresses | None, *OrNothing] = None
    """The broker of the coordinator's site, where this is another: answers are read there, by certificate."""
