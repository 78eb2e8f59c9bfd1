"""The composition root of the coordinator: settings, store, broker, service and loop are put together here alone."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that the command line's `--help` is quick

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import SecretStr

    from coordinator.settings import CoordinatorSettings
    from coordinator.store import CoordinatorStore
    from qkdrelay.broker.port import Broker
    from qkdrelay.network.directory import Directory
    from qkdrelay.network.topology import Topology
    from qkdrelay.service.loop import Loop
    from qkdrelay.service.process import StopRequest


def assemble(
    topology: Topology,
    store: CoordinatorStore,
    control_keys: Mapping[str, bytes],
    cli_key: bytes,
    broker: Broker,
    *,
    page_key: bytes | None = None,
    lab: bool = False,
    clock: Callable[[], float] = time.time,
    batch_s: float = math.inf,
    directory: Callable[[], Directory] | None = None,
    elsewhere: Mapping[str, str] | None = None,
    site_keys: Mapping[str, bytes] | None = None,
    anew: bool = False,
) -> Loop:
    """Return the loop of the coordinator; nothing moves before its first step.

    ``control_keys`` has the key shared with each KME of ``topology``; ``cli_key`` is the command line's, ``page_key``
    the page's if there is one; ``directory`` returns the directory of SAEs as it is now, if there is one; ``elsewhere``
    has the sites of KMEs that are not at the coordinator's own, ``site_keys`` the keys of command lines there; with
    ``anew`` another may have led before; the rest is as of `Loop`.
    """
    from coordinator.service import CoordinatorService
    from qkdrelay.service.loop import Loop

    service = CoordinatorService(
        topology,
        store,
        control_keys,
        cli_key,
        page_key=page_key,
        lab=lab,
        directory=directory,
        elsewhere=elsewhere,
        site_keys=site_keys,
        anew=anew,
    )
    return Loop(service, broker, clock=clock, batch_s=batch_s)


def serve() -> None:
    """Run the coordinator until SIGTERM. Settings come from the environment (QKDRELAY_...).

    Example: QKDRELAY_TOPOLOGY=eight-kmes.toml QKDRELAY_BROKER=127.0.0.1:5672 ... coordinator serve
    """
    from coordinator.settings import CoordinatorSettings
    from coordinator.store import open_coordinator_store
    from qkdrelay.broker.names import coordinator_queues, site_queues
    from qkdrelay.broker.rabbitmq import RabbitMqBroker
    from qkdrelay.broker.rabbitmq.tls import CERTIFICATE
    from qkdrelay.errors import SettingsError
    from qkdrelay.network.directory_file import DirectoryFile
    from qkdrelay.network.names import COORDINATOR
    from qkdrelay.network.topology_file import load_topology
    from qkdrelay.service.health import monitoring
    from qkdrelay.service.http import serving
    from qkdrelay.service.logs import set_up_logging
    from qkdrelay.service.loop import BATCH_S
    from qkdrelay.service.process import prepare_process
    from qkdrelay.service.settings import key_bytes, load

    stop = prepare_process()
    settings = load(CoordinatorSettings)
    set_up_logging(settings.log_format, settings.log_level, site=settings.site)
    topology = load_topology(settings.topology)
    hint = "it must have one key for each KME of the topology and no other"
    keys = _keys("QKDRELAY_CONTROL_KEYS", settings.control_keys, topology.kmes, hint)
    store, cli_key = open_coordinator_store(settings.store), key_bytes(settings.cli_key)
    sites, here = dict(topology.sites), topology.coordinator
    if here != settings.site:
        is_at = settings.site or "not set"
        raise SettingsError(f"QKDRELAY_SITE is {is_at}, and the topology has the coordinator at {here or 'no site'}")
    kmes_here = sites.pop(here).kmes if here else topology.kmes
    hint = "it must have one key for each other site of the topology and no more"
    site_keys = _keys("QKDRELAY_SITE_KEYS", settings.site_keys, sites, hint)
    others = [
        settings.elsewhere(COORDINATOR, name, site.broker, site_queues(site.kmes, lab=settings.lab))
        for name, site in sites.items()
    ]
    broker = RabbitMqBroker(settings.rabbitmq(COORDINATOR, coordinator_queues(kmes_here, lab=settings.lab)), others)
    directory = None if settings.saes is None else DirectoryFile(settings.saes)
    loop = assemble(
        topology,
        store,
        keys,
        cli_key,
        broker,
        page_key=None if settings.page_key is None else key_bytes(settings.page_key),
        lab=settings.lab,
        batch_s=BATCH_S,
        directory=directory,
        elsewhere=topology.elsewhere(here),
        site_keys=site_keys,
        anew=settings.standby,
    )
    if settings.site_tls is not None:
        loop.service.metrics.watch_certificate(settings.site_tls / CERTIFICATE)
    health = monitoring(loop.service.metrics.registry, loop.health)
    with serving(health, settings.http, setting="QKDRELAY_HTTP"):
        if settings.standby:
            _run_while_leading(loop, settings, stop)
        else:
            loop.run(stop)


def _keys(setting: str, given: Mapping[str, SecretStr], wanted: Collection[str], hint: str) -> dict[str, bytes]:
    """Return the keys that a setting has; raise SettingsError unless it has those that are ``wanted``."""
    from qkdrelay.errors import SettingsError
    from qkdrelay.service.settings import key_bytes

    if wrong := given.keys() ^ set(wanted):
        raise SettingsError(f"{setting} and the topology disagree about {', '.join(sorted(wrong)[:5])}", hint=hint)
    return {name: key_bytes(key) for name, key in given.items()}


def _run_while_leading(loop: Loop, settings: CoordinatorSettings, stop: StopRequest) -> None:
    """Wait until this coordinator leads, and run for as long. Raises LeadLostError if it does no more."""
    from coordinator.lead import LEAD, LeadLostError, Term
    from coordinator.metrics import watch_lead
    from qkdrelay.broker.names import LEAD_QUEUE
    from qkdrelay.broker.rabbitmq import RabbitMqBroker
    from qkdrelay.network.names import COORDINATOR

    tokens = RabbitMqBroker(replace(settings.rabbitmq(COORDINATOR, (LEAD_QUEUE,)), service=LEAD))
    metrics = loop.service.metrics
    with Term(tokens, stop, loop.health, connected=metrics.connected.set) as term:
        watch_lead(metrics, term.lead)
        if term.begins():
            loop.run(term)
    if term.is_lost:
        raise LeadLostError("another coordinator may lead; this one has to start anew", hint="compose does that")
