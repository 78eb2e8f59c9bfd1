"""One RabbitMQ container for the session, one virtual host for a test."""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from qkdrelay.broker.definitions import definitions
from qkdrelay.network.names import SERVICE_USERS
from qkdrelay_deployment.certificates import Authority
from qkdrelay_deployment.rabbitmq_conf import tls_options
from support.ports import free_port
from support.waiting import eventually

# testcontainers reads these when it is imported. No reaper: its image could not be pulled everywhere,
# and the container is stopped by the fixture.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
os.environ.setdefault("TC_HOST", "127.0.0.1")

IMAGE = os.environ.get("QKDRELAY_RABBITMQ_IMAGE", "qkdrelay/rabbitmq:3.10-management")
LOOPBACK = "127.0.0.1"
AMQP_PORT = 5672
TLS_PORT = 5671
MANAGEMENT_PORT = 15672

TLS = "/etc/qkdrelay/tls"
CONFIGURATION = f"""\
raft.wal_max_size_bytes = 16777216
max_message_size = 1048576
listeners.ssl.default = {TLS_PORT}
{tls_options(TLS)}"""

# Busy waiting of idle schedulers costs more than it gains on the few cores of a test machine.
ERLANG_ARGS = "+sbwt none +sbwtdcpu none +sbwtdio none"

# Whatever proxy the environment names, the broker is on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RabbitMqServer:
    """A running broker, reached with administrator's rights through its management API."""

    def __init__(
        self,
        host: str,
        amqp_port: int,
        management_port: int,
        user: str,
        password: str,
        container: Any,
        *,
        tls_port: int,
        authority: Authority,
    ) -> None:
        self.host = host
        self.amqp_port = amqp_port
        self.tls_addresses = f"{host}:{tls_port}"
        self.authority = authority
        """Issued the broker's certificate, for the host 127.0.0.1."""
        self._container = container
        self._management = f"http://{host}:{management_port}/api"
        self._user, self._password = user, password
        self._authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._secret = secrets.token_hex(8)

    @property
    def administrator(self) -> tuple[str, str]:
        """Name and password of the user who may do anything."""
        return self._user, self._password

    def control(self, *arguments: str) -> None:
        """Run ``rabbitmqctl`` with the arguments."""
        result = self._container.exec_run(["rabbitmqctl", *arguments])
        assert result.exit_code == 0, result.output

    def kill(self) -> None:
        """End it with SIGKILL; what it has on its disk stays."""
        self._container.kill()

    def start(self) -> None:
        """Start it again, at the same ports."""
        self._container.start()

    def answers(self) -> bool:
        """Say whether it takes connections."""
        try:
            return bool(self.call("GET", f"health/checks/port-listener/{AMQP_PORT}")["status"] == "ok")
        except (OSError, urllib.error.URLError, http.client.HTTPException):
            return False

    def restart(self) -> None:
        """Restart it, and wait until it takes connections again, at the same ports."""
        self._container.restart(timeout=10)
        eventually(self.answers, timeout_s=90, what="the broker to come up again")

    @property
    def addresses(self) -> str:
        """``host:port`` of its AMQP listener."""
        return f"{self.host}:{self.amqp_port}"

    def password(self, user: str) -> str:
        """The password every virtual host's user of that name has: users are the whole broker's."""
        return f"{user}-{self._secret}"

    @contextmanager
    def vhost(
        self,
        kmes: Sequence[str],
        links: Collection[tuple[str, str]],
        *,
        lab: bool = False,
        adjust: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> Iterator[VirtualHost]:
        """Make a virtual host with the definitions of a network, ``adjust``-ed; delete it afterwards."""
        name = f"test-{uuid.uuid4()}"
        passwords = {user: self.password(user) for user in (*kmes, *SERVICE_USERS)}
        document = definitions(kmes, links, passwords, vhost=name, lab=lab)
        adjust(document)
        self.call("POST", "definitions", document)
        everything = dict.fromkeys(("configure", "write", "read"), ".*")
        self.call("PUT", f"permissions/{name}/{self._user}", everything)
        try:
            yield VirtualHost(self, name, passwords)
        finally:
            self.call("DELETE", f"vhosts/{name}")

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API; return what it answers, decoded."""
        request = urllib.request.Request(
            f"{self._management}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": self._authorization, "Content-Type": "application/json"},
        )
        try:
            with _OPENER.open(request, timeout=120) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            error.add_note(f"{method} {path}: {error.read().decode(errors='replace')}")
            raise
        return json.loads(answer) if answer else None


@dataclass(frozen=True)
class VirtualHost:
    """One network's virtual host; its users' ``passwords`` by name."""

    server: RabbitMqServer = field(repr=False)
    vhost: str
    passwords: dict[str, str] = field(repr=False)

    @property
    def addresses(self) -> str:
        return self.server.addresses

    def drop_connections(self, user: str) -> None:
        """Close all of ``user``'s connections from the broker's side, those to other virtual hosts too."""
        self.server.call("DELETE", f"connections/username/{user}")

    def bind(self, source: str, routing_key: str, destination: str, kind: str = "queue") -> None:
        self.server.call(
            "POST",
            f"bindings/{self.vhost}/e/{source}/{kind[0]}/{destination}",
            {"routing_key": routing_key, "arguments": {}},
        )

    def unbind(self, source: str, routing_key: str, destination: str, kind: str = "queue") -> None:
        path = f"bindings/{self.vhost}/e/{source}/{kind[0]}/{destination}"
        for binding in self.server.call("GET", path):
            if binding["routing_key"] == routing_key:
                self.server.call("DELETE", f"{path}/{_quote(binding['properties_key'])}")

    def delete_queue(self, queue: str) -> None:
        self.server.call("DELETE", f"queues/{self.vhost}/{queue}")

    def make_queue(self, queue: str) -> None:
        arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
        self.server.call("PUT", f"queues/{self.vhost}/{queue}", {"durable": True, "arguments": arguments})

    def delete_exchange(self, exchange: str) -> None:
        self.server.call("DELETE", f"exchanges/{self.vhost}/{exchange}")

    def make_exchange(self, exchange: str) -> None:
        self.server.call("PUT", f"exchanges/{self.vhost}/{exchange}", {"type": "topic", "durable": True})


def _quote(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def require_containers(image: str) -> None:
    """Skip a test that cannot start a container of ``image``; with CI set, fail it."""
    if problem := docker_problem(image):
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(problem, pytrace=False)
        pytest.skip(problem)


def docker_problem(image: str) -> str | None:
    """Say why no container of ``image`` can be started, or None."""
    import docker  # noqa: PLC0415 - slow, and only these tests need it
    from docker.errors import DockerException, ImageNotFound  # noqa: PLC0415

    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        return f"no container engine answers ({error}); set DOCKER_HOST"
    try:
        client.images.get(image)
    except ImageNotFound:
        try:
            client.images.pull(image)
        except DockerException as error:
            return f"no image {image} and it cannot be pulled ({error}); `make test` builds what it needs"
    return None


@contextmanager
def running(configuration: str = CONFIGURATION, network: Any = None) -> Iterator[RabbitMqServer]:
    """Start a broker in a container; stop it afterwards.

    Its ports are published on the loopback interface only; other containers of ``network`` know it as rabbitmq.
    """
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - after the environment is set

    user, password = "tests", secrets.token_hex(8)
    container = DockerContainer(IMAGE)
    # Chosen here, so that they stay the same when the container is restarted.
    ports = {port: free_port() for port in (AMQP_PORT, TLS_PORT, MANAGEMENT_PORT)}
    container.ports = {f"{inside}/tcp": (LOOPBACK, port) for inside, port in ports.items()}
    container.with_envs(
        RABBITMQ_DEFAULT_USER=user,
        RABBITMQ_DEFAULT_PASS=password,
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=ERLANG_ARGS,
    )
    container.with_kwargs(hostname="rabbitmq")
    if network is not None:
        container.with_network(network).with_network_aliases("rabbitmq")
    container.with_copy_into_container(configuration.encode(), "/etc/rabbitmq/conf.d/90-tests.conf")
    authority = Authority.new("tests")
    certificate, key = authority.issue("rabbitmq", [LOOPBACK])
    for name, text in {"ca.pem": authority.pem, "cert.pem": certificate, "key.pem": key}.items():
        container.with_copy_into_container(text.encode(), f"{TLS}/{name}", mode=0o644)
    with container:
        server = RabbitMqServer(
            LOOPBACK,
            ports[AMQP_PORT],
            ports[MANAGEMENT_PORT],
            user,
            password,
            container.get_wrapped_container(),
            tls_port=ports[TLS_PORT],
            authority=authority,
        )

        eventually(server.answers, timeout_s=90, what="the broker to come up")
        yield server
