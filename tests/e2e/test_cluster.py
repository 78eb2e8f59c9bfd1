"""Three RabbitMQ nodes as `make up TLS=1 CLUSTER=1` brings them up: any one may die, and nothing is lost."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qkdrelay.broker.names import VHOST
from qkdrelay.network.names import SERVICE_USERS
from qkdrelay_deployment.compose import CLUSTER_NODES, CLUSTER_SERVICES
from qkdrelay_deployment.provision import write_deployment
from qkdrelay_deployment.variables import AMQP_PORTS, password_variable
from support import processes, rabbitmq, stack
from support.network import DIAMOND
from support.ports import free_port
from support.waiting import eventually

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(400)]

UP_WITHIN_S = 180
QUEUE = "link.kme-1.kme-2"


@dataclass(frozen=True)
class Cluster:
    """The nodes' containers, by node, and the network that joins them."""

    containers: dict[str, Any]
    between: Any
    password: str = field(repr=False)
    """The operator's."""
    grow: Callable[..., subprocess.CompletedProcess[str]]
    """What `make up CLUSTER=1` does last, and an operator after a node was away."""

    def live_members(self, queue: str) -> int:
        """Return on how many nodes a queue is, by what the alert counts: each node's own metrics."""
        ask = "exec 3<>/dev/tcp/127.0.0.1/15692; printf 'GET /metrics/per-object HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        pages = [self._run(node, "bash", "-c", ask) or b"" for node in CLUSTER_NODES]
        named = f'rabbitmq_raft_term_total{{vhost="{VHOST}",queue="{queue}"}}'.encode()
        return sum(named in page for page in pages)

    def _run(self, node: str, *command: str) -> bytes | None:
        """Return what a command in the container of ``node`` prints, or None if it fails."""
        from docker.errors import APIError  # noqa: PLC0415 - slow, and only these tests need it

        try:
            result = self.containers[node].exec_run(list(command))
        except APIError:  # the container does not run at this moment
            return None
        output: bytes = result.output
        return output if result.exit_code == 0 else None

    def complete(self, node: str = CLUSTER_NODES[0]) -> bool:
        """Whether ``node`` is up and sees all three run."""
        nodes = self._get(node, "nodes?columns=name,running") or []
        return [each["running"] for each in nodes] == [True] * len(CLUSTER_NODES)

    def _get(self, node: str, path: str) -> Any:
        """Ask the management API of ``node``, from within: rabbitmqctl would take seconds."""
        login = base64.b64encode(f"operator:{self.password}".encode()).decode()
        head = f"GET /api/{path} HTTP/1.0\\r\\nAuthorization: Basic {login}\\r\\n\\r\\n"
        output = self._run(node, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/15672; printf '{head}' >&3; cat <&3")
        body = (output or b"").partition(b"\r\n\r\n")[2]
        return json.loads(body) if body.startswith(b"[") else None

    def queues(self, node: str = CLUSTER_NODES[0]) -> dict[str, dict[str, Any]]:
        """Return each queue's leader and members."""
        columns = ("name", "leader", "members")
        found = self._run(node, "rabbitmqctl", "--quiet", "list_queues", "-p", VHOST, *columns, "--formatter", "json")
        return {queue["name"]: queue for queue in json.loads(found or "[]")}

    @contextmanager
    def by_hand(self) -> Iterator[None]:
        """Keep RabbitMQ, from 3.13 on, from putting queues back onto all nodes by itself meanwhile: within a minute."""
        self._reconciliation("suspend")
        try:
            yield
        finally:
            self._reconciliation("resume")

    def _reconciliation(self, act: str) -> None:
        server = "whereis(rabbit_quorum_queue_periodic_membership_reconciliation)"
        for node in CLUSTER_NODES:
            told = f"case {server} of undefined -> ok; Pid -> sys:{act}(Pid) end."
            done = self._run(node, "rabbitmqctl", "eval", told)
            assert done is not None
            assert done.strip() == b"ok"

    def wait(self, node: str = CLUSTER_NODES[0]) -> None:
        eventually(lambda: self.complete(node), timeout_s=UP_WITHIN_S, what=f"{node} to see all nodes")

    def leader(self) -> str:
        leader: str = eventually(lambda: self.queues().get(QUEUE, {}).get("leader"), what=f"{QUEUE} to have a leader")
        return leader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def settings(folder: Path) -> dict[str, str]:
    """What provisioning wrote into .env."""
    rabbitmq.require_containers(rabbitmq.IMAGE)
    ports = {name: str(free_port()) for name in (*AMQP_PORTS, "QKDRELAY_MANAGEMENT_PORT")}
    project = f"qkdrelay-test-{secrets.token_hex(4)}"
    environment = {"COMPOSE_PROJECT_NAME": project, "RABBITMQ_IMAGE": rabbitmq.IMAGE, **ports}
    shutil.copytree(stack.ROOT / "infra", folder / "infra")
    write_deployment(DIAMOND, folder, tls=True, cluster=True, environment=environment)
    lines = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def cluster(folder: Path, settings: dict[str, str]) -> Iterator[Cluster]:
    import docker  # noqa: PLC0415 - slow, and only these tests need it

    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "DOCKER_HOST")}

    def run(script: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([folder / script, *arguments], env=inherited, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done

    client, project = docker.from_env(), settings["COMPOSE_PROJECT_NAME"]
    try:
        run("infra/docker/compose.sh", "up", "--detach", "--no-build", *CLUSTER_SERVICES)
        label = f"com.docker.compose.project={project}"
        found = client.containers.list(all=True, filters={"label": label})
        by_service = {each.labels["com.docker.compose.service"]: each for each in found}
        nodes = {node: by_service[name] for node, name in zip(CLUSTER_NODES, CLUSTER_SERVICES, strict=True)}
        between = client.networks.get(f"{project}_cluster")
        password = settings["QKDRELAY_OPERATOR_PASSWORD"]
        cluster = Cluster(nodes, between, password, partial(run, "infra/cluster/grow.sh"))
        for node in nodes:
            cluster.wait(node)
        # None was made before all were there.
        eventually(cluster.queues, what="the queues")
        cluster.grow("--check")
        cluster.grow()
        yield cluster
    finally:
        run("infra/docker/compose.sh", "down", "--volumes", "--timeout", "2")


@pytest.fixture(scope="module")
def network(cluster: Cluster, folder: Path, settings: dict[str, str]) -> Iterator[processes.Processes]:
    passwords = {user: settings[password_variable(user)] for user in (*DIAMOND.kmes, *SERVICE_USERS)}
    ways = {
        user: {
            "QKDRELAY_BROKER": settings["QKDRELAY_BROKER"],
            "QKDRELAY_BROKER_VHOST": VHOST,
            "QKDRELAY_BROKER_TLS": str(folder / "deploy" / "tls" / user),
        }
        for user in ("coordinator", "cli", *DIAMOND.kmes)
    }
    (folder / "services").mkdir()
    with processes.running(DIAMOND, folder / "services", passwords, ways) as network:
        yield network


def spread(cluster: Cluster) -> bool:
    """Whether each queue is on all three nodes, and each node leads some."""
    # Not the queue of who just asks something: it ends with the connection, and so does what is asked.
    queues = [queue for name, queue in cluster.queues().items() if not name.startswith("cli.")]
    everywhere = all(set(queue["members"]) == set(CLUSTER_NODES) for queue in queues)
    return everywhere and {queue["leader"] for queue in queues} == set(CLUSTER_NODES)


def test_growing_puts_every_queue_on_all_three_nodes_and_spreads_the_leaders(cluster: Cluster) -> None:
    cluster.grow()  # again: a node that was away, in whichever test ran before, leads nothing since
    eventually(lambda: spread(cluster), timeout_s=60, what="queues on all nodes, and leaders on each")


def test_a_queue_that_is_not_on_all_nodes_is_named_and_counted_and_put_there(cluster: Cluster) -> None:
    cluster.wait()
    follower = next(node for node in CLUSTER_NODES if node != cluster.leader())
    assert cluster.live_members(QUEUE) == len(CLUSTER_NODES)
    with cluster.by_hand():
        cluster._run(cluster.leader(), "rabbitmq-queues", "delete_member", "--vhost", VHOST, QUEUE, follower)
        found = cluster.grow("--check", code=1).stderr
        assert f"the queue {QUEUE} is on 2 of 3 nodes: " in found
        assert found.count("the queue ") == 1
        assert cluster.live_members(QUEUE) == 2
        cluster.grow()
        cluster.grow("--check")
    eventually(lambda: cluster.live_members(QUEUE) == len(CLUSTER_NODES), what="the member that was put back")


def test_the_clustering_ports_are_open_between_the_nodes_only(cluster: Cluster) -> None:
    node = cluster.containers[CLUSTER_NODES[0]]
    listeners = node.exec_run(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).output.decode()
    open_at = {line.split()[1].split(":")[0] for line in listeners.splitlines() if " 0A " in line and ":6448 " in line}
    node.reload()
    networks = node.attrs["NetworkSettings"]["Networks"]
    address = next(each["IPAddress"] for name, each in networks.items() if name.endswith("_cluster"))
    assert open_at == {"".join(f"{int(part):02X}" for part in reversed(address.split(".")))}


def test_the_leader_is_killed(cluster: Cluster, network: processes.Processes) -> None:
    leader = cluster.leader()
    with network.load():
        cluster.containers[leader].kill()
        network.goes_on()
        cluster.containers[leader].start()
        cluster.wait(leader)


def test_a_follower_is_cut_off(cluster: Cluster, network: processes.Processes) -> None:
    leader = cluster.leader()
    follower = next(node for node in CLUSTER_NODES if node != leader)
    with network.load():
        container = cluster.containers[follower]
        cluster.between.disconnect(container)
        eventually(lambda: not cluster.complete(leader), timeout_s=60, what=f"{leader} to miss {follower}")
        network.goes_on()
        cluster.between.connect(container, aliases=[follower.partition("@")[2]])
        cluster.wait(leader)


def test_all_three_restart_in_turn(cluster: Cluster, network: processes.Processes) -> None:
    with network.load():
        for node in CLUSTER_NODES:
            cluster.containers[node].restart(timeout=10)
            cluster.wait(node)
            network.goes_on(1)
