"""Settings of the page."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, SecretStr

from qkdrelay.network.names import PAGE
from qkdrelay.service.logs import LogFormat, LogLevel
from qkdrelay.service.settings import BrokerSettings, HexKey, HttpAddress


def _names(value: str) -> str:
    if any(not name.strip() for name in value.split(",") if value):
        raise ValueError("must be names with commas between, such as qkd.example.org,qkd")
    return value


class PageSettings(BrokerSettings):
    """The settings of `coordinator page`."""

    broker_user: str = PAGE
    broker_password: SecretStr
    page_key: HexKey
    """Shared with the coordinator; it can ask by it what a viewer may, and nothing more."""
    page: HttpAddress
    """Address that the page is served at."""
    page_hosts: Annotated[str, AfterValidator(_names)] = ""
    """Names, beside localhost and addresses, under which browsers reach it: that of a proxy, say; commas between."""
    http: HttpAddress | None = None
    """Address of health and metrics; not served unless set."""
    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names, in small letters."""
        return tuple(name.strip().lower() for name in self.page_hosts.split(",") if name)
