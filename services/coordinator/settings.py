"""The coordinator's settings, and those of its command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from qkdrelay.broker.names import CLI
from qkdrelay.settings import PREFIX, Addresses, BrokerSettings, HexKey, JsonObject, KmeName, ServiceSettings


class CoordinatorSettings(ServiceSettings):
    """What `coordinator serve` is told; never a link secret."""

    topology: Path
    control_keys: Annotated[dict[KmeName, HexKey], *JsonObject]
    cli_key: HexKey
    """Shared with the command line: requests and answers are signed with it."""


class CliSettings(BrokerSettings):
    """What the command line is told; read from ``.env`` in the working directory, too."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", hide_input_in_errors=True, frozen=True
    )

    broker: Addresses = "127.0.0.1:5672"
    cli_user: str = CLI
    cli_password: SecretStr
    """For the broker, which gets to see it."""
    cli_key: HexKey
    """Shared with the coordinator, and with nobody else."""
