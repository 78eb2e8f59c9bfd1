"""Settings from the environment, validated at start: what is wrong is named, with what would be right."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from qkdrelay.broker.names import VHOST
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
from qkdrelay.errors import SettingsError
from qkdrelay.messages.link import BUNDLE_MAX
from qkdrelay.network.names import KME_NAME, KME_NAME_RULE, site_user
from qkdrelay.service.logs import LogFormat, LogLevel

PREFIX = "QKDRELAY_"
_HTTP = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([a-zA-Z0-9.-]+)):([0-9]{1,5})")
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")
_KEY_LIKE = re.compile(r"[0-9a-f-]{16,}")
_KIND: Final = "="
JSON_MAX: Final = 128 * 1024
"""Characters of JSON in one setting; as much as Linux lets one environment variable have."""


def _hex_key(value: SecretStr) -> SecretStr:
    if not _HEX_KEY.fullmatch(value.get_secret_value()):
        raise ValueError("must be 64 hexadecimal digits (32 bytes)")
    return value


def _addresses(value: str) -> str:
    try:
        RabbitMqSettings(addresses=value, user="", password="")
    except SettingsError as error:
        raise ValueError(f"{error} ({error.hint})") from None
    return value


def _http_address(value: object) -> tuple[str, int]:
    found = _HTTP.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[3]) > 65535:
        raise ValueError("must be host:port, such as 0.0.0.0:9464")
    return found[1] or found[2], int(found[3])


def _json_object(text: object, named: str = "KME", such: str = "kme-2") -> object:
    """Read a JSON object by names of what is ``named`` so; ValueError without anything of it: it holds secrets."""
    if not isinstance(text, str):
        return text
    if len(text) > JSON_MAX:
        raise ValueError(f"must be a JSON object of at most {JSON_MAX} characters")
    try:
        value = json.loads(text, object_pairs_hook=_members, parse_constant=_refuse_constant)
    except _DoubledNameError:
        raise
    except (ValueError, RecursionError):
        raise ValueError(f'must be a JSON object, such as {{"{such}": ...}}') from None
    names = value if isinstance(value, dict) else ()
    for number, name in enumerate(names, 1):
        if not KME_NAME.fullmatch(name):
            raise ValueError(f"entry {number} has a name that no {named} can have: {KME_NAME_RULE}")
    return value


class _DoubledNameError(ValueError):
    """A name stands twice in one JSON object."""


def _members(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of its members; JSON itself would let the last of a name win."""
    found = dict(members)
    if len(found) < len(members):
        twice = next(name for name, times in Counter(name for name, _ in members).items() if times > 1)
        raise _DoubledNameError(f"the name {twice} stands twice" if _may_show(twice) else "a name stands twice")
    return found


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is no number of JSON")


def _may_show(name: str) -> bool:
    """Whether a name from a setting may be repeated: it may be a KME's, and it is no key that slipped there."""
    return KME_NAME.fullmatch(name) is not None and _KEY_LIKE.fullmatch(name) is None


KmeName = Annotated[str, Field(pattern=rf"^{KME_NAME.pattern}$")]  # pydantic's engine knows `$` as the very end
JsonObject = (NoDecode, BeforeValidator(_json_object))
"""Annotates a dict by KME that comes as JSON in one variable."""
JsonOfSites = (NoDecode, BeforeValidator(partial(_json_object, named="site", such="berlin")))
"""The same, by site."""
OrNothing = (BeforeValidator(lambda value: value or None),)
"""Annotates what is not set if it is empty: a compose file cannot leave a variable out."""
HttpAddress = Annotated[tuple[str, int], BeforeValidator(_http_address), NoDecode]
HexKey = Annotated[SecretStr, AfterValidator(_hex_key)]
"""32 secret bytes in hexadecimal digits."""
Addresses = Annotated[str, AfterValidator(_addresses)]


def kind_tag(setting: str, value: str) -> str:
    """Return the tag of the one of several kinds of settings that has this value; no name of a setting looks so."""
    return f"{setting}{_KIND}{value}"


def key_bytes(key: SecretStr) -> bytes:
    """Return the bytes of a `HexKey`."""
    return bytes.fromhex(key.get_secret_value())


class BrokerSettings(BaseSettings):
    """Settings of the way to the message broker."""

    # Validation errors must not repeat their input: it may be a password.
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", hide_input_in_errors=True, frozen=True)

    broker: Addresses
    broker_vhost: str = VHOST
    broker_tls: Annotated[Path | None, *OrNothing] = None
    """With this directory of certificates, by TLS (`qkdrelay.broker.rabbitmq.tls`)."""
    site: Annotated[str, Field(pattern=rf"^({KME_NAME.pattern})?$")] = ""
    """The site it is at; empty where there is one for all."""
    site_tls: Annotated[Path | None, *OrNothing] = None
    """Directory of the certificate by which the brokers of other sites know this one."""

    def at_site(self, broker: str, name: str) -> RabbitMqSettings:
        """Return the way of ``name`` to the ``broker`` of another site; SettingsError without what it is known by."""
        if not self.site or self.site_tls is None:
            hint = "other sites' brokers know this one by its certificate"
            raise SettingsError("QKDRELAY_SITE and QKDRELAY_SITE_TLS must be set", hint=hint)
        return RabbitMqSettings(
            addresses=broker,
            user=site_user(self.site),
            password=None,
            tls=self.site_tls,
            vhost=self.broker_vhost,
            service=name,
        )


class SiteSettings(BaseModel):
    """Another site, at whose broker a service reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    broker: Addresses
    """Where it takes AMQPS."""
    kmes: tuple[KmeName, ...] = ()
    """Those there that write what is read."""
    coordinator: bool = False
    """Whether the coordinator is there."""


class ServiceSettings(BrokerSettings):
    """Settings of every service."""

    broker_user: str = ""
    """The service's own name, unless set."""
    broker_password: SecretStr
    store: Path
    lab: bool = False
    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"
    http: HttpAddress | None = None
    """Address of health and metrics; not served unless set."""
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

    def elsewhere(self, name: str, site: str, broker: str, queues: tuple[str, ...]) -> RabbitMqSettings:
        """Return the way of the service called ``name`` to the ``broker`` of another ``site``, to read ``queues``."""
        return replace(self.at_site(broker, name), queues=queues, site=site, prefetch=self.prefetch)


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S], **given: Any) -> S:
    """Return settings of ``kind`` from the environment, or raise SettingsError naming each variable that is wrong."""
    spelt = Counter(name.upper() for name in os.environ if name.upper().startswith(PREFIX))
    if twice := [name for name, times in spelt.items() if times > 1]:
        raise SettingsError(f"{twice[0]} is set twice, in capital and in small letters", hint="unset one of them")
    try:
        return kind(**given)
    except ValidationError as error:
        wrong = [_variable(e) + _what(e) for e in error.errors(include_input=False, include_url=False)]
        raise SettingsError("; ".join(wrong[:5])) from None


def _variable(error: Any) -> str:
    """Name the variable; nothing for what is wrong with several together, whose message names them."""
    if not error["loc"]:
        return ""
    first, *rest = map(str, error["loc"])
    if error["type"] == "extra_forbidden" and not _may_show(rest[-1].replace("_", "-")):
        rest.pop()  # none of our names: it may be anything, a secret too
    shown = (part for part in rest if _KIND not in part and not _KEY_LIKE.fullmatch(part))
    return PREFIX + first.upper() + "".join(f"[{part}]" for part in shown) + ": "


def _what(error: Any) -> str:
    if error["type"] == "missing":
        return "must be set"
    if error["type"] == "extra_forbidden":
        kinds = [part for part in map(str, error["loc"][:-1]) if _KIND in part]
        return "unknown entry" + "".join(f" with {kind}" for kind in kinds)
    message: str = error["msg"]
    return message.removeprefix("Value error, ")
