"""``.env`` of a deployment: its secrets and settings, those that are there kept."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Final

from qkdrelay.broker.rabbitmq.settings import DEFAULT_PORT, DEFAULT_TLS_PORT
from qkdrelay.errors import SettingsError
from qkdrelay.network.names import CLI
from qkdrelay.service.dotenv_file import assignment
from qkdrelay_deployment.compose import CLUSTER_OVERLAY, COMPOSE_BASE, STANDBY_OVERLAY, TLS_FOLDER, TLS_OVERLAY
from qkdrelay_deployment.variables import (
    AMQP_PORTS,
    AMQPS_PORT,
    APPLICATIONS_ADDRESS,
    APPLICATIONS_PORT,
    CLI_KEY,
    COOKIE,
    MANAGEMENT_PORT,
    PAGE_KEY,
    PAGE_PORT,
    REMEMBERED,
    SITE,
    WITHSTAND_DEFAULT,
    Deployed,
    applications_port_variable,
    control_key_variable,
    link_secret_variable,
    password_variable,
    site_key_variable,
    withstand_variable,
)

SECRET_BYTES: Final = 32

_SECRET = re.compile(rf"[0-9a-f]{{{2 * SECRET_BYTES}}}")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*")
_PORT = re.compile(r"[0-9]{1,5}")
_PORTS_END = 1 << 16
_SUBSTITUTED = re.compile(r"\$\{([A-Z0-9_]+)")
_LAB, _BROKER, _TLS = "QKDRELAY_LAB", "QKDRELAY_BROKER", "QKDRELAY_BROKER_TLS"
OVERLAYS: Final = "COMPOSE_FILE"
"""The compose file, and what is laid over it."""
_ADDRESSES, _PORT_INSIDE = "BROKER_ADDRESSES", "BROKER_PORT"
DEPLOYMENT: Final = "QKDRELAY_DEPLOYMENT"
"""Changes when, and only when, the running broker and coordinator must be replaced."""


def environment_values(
    deployed: Deployed,
    kept: Mapping[str, str],
    environment: Mapping[str, str],
    brokers: Sequence[str],
    *,
    lab: bool,
    tls: bool,
    standby: bool = False,
) -> dict[str, str]:
    """Return all that ``.env`` is to hold but `DEPLOYMENT`: what it has (``kept``), new secrets, and settings.

    ``brokers`` names the broker's services; with ``standby`` there is a second coordinator. SettingsError for what is
    kept, or in the environment, and cannot be.
    """
    values = dict(kept)
    for name, default in REMEMBERED.items():
        if value := environment.get(name) or kept.get(name) or default:
            values[name] = value
    if not _PROJECT.fullmatch(values["COMPOSE_PROJECT_NAME"]):
        raise SettingsError("COMPOSE_PROJECT_NAME is no name of a project", hint="a-z, 0-9, '-' and '_'")
    for name in (*AMQP_PORTS, MANAGEMENT_PORT, PAGE_PORT, APPLICATIONS_PORT):
        if not (_PORT.fullmatch(values[name]) and 0 < int(values[name]) < _PORTS_END):
            raise SettingsError(f"{name} is no port to publish", hint="a number from 1 to 65535")
    if not _is_ipv4(values[APPLICATIONS_ADDRESS]):
        hint = "one of this host, such as 192.0.2.7; 0.0.0.0 for all of them"
        raise SettingsError(f"{APPLICATIONS_ADDRESS} is no IPv4 address to publish at", hint=hint)
    values |= _applications_ports(deployed, int(values[APPLICATIONS_PORT]))
    for name in (COOKIE, *map(password_variable, deployed.users)):
        values[name] = kept.get(name) or _new_secret()
    keys = [CLI_KEY, PAGE_KEY] if deployed.has_coordinator else []
    keys += shared_variables(deployed)
    for name in keys:
        values[name] = _key(name, kept.get(name))
    for name in map(withstand_variable, deployed.kmes):
        values[name] = _withstand(name, environment.get(name) or kept.get(name) or WITHSTAND_DEFAULT)
    values[_LAB] = "true" if lab else "false"
    _switch_broker(values, brokers, tls=tls, standby=standby)
    return values


def variables_of(deployed: Deployed) -> list[str]:
    """Name all variables of a deployment, those that it has in common with others too."""
    return [name for _, members in _sections(deployed) for name in members]


def shared_variables(deployed: Deployed) -> list[str]:
    """Name the secrets that others have, too: keys with the coordinator, and what simulated links draw theirs from."""
    names = [*map(control_key_variable, deployed.controlled), *map(site_key_variable, deployed.asking)]
    return names + [link_secret_variable(*link) for link in deployed.links]


def _is_ipv4(text: str) -> bool:
    try:
        return str(IPv4Address(text)) == text
    except ValueError:
        return False


def _applications_ports(deployed: Deployed, first: int) -> dict[str, str]:
    """Return the ports that the KMEs serve applications at, from ``first`` on; none where no SAEs are named."""
    if not deployed.has_applications:
        return {}
    if first + len(deployed.kmes) > _PORTS_END:
        hint = f"a number up to {_PORTS_END - len(deployed.kmes)}"
        raise SettingsError(f"{APPLICATIONS_PORT} leaves too few ports for {len(deployed.kmes)} KMEs", hint=hint)
    return {applications_port_variable(kme): str(port) for port, kme in enumerate(deployed.kmes, first)}


def _switch_broker(values: dict[str, str], brokers: Sequence[str], *, tls: bool, standby: bool) -> None:
    """Set in ``.env`` how the broker is reached: from the containers, and by the command line on this host."""
    port = DEFAULT_TLS_PORT if tls else DEFAULT_PORT
    ports = [values[name] for name in AMQP_PORTS[: len(brokers)]]
    values[_PORT_INSIDE] = str(port)
    values[_ADDRESSES] = ",".join(f"{name}:{port}" for name in brokers)
    values[_BROKER] = ",".join(f"127.0.0.1:{published}" for published in ports)
    overlays = [TLS_OVERLAY] * tls + [CLUSTER_OVERLAY] * (len(brokers) > 1)
    overlays += [STANDBY_OVERLAY] * standby
    for name in (_TLS, OVERLAYS):
        values.pop(name, None)
    if tls:
        values[_TLS] = f"{TLS_FOLDER}/{CLI}"
    if overlays:
        values[OVERLAYS] = ":".join([COMPOSE_BASE, *overlays])


def check_environment(
    deployed: Deployed, values: Mapping[str, str], composed: str, environment: Mapping[str, str]
) -> None:
    """Raise SettingsError for a variable that compose would take from the environment, and we from ``.env``."""
    decided = {OVERLAYS: COMPOSE_BASE, **values}
    compose_reads = {OVERLAYS, COOKIE, *_SUBSTITUTED.findall(composed)}
    for name in variables_of(deployed):
        if name in compose_reads and name in decided and environment.get(name, decided[name]) != decided[name]:
            raise SettingsError(f"{name} in the environment is not what .env has", hint=f"unset {name}")


def _key(name: str, kept: str | None) -> str:
    if not kept:
        return _new_secret()
    if not _SECRET.fullmatch(kept):
        raise SettingsError(
            f"{name} in .env is not {2 * SECRET_BYTES} hexadecimal digits",
            hint="restore it; or delete the line, and a new one is made",
        )
    return kept


def _withstand(name: str, value: str) -> str:
    if value not in ("0", "1", "2", "3"):
        raise SettingsError(f"{name} is no number that can be demanded", hint="how many compromised KMEs: 0, 1, 2 or 3")
    return value


def _new_secret() -> str:
    return secrets.token_hex(SECRET_BYTES)


def dotenv_text(deployed: Deployed, values: Mapping[str, str]) -> str:
    """Return the text of ``.env``, in sections; SettingsError for a value that no line can hold."""
    rest = dict(values)
    lines = ["# Made by `coordinator provision`: this deployment's secrets and settings. Show it to nobody."]
    for title, members in _sections(deployed):
        found = [assignment(name, rest.pop(name)) for name in members if name in rest]
        lines += ["", f"# {title}", *found] if found else []
    if rest:
        lines += [
            "",
            "# Not of this network; kept as found",
            *(assignment(name, value) for name, value in rest.items()),
        ]
    return "\n".join(lines) + "\n"


def _sections(deployed: Deployed) -> Iterator[tuple[str, list[str]]]:
    yield (
        "Settings. Environment variables of the same name go before them",
        [SITE, _LAB, _BROKER, _TLS, DEPLOYMENT, *REMEMBERED, AMQPS_PORT, _ADDRESSES, _PORT_INSIDE, OVERLAYS],
    )
    if deployed.has_applications:
        ports = [applications_port_variable(kme) for kme in deployed.kmes]
        yield f"Ports at which KMEs serve applications, from {APPLICATIONS_PORT} on", ports
    yield "What the broker's nodes have in common, where there are several", [COOKIE]
    yield "Passwords of the broker's users", [password_variable(user) for user in reversed(deployed.users)]
    yield (
        "How many compromised KMEs a plan must withstand for a KME to be an end of it, 0 to 3. With 0 at both ends\n"
        "# `coordinator relay --allow-unprotected` relays keys that KMEs on the way could learn",
        [withstand_variable(kme) for kme in deployed.kmes],
    )
    if deployed.has_coordinator:
        yield (
            "Keys between the coordinator and its command line, and the page; the broker must not have them",
            [CLI_KEY, PAGE_KEY],
        )
    yield (
        "Keys between the coordinator and each KME",
        [control_key_variable(kme) for kme in deployed.controlled],
    )
    if deployed.asking:
        yield (
            "Keys between the coordinator and the command lines of other sites",
            [site_key_variable(site) for site in deployed.asking],
        )
    if deployed.links:
        yield (
            "What the simulated QKD links draw their keys from: who has one has all of that link's key.\n"
            "# docs/operating.md says how to renew one",
            [link_secret_variable(*link) for link in deployed.links],
        )
