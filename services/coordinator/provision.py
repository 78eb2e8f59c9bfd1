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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from coordinator.compose import (
    BROKER_SERVICE,
    compose_file,
    control_key_variable,
    link_secret_variable,
    link_settings,
    password_variable,
)
from qkdrelay.broker import names
from qkdrelay.errors import SettingsError, TopologyError
from qkdrelay.network.topology import Topology

__all__ = ["compose_file", "provision"]

SECRET_BYTES: Final = 32

REMEMBERED: Final = {
    "PYTHON_IMAGE": None,
    "RABBITMQ_IMAGE": None,
    "QKDRELAY_IMAGE": None,
    "COMPOSE_PROJECT_NAME": "qkdrelay",
    "QKDRELAY_AMQP_PORT": "5672",
    "QKDRELAY_MANAGEMENT_PORT": "15672",
}
"""Settings taken over from the environment into ``.env``, so that later commands agree with the first one."""

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")
_PLAIN = re.compile(r"""(["']?)([^"'#$\s]*)\1""")
_SECRET = re.compile(r"[0-9a-f]{64}")

_RABBITMQ_CONF = """\
# Written by `coordinator provision`, for RabbitMQ 3.10 and later.

load_definitions = /etc/qkdrelay/definitions.json

# Larger relays are cut into several messages; prefetch times this bounds what a KME holds in memory.
max_message_size = 1048576

# Sized for the container's memory and for a few QKD links, not for a host of its own.
total_memory_available_override_value = 1GB
raft.wal_max_size_bytes = 67108864
disk_free_limit.absolute = 256MB

# The root file system is read-only: logs go to the container's output, where `make logs` shows them.
log.file = false
log.console = true
log.console.formatter = json
log.ra.level = warning
"""


def provision(
    topology: Topology,
    directory: Path,
    *,
    lab: bool,
    environment: Mapping[str, str] = os.environ,
) -> list[Path]:
    """Write all that a deployment of ``topology`` needs into ``directory``; return the files, in order.

    Secrets that ``.env`` already holds are kept, so doing it twice changes nothing. ``lab`` switches the
    lab on or off. Raises TopologyError for a network that cannot be deployed, SettingsError for a
    directory that cannot be written or a secret in ``.env`` that cannot be one.
    """
    _check_deployable(topology)
    dotenv = directory / ".env"
    deploy = directory / "deploy"
    try:
        kept = _read_dotenv(dotenv)
        passwords = {user: kept.get(password_variable(user)) or _secret() for user in _users(topology)}
        values = _values(topology, kept, passwords, environment, lab=lab)
        definitions = names.definitions(topology.kmes, topology.links, passwords, lab=lab)
        values["QKDRELAY_DEPLOYMENT"] = _digest(topology, definitions, passwords)
        contents = {
            directory / "docker-compose.yml": compose_file(topology),
            deploy / "topology.toml": _topology_file(topology),
            deploy / "rabbitmq.conf": _RABBITMQ_CONF,
            deploy / "definitions.json": json.dumps(definitions, indent=1) + "\n",
        }
        deploy.mkdir(parents=True, exist_ok=True)
        deploy.chmod(0o755)
        _write(dotenv, _dotenv_file(topology, values), mode=0o600)
        for path, text in contents.items():
            # The services run as users of their own, so what is mounted into them is for all to read.
            _write(path, text, mode=0o644)
    except OSError as error:
        raise SettingsError(f"{error.filename or directory}: {error.strerror}") from None
    return [dotenv, *contents]


def _check_deployable(topology: Topology) -> None:
    if BROKER_SERVICE in topology.kmes:
        raise TopologyError(
            f"{BROKER_SERVICE!r} is the broker's name in a deployment",
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
    return (*topology.kmes, *names.SERVICE_USERS)


def _values(
    topology: Topology,
    kept: Mapping[str, str],
    passwords: Mapping[str, str],
    environment: Mapping[str, str],
    *,
    lab: bool,
) -> dict[str, str]:
    """Return all of ``.env``: what was kept, what is new, what follows from the arguments."""
    values = dict(kept)
    for name, default in REMEMBERED.items():
        if value := environment.get(name) or kept.get(name) or default:
            values[name] = value
    values["QKDRELAY_LAB"] = "true" if lab else "false"
    # What the command line on this host reads.
    values["QKDRELAY_BROKER"] = f"127.0.0.1:{values['QKDRELAY_AMQP_PORT']}"
    values |= {password_variable(user): password for user, password in passwords.items()}
    keys = [control_key_variable(kme) for kme in topology.kmes]
    keys += [link_secret_variable(*link) for link in topology.links]
    for name in keys:
        values[name] = _key(name, kept.get(name))
    return values


def _key(name: str, kept: str | None) -> str:
    if not kept:
        return _secret()
    if not _SECRET.fullmatch(kept):
        raise SettingsError(
            f"{name} in .env is not {2 * SECRET_BYTES} hexadecimal digits",
            hint="restore it; or delete the line and the volumes of the KMEs that used it",
        )
    return kept


def _secret() -> str:
    return secrets.token_hex(SECRET_BYTES)


def _digest(topology: Topology, definitions: Mapping[str, Any], passwords: Mapping[str, str]) -> str:
    """Return what changes when, and only when, the running broker and coordinator must be replaced."""
    users = [
        {name: value for name, value in user.items() if name != "password_hash"}  # salted anew each time
        for user in definitions["users"]
    ]
    meant = [{**definitions, "users": users}, dict(passwords), _RABBITMQ_CONF, _topology_file(topology)]
    return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()[:16]


def _topology_file(topology: Topology) -> str:
    def text(value: object) -> str:
        return json.dumps(value, ensure_ascii=False)

    def link(a: str, b: str) -> str:
        notes = ", ".join(f"{name} = {text(value)}" for name, value in link_settings(topology, a, b).items())
        return f"[{text(a)}, {text(b)}, {{ {notes} }}]" if notes else text([a, b])

    links = "".join(f"  {link(a, b)},\n" for a, b in topology.links)
    trust = "".join(f"{text(kme)} = {text(note)}\n" for kme, note in topology.trust.items())
    network = f"name = {text(topology.name)}\nkmes = {text(list(topology.kmes))}\nlinks = [\n{links}]\n"
    return f"{network}\n[trust]\n{trust}" if trust else network


def _read_dotenv(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    assignments = (found.groups() for line in lines if (found := _ASSIGNMENT.fullmatch(line)))
    return {name: plain[2] if (plain := _PLAIN.fullmatch(value)) else value for name, value in assignments}


def _dotenv_file(topology: Topology, values: dict[str, str]) -> str:
    rest = dict(values)
    lines = ["# Made by `coordinator provision`: this deployment's secrets and settings. Show it to nobody."]
    for title, members in _sections(topology):
        lines += ["", f"# {title}"]
        lines += [f"{name}={rest.pop(name)}" for name in members if name in rest]
    if rest:
        lines += [
            "",
            "# Not of this network; kept as found",
            *(f"{name}={value}" for name, value in rest.items()),
        ]
    return "\n".join(lines) + "\n"


def _sections(topology: Topology) -> Iterator[tuple[str, list[str]]]:
    yield (
        "Settings. Environment variables of the same name go before them",
        ["QKDRELAY_LAB", "QKDRELAY_BROKER", "QKDRELAY_DEPLOYMENT", *REMEMBERED],
    )
    yield "Passwords of the broker's users", [password_variable(user) for user in reversed(_users(topology))]
    yield (
        "Keys between the coordinator and each KME",
        [control_key_variable(kme) for kme in topology.kmes],
    )
    yield (
        "What the simulated QKD links draw their keys from. Never reuse one with a KME's volume gone:\n"
        "# its one-time pads would repeat",
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
