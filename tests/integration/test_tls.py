"""TLS to the broker: who has the right certificates gets in, and everybody else is told what is wrong."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contract.broker_contract import LINK, Service
from qkdrelay.broker.rabbitmq import RabbitMqBroker, RabbitMqSettings
from qkdrelay.network.names import CLI
from qkdrelay_deployment.certificates import Authority
from support import stack
from support.rabbitmq import RabbitMqServer, VirtualHost
from support.waiting import eventually

pytestmark = pytest.mark.rabbitmq

A_DAY = timedelta(days=1)
FOREIGN = Authority.new("another network")


@dataclass(frozen=True)
class Folders:
    """Makes directories of certificates, right ones and wrong ones."""

    parent: Path
    authority: Authority

    def write(self, authority: Authority, pair: tuple[str, str] | None, name: str = "tls") -> Path:
        folder = self.parent / name
        folder.mkdir(exist_ok=True)
        (folder / "ca.pem").write_text(authority.pem)
        if pair:
            (folder / "cert.pem").write_text(pair[0])
            (folder / "key.pem").write_text(pair[1])
        return folder

    def right(self) -> Path:
        return self.write(self.authority, self.authority.issue("client"))

    def wrong_authority(self) -> Path:
        return self.write(FOREIGN, self.authority.issue("client"))

    def expired(self) -> Path:
        return self.write(self.authority, self.authority.issue("client", valid=-A_DAY))

    def foreign(self) -> Path:
        return self.write(self.authority, FOREIGN.issue("client"))

    def a_servers(self) -> Path:
        return self.write(self.authority, self.authority.issue("client", ["127.0.0.1"]))

    def none(self) -> Path:
        return self.write(self.authority, None)


@pytest.fixture
def host(rabbitmq: RabbitMqServer) -> Iterator[VirtualHost]:
    with rabbitmq.vhost(["kme-1", "kme-2"], [("kme-1", "kme-2")]) as host:
        yield host


@pytest.fixture
def folders(rabbitmq: RabbitMqServer, tmp_path: Path) -> Folders:
    return Folders(tmp_path, rabbitmq.authority)


@pytest.fixture
def settings(host: VirtualHost, folders: Folders) -> Callable[[str], RabbitMqSettings]:
    def of(user: str, **others: object) -> RabbitMqSettings:
        given = {"addresses": host.server.tls_addresses, "vhost": host.vhost, "password": host.passwords[user]}
        if "tls" not in others:
            others["tls"] = folders.right()
        return RabbitMqSettings(user=user, **given, **others)  # type: ignore[arg-type]

    return of


def test_with_the_right_certificates_messages_go_both_ways_over_tls_1_3(
    host: VirtualHost, settings: Callable[..., RabbitMqSettings]
) -> None:
    sender = RabbitMqBroker(settings("kme-1"))
    sender.start()
    receiver = RabbitMqBroker(settings("kme-2", queues=(LINK,)))
    receiver.start()
    try:
        Service(sender).publish([b"over TLS"])
        assert Service(receiver).receive(1)[0].body == b"over TLS"

        def protocols() -> set[str]:
            connections = host.server.call("GET", f"vhosts/{host.vhost}/connections")
            return {each["ssl_protocol"] for each in connections if each.get("ssl_protocol")}

        assert eventually(protocols) == {"tlsv1.3"}
    finally:
        sender.close(5)
        receiver.close(5)


def at(host: str, addresses: str) -> str:
    return f"{host}:{addresses.rpartition(':')[2]}"


REFUSALS = {
    "wrong_authority": ("is not from the authority in", "ca.pem of the authority that issued"),
    "expired": ("refuses this client's certificate: it has expired", "make certs"),
    "foreign": ("the authority that it trusts did not issue it", "of the broker's own authority"),
    "none": ("asks for a certificate of its clients", "put cert.pem and key.pem beside"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_the_command_line_says_in_one_line_what_was_wrong_and_what_would_be_right(
    kind: str, host: VirtualHost, folders: Folders
) -> None:
    answer = command(host, getattr(folders, kind)())
    refused(answer, *REFUSALS[kind])


def test_a_broker_under_another_name_than_its_certificates_is_refused(host: VirtualHost, folders: Folders) -> None:
    answer = command(host, folders.right(), at("localhost", host.server.tls_addresses))
    refused(answer, "is for another host", "use a host name that is in the broker's certificate")


def test_without_tls_the_tls_port_says_that_it_may_want_tls(host: VirtualHost) -> None:
    refused(command(host, None), "or it wants TLS", "set QKDRELAY_BROKER_TLS")


def test_with_tls_the_plain_port_says_that_it_speaks_none(host: VirtualHost, folders: Folders) -> None:
    refused(command(host, folders.right(), host.server.addresses), "does not speak TLS", "5671")


def test_a_servers_certificate_does_not_make_a_client(host: VirtualHost, folders: Folders) -> None:
    answer = command(host, folders.a_servers())
    refused(answer, "is not one for a client", "make certs")


def test_a_broker_whose_certificate_has_expired_is_refused(folders: Folders) -> None:
    folder = folders.write(folders.authority, folders.authority.issue("broker", ["127.0.0.1"], valid=-A_DAY), "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, pytest.raises(ssl.SSLError):
                context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        answer = stack.command(
            "coordinator",
            "relays",
            QKDRELAY_BROKER=address,
            QKDRELAY_BROKER_TLS=str(folders.right()),
            QKDRELAY_CLI_PASSWORD="any",
            QKDRELAY_CLI_KEY="00" * 32,
        )
        thread.join(timeout=10)
    refused(answer, f"the certificate of the broker at {address} has expired", "renew the broker's certificate")


def command(host: VirtualHost, tls: Path | None, addresses: str = "") -> stack.Answer:
    return stack.command(
        "coordinator",
        "relays",
        QKDRELAY_BROKER=addresses or host.server.tls_addresses,
        QKDRELAY_BROKER_VHOST=host.vhost,
        QKDRELAY_CLI_PASSWORD=host.passwords[CLI],
        QKDRELAY_CLI_KEY="00" * 32,
        # Empty is off: so it is in a compose file, where a variable cannot be left out.
        QKDRELAY_BROKER_TLS=str(tls or ""),
    )


def refused(answer: stack.Answer, wrong: str, right: str) -> None:
    assert answer.code == 3, answer.err
    error, hint = answer.err.splitlines()
    assert error.startswith("error: ")
    assert wrong in error
    assert hint.startswith("hint: ")
    assert right in hint


def test_a_service_that_is_refused_keeps_trying_ever_less_often_and_connects_once_its_certificate_is_renewed(
    folders: Folders, settings: Callable[..., RabbitMqSettings]
) -> None:
    with capture_logs() as logs:
        broker = RabbitMqBroker(settings("kme-1", tls=folders.expired(), backoff_max_s=0.4))
        broker.start()
        service = Service(broker)

        def attempts(role: str) -> list[dict[str, object]]:
            return [log for log in logs if log["event"] == "broker.unreachable" and log["role"] == role]

        service.until(lambda: len(attempts("publish")) >= 5)
        waits = [log["retry_in_s"] for log in attempts("publish")]
        assert 0.05 <= waits[0] <= 0.1  # type: ignore[operator]
        assert all(0.2 <= wait <= 0.4 for wait in waits[2:])  # type: ignore[operator]
        for log in attempts("publish") + attempts("consume"):
            assert "refuses this client's certificate: it has expired" in str(log["reason"])
            assert "make certs" in str(log["hint"])
        folders.right()
        service.until_connected()
        # Gone again, as in the middle of being renewed: that is no reason to end.
        (folders.parent / "tls" / "ca.pem").unlink()
        broker._consumers[""]._main.drop("a test")
        service.until(lambda: any("ca.pem: cannot be read" in str(log["reason"]) for log in attempts("consume")))
        folders.right()
        service.until_connected()
        broker.close(5)
