"""What a deployment needs, from a topology: compose file, secrets, and the broker's configuration.

Secrets live in one file, ``.env``, readable by its owner alone; the compose file names them and
hands each service its own. What is mounted into the broker holds salted hashes only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from qkdrelay.broker.definitions import definitions
from qkdrelay.errors import SettingsError, TopologyError
from qkdrelay.escaping import escaped
from qkdrelay.network.names import CLI, COORDINATOR, SERVICE_USERS
from qkdrelay.network.topology import Topology
from qkdrelay.service import dotenv_file
from qkdrelay.service.dotenv_file import assignment
from qkdrelay_deployment.certificates import AUTHORITY_KEY, CERTIFICATE, certificate_files
from qkdrelay_deployment.compose import (
    BROKER_SERVICE,
    CLI_KEY,
    CLUSTER_NODES,
    CLUSTER_SERVICES,
    WITHSTAND_DEFAULT,
    compose_file,
    control_key_variable,
    link_secret_variable,
    link_settings,
    password_variable,
    tls_overlay,
    withstand_variable,
)
from qkdrelay_deployment.rabbitmq_conf import PORT, TLS_PORT, rabbitmq_conf

__all__ = ["compose_file", "write_deployment"]

SECRET_BYTES: Final = 32

REMEMBERED: Final = {
    "PYTHON_IMAGE": None,
    "RABBITMQ_IMAGE": None,
    "QKDRELAY_IMAGE": None,
    "COMPOSE_PROJECT_NAME": "qkdrelay",
    "QKDRELAY_AMQP_PORT": "5672",
    "QKDRELAY_AMQP_PORT_2": "5673",
    "QKDRELAY_AMQP_PORT_3": "5674",
    "QKDRELAY_MANAGEMENT_PORT": "15672",
}
"""Settings taken over from the environment into ``.env``, so that later commands agree with the first one."""

AMQP_PORTS: Final = ("QKDRELAY_AMQP_PORT", "QKDRELAY_AMQP_PORT_2", "QKDRELAY_AMQP_PORT_3")
TLS_OVERLAY: Final = "deploy/tls.yml"
CLUSTER_OVERLAY: Final = "infra/cluster/docker-compose.yml"
_BROKER_HOSTS: Final = (*CLUSTER_SERVICES, "localhost", "127.0.0.1", "::1")

_SECRET = re.compile(r"[0-9a-f]{64}")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*")
_PORT = re.compile(r"[0-9]{1,5}")
_SUBSTITUTED = re.compile(r"\$\{([A-Z0-9_]+)")


def write_deployment(
    topology: Topology,
    directory: Path,
    *,
    lab: bool = False,
    tls: bool = False,
    cluster: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> list[Path]:
    """Write all that a deployment of ``topology`` needs into ``directory``; return the files, in order.

    Secrets that ``.env`` already holds are kept, and certificates that are good for another while, so doing it
    twice changes nothing. ``lab`` switches the lab on or off, ``tls`` TLS to the broker, ``cluster`` three broker
    nodes instead of one. Raises TopologyError for a network that cannot be deployed, SettingsError for a
    directory that cannot be written, or for a secret or a certificate authority there that cannot be one.
    """
    brokers = CLUSTER_SERVICES if cluster else (BROKER_SERVICE,)
    _check_deployable(topology, brokers)
    dotenv = directory / ".env"
    deploy = directory / "deploy"
    try:
        kept = dotenv_file.read(dotenv)
        passwords = {user: kept.get(password_variable(user)) or _secret() for user in _users(topology)}
        values = _values(topology, kept, passwords, environment)
        values["QKDRELAY_LAB"] = "true" if lab else "false"
        _switch_broker(values, brokers, tls=tls)
        composed = compose_file(topology)
        _check_environment(topology, values, composed, environment)
        loaded = definitions(topology.kmes, topology.links, passwords, lab=lab)
        configuration = rabbitmq_conf(tls=tls, nodes=CLUSTER_NODES if cluster else ())
        contents = {
            directory / "docker-compose.yml": composed,
            deploy / "topology.toml": _topology_file(topology),
            deploy / "rabbitmq.conf": configuration,
            deploy / "definitions.json": json.dumps(loaded, indent=1) + "\n",
        }
        _make_folder(deploy, mode=0o755)
        certificates: list[Path] = []
        if tls:
            contents[directory / TLS_OVERLAY] = tls_overlay(topology, brokers)
            certificates = provision_certificates(topology, directory)
            # The broker reads its certificate when it starts.
            configuration += (deploy / "tls" / BROKER_SERVICE / CERTIFICATE).read_text(encoding="utf-8")
        values["QKDRELAY_DEPLOYMENT"] = _digest(topology, loaded, passwords, configuration)
        _write(dotenv, _dotenv_file(topology, values), mode=0o600)
        for path, text in contents.items():
            # The services run as users of their own, so what is mounted into them is for all to read.
            _write(path, text, mode=0o644)
    except OSError as error:
        raise SettingsError(f"{error.filename or directory}: {error.strerror}") from None
    return [dotenv, *contents, *certificates]


def provision_certificates(topology: Topology, directory: Path) -> list[Path]:
    """Write the certificates of a deployment in ``directory``, those that last kept; return the files.

    Nobody but their owner comes to the keys, and each service, by what is mounted into it, to its own. Raises
    SettingsError as `write_deployment` does.
    """
    folder = directory / "deploy" / "tls"
    clients = (COORDINATOR, CLI, *topology.kmes)
    try:
        files = certificate_files(folder, topology.name, BROKER_SERVICE, _BROKER_HOSTS, clients)
        _make_folder(folder, mode=0o700)
        for path, text in files.items():
            if path.parent != folder:
                _make_folder(path.parent, mode=0o755)
            _write(path, text, mode=0o600 if path.name == AUTHORITY_KEY else 0o644)
    except OSError as error:
        raise SettingsError(f"{error.filename or folder}: {error.strerror}") from None
    return list(files)


def _make_folder(path: Path, *, mode: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)


def _check_deployable(topology: Topology, brokers: Sequence[str]) -> None:
    if taken := sorted(set(brokers) & set(topology.kmes)):
        raise TopologyError(
            f"{taken[0]!r} is the broker's name in a deployment",
            hint="choose another name for that KME",
        )
    seen: dict[str, tuple[str, str]] = {}
    for link in topology.links:
        twin = seen.setdefault(link_secret_variable(*link), link)
        if twin != link:
            raise TopologyError(
                f"links {'/'.join(twin)} and {'/'.join(link)} would share one secret's name",
                hint="use single dashes, and only inside a name",
            )


def _users(topology: Topology) -> tuple[str, ...]:
    return (*topology.kmes, *SERVICE_USERS)


def _values(
    topology: Topology,
    kept: Mapping[str, str],
    passwords: Mapping[str, str],
    environment: Mapping[str, str],
) -> dict[str, str]:
    """Return what ``.env`` keeps and what is new in it; the secrets, and the settings it remembers."""
    values = dict(kept)
    for name, default in REMEMBERED.items():
        if value := environment.get(name) or kept.get(name) or default:
            values[name] = value
    if not _PROJECT.fullmatch(values["COMPOSE_PROJECT_NAME"]):
        raise SettingsError("COMPOSE_PROJECT_NAME is no name of a project", hint="a-z, 0-9, '-' and '_'")
    for name in REMEMBERED:
        if "_PORT" in name and not (_PORT.fullmatch(values[name]) and 0 < int(values[name]) < 1 << 16):
            raise SettingsError(f"{name} is no port to publish", hint="a number from 1 to 65535")
    values["CLUSTER_COOKIE"] = kept.get("CLUSTER_COOKIE") or _secret()
    values |= {password_variable(user): password for user, password in passwords.items()}
    keys = [CLI_KEY, *(control_key_variable(kme) for kme in topology.kmes)]
    keys += [link_secret_variable(*link) for link in topology.links]
    for name in keys:
        values[name] = _key(name, kept.get(name))
    for name in map(withstand_variable, topology.kmes):
        values[name] = _withstand(name, environment.get(name) or kept.get(name) or WITHSTAND_DEFAULT)
    return values


def _switch_broker(values: dict[str, str], brokers: Sequence[str], *, tls: bool) -> None:
    """Set in ``.env`` how the broker is reached: from the containers, and by the command line on this host."""
    port = TLS_PORT if tls else PORT
    ports = [values[name] for name in AMQP_PORTS[: len(brokers)]]
    values["BROKER_PORT"] = str(port)
    values["BROKER_ADDRESSES"] = ",".join(f"{name}:{port}" for name in brokers)
    values["QKDRELAY_BROKER"] = ",".join(f"127.0.0.1:{published}" for published in ports)
    overlays = [TLS_OVERLAY] * tls + [CLUSTER_OVERLAY] * (len(brokers) > 1)
    for name in ("QKDRELAY_BROKER_TLS", "COMPOSE_FILE"):
        values.pop(name, None)
    if tls:
        values["QKDRELAY_BROKER_TLS"] = f"deploy/tls/{CLI}"
    if overlays:
        values["COMPOSE_FILE"] = ":".join(["docker-compose.yml", *overlays])


def _check_environment(
    topology: Topology, values: Mapping[str, str], composed: str, environment: Mapping[str, str]
) -> None:
    """Raise SettingsError for a variable that compose would take from the environment, and we from ``.env``."""
    decided = {"COMPOSE_FILE": "docker-compose.yml", **values}
    compose_reads = {"COMPOSE_FILE", "CLUSTER_COOKIE", *_SUBSTITUTED.findall(composed)}
    for name in (
        name for _, members in _sections(topology) for name in members if name in compose_reads & set(decided)
    ):
        if environment.get(name, decided[name]) != decided[name]:
            raise SettingsError(f"{name} in the environment is not what .env has", hint=f"unset {name}")


def _key(name: str, kept: str | None) -> str:
    if not kept:
        return _secret()
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


def _secret() -> str:
    return secrets.token_hex(SECRET_BYTES)


def _digest(
    topology: Topology, definitions: Mapping[str, Any], passwords: Mapping[str, str], configuration: str
) -> str:
    """Return what changes when, and only when, the running broker and coordinator must be replaced."""
    users = [
        {name: value for name, value in user.items() if name != "password_hash"}  # salted anew each time
        for user in definitions["users"]
    ]
    meant = [{**definitions, "users": users}, dict(passwords), configuration, _topology_file(topology)]
    return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()[:16]


def _topology_file(topology: Topology) -> str:
    def text(value: object) -> str:
        return escaped(json.dumps(value, ensure_ascii=False), None)

    def link(a: str, b: str) -> str:
        notes = ", ".join(f"{name} = {text(value)}" for name, value in link_settings(topology, a, b).items())
        return f"[{text(a)}, {text(b)}, {{ {notes} }}]" if notes else text([a, b])

    links = "".join(f"  {link(a, b)},\n" for a, b in topology.links)
    trust = "".join(f"{text(kme)} = {text(note)}\n" for kme, note in topology.trust.items())
    network = f"name = {text(topology.name)}\nkmes = {text(list(topology.kmes))}\nlinks = [\n{links}]\n"
    return f"{network}\n[trust]\n{trust}" if trust else network


def _dotenv_file(topology: Topology, values: dict[str, str]) -> str:
    rest = dict(values)
    lines = ["# Made by `coordinator provision`: this deployment's secrets and settings. Show it to nobody."]
    for title, members in _sections(topology):
        lines += ["", f"# {title}"]
        lines += [assignment(name, rest.pop(name)) for name in members if name in rest]
    if rest:
        lines += [
            "",
            "# Not of this network; kept as found",
            *(assignment(name, value) for name, value in rest.items()),
        ]
    return "\n".join(lines) + "\n"


def _sections(topology: Topology) -> Iterator[tuple[str, list[str]]]:
    yield (
        "Settings. Environment variables of the same name go before them",
        [
            *("QKDRELAY_LAB", "QKDRELAY_BROKER", "QKDRELAY_BROKER_TLS", "QKDRELAY_DEPLOYMENT", *REMEMBERED),
            *("BROKER_ADDRESSES", "BROKER_PORT", "COMPOSE_FILE"),
        ],
    )
    yield "What the broker's nodes have in common, where there are several", ["CLUSTER_COOKIE"]
    yield "Passwords of the broker's users", [password_variable(user) for user in reversed(_users(topology))]
    yield (
        "How many compromised KMEs a plan must withstand for a KME to be an end of it, 0 to 3. With 0 at both ends\n"
        "# `coordinator relay --allow-unprotected` relays keys that KMEs on the way could learn",
        [withstand_variable(kme) for kme in topology.kmes],
    )
    yield "Key between the coordinator and its command line; the broker must not have it", [CLI_KEY]
    yield (
        "Keys between the coordinator and each KME",
        [control_key_variable(kme) for kme in topology.kmes],
    )
    yield (
        "What the simulated QKD links draw their keys from: who has one has all of that link's key.\n"
        "# docs/operating.md says how to renew one",
        [link_secret_variable(*link) for link in topology.links],
    )


def _write(path: Path, text: str, *, mode: int) -> None:
    """Replace a file in one step, and only if it changes; nobody sees it with a wider mode."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        path.chmod(mode)
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
