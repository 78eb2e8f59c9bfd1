"""The compose file as users run it: brought up by the project's own script, one relay, taken down."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from typing import Any

import pytest

from qkdrelay.errors import SettingsError
from qkdrelay.service.dotenv_file import assignment, read
from support import rabbitmq, stack
from support.deployment import Deployment, brought_up
from support.plans import REFERENCE_RELAY
from support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with brought_up(tmp_path_factory.mktemp("deployment"), "eight-kmes") as running:
        yield running


def test_another_network_is_brought_up_by_its_name_and_with_tls_alone(tmp_path: Path) -> None:
    with brought_up(tmp_path, "diamond", "--tls") as diamond:
        outcome = diamond.coordinator("relay", "kme-1", "kme-4", "--policy", "best", "--json").json()
        assert outcome["state"] == "confirmed"
        ends = [eventually(lambda kme=kme: _delivered(diamond, kme, outcome["relay_id"])) for kme in ("kme-1", "kme-4")]
        assert ends[0] == ends[1]
        environment = {**diamond.environment, "QKDRELAY_BROKER_TLS": ""}
        plain = replace(diamond, environment=environment).coordinator("relays")
        assert plain.code == 3
        assert "or it wants TLS" in plain.err
        _put_back_by_bringing_it_up_again(diamond)
        _cleaned_up_without_dotenv_or_compose_file(diamond)


def _put_back_by_bringing_it_up_again(deployment: Deployment) -> None:
    """A queue is deleted: whose it is says so, the others go on, and `make up` puts it back."""
    queue = "link.kme-1.kme-2"
    deleted = deployment.compose("exec", "-T", "rabbitmq", "rabbitmqctl", "-p", "qkdrelay", "delete_queue", queue)
    assert deleted.code == 0, deleted.err
    ready = "exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; tail -n 1 <&3"

    def readiness(kme: str) -> str:
        return deployment.compose("exec", "-T", kme, "bash", "-c", ready).out

    eventually(lambda: f"{queue} cannot be used: " in readiness("kme-2"), what="kme-2 to name its queue")
    assert readiness("kme-3").startswith("ok")
    assert deployment.coordinator("relay", "kme-1", "kme-3").code == 0
    deployment.up("diamond", "--tls")
    # It asks for the queue less and less often, and may have asked a moment before.
    eventually(lambda: readiness("kme-2") == "ok\n", what="kme-2 to find its queue again")
    assert deployment.coordinator("relay", "kme-1", "kme-2").code == 0


def _cleaned_up_without_dotenv_or_compose_file(deployment: Deployment) -> None:
    """`make clean` finds all that is left, also a volume of an earlier topology."""
    import docker  # noqa: PLC0415

    client = docker.from_env()
    label = f"com.docker.compose.project={deployment.environment['COMPOSE_PROJECT_NAME']}"
    key, value = label.split("=")
    client.volumes.create(f"{value}_paris", labels={key: value})
    for name in (".env", "docker-compose.yml"):
        (deployment.folder / name).unlink()
    cleaned = deployment.run("infra/docker/remove.sh", "--volumes")
    assert cleaned.code == 0, cleaned.err
    for name in ("kme-1", "rabbitmq", "paris"):
        assert f"{value}_{name}" in cleaned.err.partition("the volumes ")[2]
    for kind in (client.volumes.list, client.networks.list):
        assert kind(filters={"label": label}) == []
    assert client.containers.list(all=True, filters={"label": label}) == []


@pytest.mark.skipif("RABBITMQ_OLDEST_IMAGE" not in os.environ, reason="needs the oldest RabbitMQ, too")
def test_a_new_broker_takes_over_from_the_oldest_one_that_is_drained(tmp_path: Path) -> None:
    """As docs/broker.md says; a relay whose shares wait at their KMEs meanwhile is confirmed afterwards."""
    with brought_up(tmp_path, "diamond", broker=os.environ["RABBITMQ_OLDEST_IMAGE"]) as diamond:

        def ctl(*arguments: str) -> str:
            return diamond.compose("exec", "-T", "rabbitmq", "rabbitmqctl", "--quiet", *arguments).out

        def depths() -> list[int]:
            listed = ctl("-p", "qkdrelay", "list_queues", "--no-table-headers", "messages")
            return [int(depth) for depth in listed.split()]

        before = ctl("version")
        for near in ("kme-2", "kme-3"):
            assert diamond.coordinator("link", "down", near, "kme-4").code == 0
        started = diamond.coordinator("relay", "kme-1", "kme-4", "--no-wait", "--timeout", "900", "--json")
        relay_id = started.json()["relay_id"]

        def waiting() -> bool:
            trace = diamond.coordinator("trace", relay_id).out
            return all(f"waits at {near}" in trace for near in ("kme-2", "kme-3"))

        eventually(waiting, timeout_s=60, what="the shares to wait at kme-2 and kme-3")
        eventually(lambda: depths() and not any(depths()), timeout_s=60, what="the queues to be empty")
        assert diamond.run("infra/docker/remove.sh").code == 0
        volume = f"{diamond.environment['COMPOSE_PROJECT_NAME']}_rabbitmq"
        assert diamond.run("infra/docker/with-engine.sh", "docker", "volume", "rm", volume).code == 0
        newer = replace(diamond, environment={**diamond.environment, "RABBITMQ_IMAGE": rabbitmq.IMAGE})
        again = newer.run("infra/docker/up.sh", sys.executable, "diamond", timeout_s=300)
        assert again.code == 0, again.err
        assert ctl("version") != before
        for near in ("kme-2", "kme-3"):
            assert diamond.coordinator("link", "up", near, "kme-4").code == 0
        source, target = (
            eventually(lambda kme=kme: _delivered(diamond, kme, relay_id), timeout_s=60, what=f"the keys at {kme}")
            for kme in ("kme-1", "kme-4")
        )
        assert source == target


def test_ten_keys_are_relayed_and_each_end_has_them(deployment: Deployment) -> None:
    answer = deployment.coordinator(*REFERENCE_RELAY, "--keys", "10", "--linger", "5", "--json")
    assert answer.code == 0, answer.err
    outcome = answer.json()
    assert outcome["state"] == "confirmed"
    assert outcome["share_messages"] == outcome["planned_share_messages"] == 17
    relay_id = outcome["relay_id"]
    source, target = (
        eventually(lambda kme=kme: _delivered(deployment, kme, relay_id), what=f"the keys at {kme}")
        for kme in ("kme-1", "kme-8")
    )
    assert source == target
    assert sorted(source) == sorted(outcome["key_ids"])


def _delivered(deployment: Deployment, kme: str, relay_id: str) -> dict[str, str]:
    answer = deployment.compose("exec", "-T", kme, "kme", "keys", "--json", "--reveal")
    assert answer.code == 0, answer.err
    keys = [key for key in answer.json()["keys"] if key["relay_id"] == relay_id]
    return {key["key_id"]: key["key"] for key in keys if key["state"] == "delivered"}


def test_the_page_shows_the_network_as_it_is_and_can_only_be_looked_at(deployment: Deployment) -> None:
    port = int(read(deployment.folder / ".env")["QKDRELAY_PAGE_PORT"])
    shown = HTTPConnection("127.0.0.1", port, timeout=20)
    shown.request("GET", "/events")
    stream = shown.getresponse()

    def link_states() -> list[str]:
        """What the next section with the network says of the link between kme-7 and kme-8, once all were heard."""

        def section() -> dict[str, Any] | None:
            while stream.readline() != b"event: network\n":
                pass
            network: dict[str, Any] = json.loads(stream.readline().removeprefix(b"data: "))
            states = {kme["state"] for kme in network["kmes"]}
            assert states <= {"healthy", "not heard yet"}
            return network if states == {"healthy"} else None

        network = eventually(section, what="all KMEs to be healthy")
        return [
            way["state"]
            for link in network["links"]
            if link["link"] == ["kme-7", "kme-8"]
            for way in link["directions"]
        ]

    assert link_states() == ["up", "up"]
    for way, states in (("down", ["down", "down"]), ("up", ["up", "up"])):
        assert deployment.coordinator("link", way, "kme-7", "kme-8").code == 0
        eventually(lambda states=states: link_states() == states, what=f"the link {way} on the page")
    shown.close()
    acts = HTTPConnection("127.0.0.1", port, timeout=20)
    acts.request("POST", "/events", b"{}")
    assert acts.getresponse().status == 405
    acts.close()


def test_the_logs_of_compose_alone_show_a_share_on_its_whole_way(deployment: Deployment) -> None:
    answer = deployment.coordinator(*REFERENCE_RELAY, "--linger", "5", "--json")
    relay_id = answer.json()["relay_id"]
    logs = deployment.compose("logs", "--no-color").out
    lines = [json.loads(line[line.index("{") :]) for line in logs.splitlines() if f'"{relay_id}"' in line]
    way = [line for line in lines if line.get("route") and "kme-1>kme-3>kme-5>kme-8".startswith(line["route"])]
    seen = [(line["kme"], line["event"], line["route"]) for line in sorted(way, key=lambda line: line["timestamp"])]
    steps = [
        ("kme-1", "share.split", "kme-1"),
        ("kme-1", "share.sent", "kme-1>kme-3"),
        ("kme-3", "share.split", "kme-1>kme-3"),
        ("kme-3", "share.sent", "kme-1>kme-3>kme-5"),
        ("kme-5", "share.forwarded", "kme-1>kme-3>kme-5"),
        ("kme-5", "share.sent", "kme-1>kme-3>kme-5>kme-8"),
        ("kme-8", "share.collected", "kme-1>kme-3>kme-5>kme-8"),
    ]
    assert [step for step in seen if step in steps] == steps


def test_what_the_documents_show_works_as_typed(deployment: Deployment) -> None:
    """In a shell that knows nothing of the engine, with or without a terminal."""
    relay_id = deployment.coordinator(*REFERENCE_RELAY, "--linger", "5", "--json").json()["relay_id"]
    eventually(lambda: _delivered(deployment, "kme-8", relay_id), what="the keys")
    environment = {name: value for name, value in deployment.environment.items() if name != "DOCKER_HOST"}
    shell = replace(deployment, environment=environment)
    engine = shell.run("infra/docker/ensure-engine.sh", "--running")
    if engine.code or os.environ["DOCKER_HOST"] not in engine.out:
        shell = deployment  # an engine of the caller's own choice, which only the variable names
    pages = [(stack.ROOT / "docs" / name).read_text() for name in ("commands.md", "operating.md")]
    at_a_kme = re.findall(r"^infra/docker/compose\.sh exec kme-8 kme .*$", pages[0], re.MULTILINE)
    a_share = re.findall(r"^infra/docker/compose\.sh logs .*$", pages[1], re.MULTILINE)
    keys, forget, logs = (re.sub(r"\b[0-9a-f]{8}\b", relay_id[:8], line) for line in (*at_a_kme, *a_share))
    assert relay_id[:8] in shell.run("bash", "-c", keys).out
    events = [json.loads(line)["event"] for line in shell.run("bash", "-c", logs).out.splitlines()]
    assert events.count("share.sent") == 3
    assert {"share.split", "share.forwarded", "share.collected", "split.rebuilt"} <= set(events)
    terminal = shell.run("script", "--quiet", "--return", "--command", forget, "/dev/null")
    assert f"the keys of relay {relay_id} are deleted" in terminal.out
    assert not _delivered(deployment, "kme-8", relay_id)


def test_a_service_that_does_not_become_healthy_is_named_with_the_reason(deployment: Deployment) -> None:
    def password(new: str) -> None:
        changed = deployment.compose("exec", "-T", "rabbitmq", "rabbitmqctl", "change_password", "kme-3", new)
        assert changed.code == 0, changed.err
        assert deployment.compose("restart", "kme-3").code == 0

    assert "kme-3\thealthy\t\n" in deployment.run("infra/docker/status.sh").out
    password("another")
    try:
        waited = deployment.run("infra/docker/wait-healthy.sh", "15")
        assert waited.code == 1
        assert "10 of 11 healthy; starting: kme-3" in waited.err
        assert "does not accept user 'kme-3' with this password" in waited.err
        assert "--- the last lines of kme-3" in waited.err
    finally:
        password(read(deployment.folder / ".env")["PASSWORD_KME_3"])
    assert deployment.run("infra/docker/wait-healthy.sh").code == 0


def test_the_lab_is_off_unless_it_was_switched_on(deployment: Deployment) -> None:
    for arguments in (["compromise", "kme-4", "--mode", "leak"], ["restore", "kme-4"], ["attack", "abcdef12"]):
        answer = deployment.coordinator("lab", *arguments)
        assert answer.code == 2
        assert "the lab is off" in answer.err
        assert "make up LAB=1" in answer.err


def test_secrets_are_fresh_and_for_their_owner_only(deployment: Deployment) -> None:
    env_file = deployment.folder / ".env"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    values = [line.split("=", 1)[1] for line in env_file.read_text().splitlines() if "SECRET" in line.split("=")[0]]
    assert len(values) == len(set(values)) == 13
    text = "".join(path.read_text() for path in (deployment.folder / "deploy").rglob("*") if path.is_file())
    assert not [value for value in values if value in text]


def test_compose_reads_in_dotenv_what_provisioning_reads(deployment: Deployment, tmp_path: Path) -> None:
    """Whichever compose is here; what versions read differently is refused (test_dotenv_properties)."""
    shutil.copytree(stack.ROOT / "infra", tmp_path / "infra")
    signs, shuffled = [chr(code) for code in range(32, 127)], Random(1)
    values = ["pa$ss", "a b", "", *("".join(shuffled.choices(signs, k=shuffled.randint(1, 8))) for _ in range(2_000))]
    lines = []
    for number, value in enumerate(values):
        with suppress(SettingsError):
            lines.append(assignment(f"V{number}", value))
    assert len(lines) > 500
    (tmp_path / ".env").write_text("\n".join(lines))
    written = read(tmp_path / ".env")
    variables = "".join(f'      {name}: "${{{name}?}}"\n' for name in written)
    service = f"  any:\n    image: {stack.IMAGE}\n    network_mode: none\n    environment:\n{variables}"
    (tmp_path / "docker-compose.yml").write_text(f'version: "2.4"\nservices:\n{service}')
    environment = {**deployment.environment, "COMPOSE_PROJECT_NAME": f"qkdrelay-test-{secrets.token_hex(4)}"}
    show = ("run", "--rm", "-T", "any", "python", "-c", "import json, os; print(json.dumps(dict(os.environ)))")
    shown = replace(deployment, folder=tmp_path, environment=environment).compose(*show)
    assert shown.code == 0, shown.err
    assert {name: value for name, value in shown.json().items() if name in written} == written


def test_every_container_is_confined(deployment: Deployment) -> None:
    import docker  # noqa: PLC0415

    project = deployment.environment["COMPOSE_PROJECT_NAME"]
    containers = docker.from_env().containers.list(filters={"label": f"com.docker.compose.project={project}"})
    assert len(containers) == 11
    for container in containers:
        host = container.attrs["HostConfig"]
        assert host["ReadonlyRootfs"], container.name
        assert host["CapDrop"] == ["ALL"], container.name
        assert host["Ulimits"] == [{"Name": "core", "Hard": 0, "Soft": 0}], container.name
        assert container.attrs["Config"]["User"] not in ("", "0", "root"), container.name
        for bindings in (container.attrs["NetworkSettings"]["Ports"] or {}).values():
            assert all(binding["HostIp"] == "127.0.0.1" for binding in bindings or [])
