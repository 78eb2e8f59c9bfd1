"""The composition root of the page: settings, the way to the coordinator, server."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that the command line's `--help` is quick

from __future__ import annotations


def serve_page() -> None:
    """Serve the page until SIGTERM. Settings come from the environment (QKDRELAY_...).

    Example: QKDRELAY_PAGE=127.0.0.1:8080 QKDRELAY_BROKER=127.0.0.1:5672 ... coordinator page
    """
    from qkdrelay.broker.rabbitmq.client import RabbitMqClient
    from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
    from qkdrelay.client import CoordinatorClient
    from qkdrelay.network.names import PAGE
    from qkdrelay.service.health import Health, monitoring
    from qkdrelay.service.http import serving
    from qkdrelay.service.logs import log_all, set_up_logging
    from qkdrelay.service.process import prepare_process
    from qkdrelay.service.settings import key_bytes, load
    from qkdrelay_page.board import Board
    from qkdrelay_page.serving import serving_page, viewers_metric
    from qkdrelay_page.settings import PageSettings
    from qkdrelay_page.watching import Watching

    stop = prepare_process()
    settings = load(PageSettings)
    set_up_logging(settings.log_format, settings.log_level)
    broker = RabbitMqSettings(
        addresses=settings.broker,
        user=settings.broker_user,
        password=settings.broker_password.get_secret_value(),
        vhost=settings.broker_vhost,
        tls=settings.broker_tls,
    )
    board, health = Board(), Health()
    key = key_bytes(settings.page_key)
    watching = Watching(lambda: CoordinatorClient(RabbitMqClient(broker, PAGE), key), board, health)
    with (
        serving(monitoring(viewers_metric(board), health), settings.http, setting="QKDRELAY_HTTP"),
        serving_page(board, settings.page, setting="QKDRELAY_PAGE", hosts=settings.hosts),
    ):
        host, port = settings.page
        log_all([("info", "page.opened", {"address": f"{host}:{port}"})], service=PAGE)
        while not stop.is_set():
            watching.rest(watching.turn())
    watching.close()
