"""Settings from the environment, validated at start: what is wrong is named, with what would be right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from qkdrelay.broker.names import VHOST
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
from qkdrelay.errors import SettingsError
from qkdrelay.messages import BUNDLE_MAX
from qkdrelay.observability import LogFormat, LogLevel

PREFIX = "QKDRELAY_"
_HTTP = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([a-zA-Z0-9.-]+)):([0-9]{1,5})")
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")


def _hex_key(value: SecretStr) -> SecretStr:
    if not _HEX_KEY.fullmatch(value.get_secret_value()):
        raise ValueError("must be 64 hexadecimal digits (32 bytes)")
    return value


def _addresses(value: str) -> str:
    try:
        RabbitMqSettings(addresses=value, user="", password="")
    except SettingsError as error:
        raise ValueError(str(error)) from None
    return value


def _http_address(value: object) -> tuple[str, int]:
    found = _HTTP.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[3]) > 65535:
        raise ValueError("must be host:port, such as 0.0.0.0:9464")
    return found[1] or found[2], int(found[3])


HttpAddress = Annotated[tuple[str, int], BeforeValidator(_http_address), NoDecode]
HexKey = Annotated[SecretStr, AfterValidator(_hex_key)]
"""32 secret bytes in hexadecimal digits."""
Addresses = Annotated[str, AfterValidator(_addresses)]


def key_bytes(key: SecretStr) -> bytes:
    """Return the bytes of a `HexKey`."""
    return bytes.fromhex(key.get_secret_value())


class BrokerSettings(BaseSettings):
    """Where the message broker is."""

    # Validation errors must not repeat their input: it may be a password.
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", hide_input_in_errors=True, frozen=True)

    broker: Addresses
    broker_vhost: str = VHOST
    broker_tls: Annotated[Path | None, BeforeValidator(lambda value: value or None)] = None
    """With this directory of certificates, by TLS (`qkdrelay.broker.rabbitmq.tls`)."""


class ServiceSettings(BrokerSettings):
    """What every service is told."""

    broker_user: str = ""
    """The service's own name, unless set."""
    broker_password: SecretStr
    store: Path
    lab: bool = False
    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"
    http: HttpAddress | None = None
    """Where health and metrics are served; nowhere unless set."""
    prefetch: Annotated[int, Field(ge=1, le=2_000)] = 64

    def rabbitmq(self, name: str, queues: tuple[str, ...]) -> RabbitMqSettings:
        """Return the way to the broker of the service called ``name``, consuming ``queues``."""
        return RabbitMqSettings(
            addresses=self.broker,
            user=self.broker_user or name,
            password=self.broker_password.get_secret_value(),
            tls=self.broker_tls,
            vhost=self.broker_vhost,
            queues=queues,
            prefetch=self.prefetch,
            bundle_max=BUNDLE_MAX,
        )


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S], **given: Any) -> S:
    """Return settings of ``kind`` from the environment, or raise SettingsError naming each variable that is wrong."""
    try:
        return kind(**given)
    except ValidationError as error:
        wrong = [_variable(e["loc"]) + _what(e) for e in error.errors(include_input=False, include_url=False)]
        raise SettingsError("; ".join(wrong[:5])) from None
    except Exception as error:  # a value that is not JSON where JSON is asked for
        name = getattr(error, "args", ("a setting",))[0]
        field = re.search(r'field "(\w+)"', str(name))
        variable = f"{PREFIX}{field[1].upper()}" if field else "a setting"
        raise SettingsError(f"{variable}: must be a JSON object", hint='for example {"kme-2": {...}}') from None


def _variable(location: tuple[int | str, ...]) -> str:
    """Name the variable; nothing for what is wrong with several together, whose message names them."""
    if not location:
        return ""
    first, *rest = (str(part) for part in location)
    return PREFIX + first.upper() + "".join(f"[{part}]" for part in rest) + ": "


def _what(error: Any) -> str:
    if error["type"] == "missing":
        return "must be set"
    message: str = error["msg"]
    return message.removeprefix("Value error, ")
