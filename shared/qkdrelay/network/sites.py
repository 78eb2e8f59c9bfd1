"""Sites: places of one operator each, with KMEs and a broker of their own; in topology files."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qkdrelay.errors import TopologyError
from qkdrelay.network.names import KME_NAME, KME_NAME_RULE
from qkdrelay.network.toml_file import TomlFile, did_you_mean, toml_text

AMQPS_PORT: Final = 5671
_BROKER = re.compile(r"(?:\[(?P<ip>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[A-Za-z0-9.-]{1,253}))(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_DOTTED = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_ENTRIES: Final = ("kmes", "broker")
_EXAMPLE: Final = 'berlin = { kmes = ["kme-1"], broker = "qkd.berlin.example:5671" }'


@dataclass(frozen=True, slots=True)
class Site:
    """One operator's place."""

    kmes: tuple[str, ...]
    host: str
    """Where the brokers' readers of other sites find this one's: a host's name, or an address without brackets."""
    port: int = AMQPS_PORT

    @property
    def broker(self) -> str:
        """``host:port``, with brackets where the host is an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_sites(data: Mapping[str, Any], kmes: tuple[str, ...], file: TomlFile) -> tuple[dict[str, Site], str]:
    """Return the sites of a topology file, and which of them the coordinator is at; nothing if it names none.

    Raises TopologyError with the line: every KME must be at one site, each site must have a broker of its own.
    """
    sites, coordinator = data.get("sites"), data.get("coordinator")
    if sites is None:
        if coordinator is not None:
            raise TopologyError(
                f"{file.place('coordinator')}: 'coordinator' names a site, and there is no [sites]",
                hint=f"[sites], below it {_EXAMPLE}; or leave it out",
            )
        return {}, ""
    if not isinstance(sites, dict) or not sites:
        raise TopologyError(
            f"{file.place('sites')}: 'sites' must be a table of sites", hint=f"[sites], below it {_EXAMPLE}"
        )
    found = {name: _site(name, entry, kmes, file) for name, entry in sites.items()}
    _check_apart(found, kmes, file)
    if not isinstance(coordinator, str) or coordinator not in found:
        raise _no_place(coordinator, list(found), file)
    for name, site in found.items():
        if not site.kmes and name != coordinator:
            raise TopologyError(
                f"{file.place('sites', name)}: site {name!r} has no KME, and not the coordinator either",
                hint="leave it out",
            )
    return found, coordinator


def _no_place(coordinator: object, sites: list[str], file: TomlFile) -> TopologyError:
    """Return what is wrong with where the coordinator is said to be."""
    hint = f'coordinator = "{sites[0]}"'
    if coordinator is None:
        at, what = file.place("sites"), "must name the site that the coordinator is at"
        hint += " above all tables"
    else:
        at, what = file.place("coordinator"), f"is {coordinator!r}, no site"
        hint = did_you_mean(coordinator, sites) if isinstance(coordinator, str) else hint
    return TopologyError(f"{at}: 'coordinator' {what}", hint=hint)


def _site(name: str, entry: object, kmes: tuple[str, ...], file: TomlFile) -> Site:
    def wrong(what: str, hint: str, *within: str) -> TopologyError:
        return TopologyError(f"{file.place('sites', name, *within)}: {what}", hint=hint)

    if not KME_NAME.fullmatch(name):
        raise wrong(f"{name!r} cannot be the name of a site", KME_NAME_RULE)
    if not isinstance(entry, dict):
        above = f"; or above all tables {name} = ..." if name == "coordinator" else ""
        raise wrong(f"site {name!r} must be a table", _EXAMPLE + above)
    for word in entry:
        if word not in _ENTRIES:
            raise wrong(f"site {name!r} has an unknown entry {word!r}", did_you_mean(word, _ENTRIES), word)
    here = entry.get("kmes")
    if not isinstance(here, list) or not all(isinstance(kme, str) for kme in here):
        raise wrong(f"'kmes' of site {name!r} must be a list of KMEs", _EXAMPLE, "kmes")
    for number, kme in enumerate(here):
        if kme not in kmes:
            raise wrong(f"site {name!r} has KME {kme!r}, which is not in 'kmes'", did_you_mean(kme, kmes), "kmes")
        if kme in here[:number]:
            raise wrong(f"site {name!r} has KME {kme!r} twice", "name it once", "kmes")
    parts = broker_parts(entry.get("broker"))
    if parts is None:
        hint = f"a host and a port, such as {_EXAMPLE}"
        raise wrong(f"'broker' of site {name!r} must say where others reach its broker", hint, "broker")
    return Site(tuple(here), *parts)


def broker_parts(broker: object) -> tuple[str, int] | None:
    """Return host and port of a site's broker; None if it is nothing that can be one."""
    found = _BROKER.fullmatch(broker) if isinstance(broker, str) else None
    if found is None or not 0 < (port := int(found["port"] or AMQPS_PORT)) < 65536:
        return None
    if (host := found["host"]) is not None:
        if _DOTTED.fullmatch(host) and not _is_ipv4(host):
            return None
        return (host, port) if all(map(_LABEL.fullmatch, host.split("."))) else None
    try:
        return ipaddress.IPv6Address(found["ip"]).compressed, port
    except ValueError:
        return None


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _check_apart(sites: Mapping[str, Site], kmes: tuple[str, ...], file: TomlFile) -> None:
    """Raise TopologyError unless every KME is at one site, and no two sites have one broker."""
    where: dict[str, str] = {}
    brokers: dict[str, str] = {}
    for name, site in sites.items():
        for kme in site.kmes:
            if kme in where:
                raise TopologyError(
                    f"{file.place('sites', name, 'kmes')}: KME {kme!r} is at two sites, {where[kme]!r} and {name!r}",
                    hint="name it at one",
                )
            where[kme] = name
        if (other := brokers.setdefault(site.broker.lower(), name)) != name:
            raise TopologyError(
                f"{file.place('sites', name, 'broker')}: sites {other!r} and {name!r} have one broker, {site.broker}",
                hint="each its own",
            )
    if lost := [kme for kme in kmes if kme not in where]:
        raise TopologyError(f"{file.place('sites')}: KME {lost[0]!r} is at no site", hint=f"add it to one: {_EXAMPLE}")


def format_sites(sites: Mapping[str, Site]) -> str:
    """Return the lines below ``[sites]`` that `parse_sites` reads as these."""
    lines = (
        f"{toml_text(name)} = {toml_text({'kmes': list(site.kmes), 'broker': site.broker})}\n"
        for name, site in sites.items()
    )
    return "".join(lines)
