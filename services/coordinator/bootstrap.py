"""`coordinator serve`: the service."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations


def serve() -> None:
    """Run the coordinator until SIGTERM. Settings come from the environment (QKDRELAY_...).

    Example: QKDRELAY_TOPOLOGY=eight-kmes.toml QKDRELAY_BROKER=127.0.0.1:5672 ... coordinator serve
    """
    from coordinator.service import CoordinatorService
    from coordinator.settings import CoordinatorSettings
    from coordinator.store import CoordinatorStore
    from qkdrelay.broker.names import coordinator_queues
    from qkdrelay.broker.rabbitmq import RabbitMqBroker
    from qkdrelay.errors import SettingsError
    from qkdrelay.network.names import COORDINATOR
    from qkdrelay.network.topology_file import load_topology
    from qkdrelay.service.health import monitoring
    from qkdrelay.service.http import serving
    from qkdrelay.service.logs import set_up_logging
    from qkdrelay.service.loop import BATCH_S, Loop
    from qkdrelay.service.process import prepare_process
    from qkdrelay.service.settings import key_bytes, load

    stop = prepare_process()
    settings = load(CoordinatorSettings)
    set_up_logging(settings.log_format, settings.log_level)
    topology = load_topology(settings.topology)
    if wrong := set(topology.kmes) ^ set(settings.control_keys):
        raise SettingsError(
            f"QKDRELAY_CONTROL_KEYS and the topology disagree about {', '.join(sorted(wrong)[:5])}",
            hint="it must have one key for each KME of the topology and no other",
        )
    keys = {kme: key_bytes(key) for kme, key in settings.control_keys.items()}
    store, cli_key = CoordinatorStore(settings.store), key_bytes(settings.cli_key)
    service = CoordinatorService(topology, store, keys, cli_key, lab=settings.lab)
    broker = RabbitMqBroker(settings.rabbitmq(COORDINATOR, coordinator_queues(topology.kmes, lab=settings.lab)))
    loop = Loop(service, broker, batch_s=BATCH_S)
    with serving(monitoring(service.metrics.registry, loop.health), settings.http, setting="QKDRELAY_HTTP"):
        loop.run(stop)
