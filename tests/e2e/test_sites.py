"""Sites in bundles, each its own compose project with its own broker, joined by their brokers' TLS ports alone."""

from __future__ import annotations

import io
import json
import re
import secrets
import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pika
import pytest
from cryptography import x509
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker, ConnectionClosedByBroker

from qkdrelay import __version__
from qkdrelay.broker.contents import CONNECTIONS_MAX, CONNECTIONS_PER_QUEUE
from qkdrelay.broker.names import answer_queues, control_queue, link_queue
from qkdrelay.broker.rabbitmq import RabbitMqSettings
from qkdrelay.broker.rabbitmq.site_client import SiteClient
from qkdrelay.client import CoordinatorClient
from qkdrelay.errors import BrokerUnreachableError
from qkdrelay.messages.network_answers import NetworkView
from qkdrelay.messages.requests import NetworkRequest
from qkdrelay.network.topology_file import load_topology
from qkdrelay.service import dotenv_file
from qkdrelay_deployment.certificates import Authority
from support import stack
from support.sites import TLS, Bundles, away, bundles, connect, shown, until_confirmed, until_whole
from support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

SITES = {"berlin": ("kme-1",), "munich": ("kme-2",), "bonn": ("kme-3", "kme-4")}
ACCESS_REFUSED = 403


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundles]:
    with bundles(tmp_path_factory.mktemp("sites"), load_topology(stack.TOPOLOGIES / "diamond.toml"), SITES) as made:
        made.up("bonn")
        made.up("munich")
        made.up("berlin")
        until_whole(made)
        yield made


@pytest.fixture
def disturbed(network: Bundles) -> Iterator[None]:
    """For a test that kills something: leave the network whole."""
    yield
    network.up()
    until_whole(network)


def keys(network: Bundles, kme: str, relay_id: str) -> list[str]:
    site = network.topology.site_of[kme]
    listed = json.loads(network.compose(site, "exec", "-T", kme, "kme", "keys", "--reveal", "--json").out)["keys"]
    return [key["key"] for key in listed if key["relay_id"] == relay_id and "key" in key]


@pytest.mark.parametrize("ends", [("kme-1", "kme-4"), ("kme-4", "kme-1"), ("kme-2", "kme-3"), ("kme-3", "kme-4")])
def test_keys_go_from_site_to_site_and_within_one(network: Bundles, ends: tuple[str, str]) -> None:
    outcome = network.coordinator("relay", *ends, "--keys", "2", "--allow-unprotected", "--json").json()
    assert outcome["state"] == "confirmed"
    source, target = (eventually(lambda kme=kme: keys(network, kme, outcome["relay_id"])) for kme in ends)
    assert source == target
    assert len(set(source)) == 2


@pytest.mark.usefixtures("disturbed")
def test_a_site_that_is_away_is_named_and_what_is_for_it_waits(network: Bundles) -> None:
    assert network.compose("munich", "kill", "rabbitmq").code == 0
    eventually(lambda: set(away(shown(network)).get("munich", ())) == {"coordinator", "kme-1", "kme-4"}, timeout_s=60)
    assert "site munich cannot be read" in network.ready("berlin", "kme-1")
    assert network.ready("berlin", "kme-1").startswith("ok")
    direct = network.coordinator("relay", "kme-1", "kme-3", "--allow-unprotected", "--json").json()
    assert direct["state"] == "confirmed"
    asked = network.coordinator("relay", "kme-1", "kme-4", "--timeout", "300", "--no-wait", "--json").json()
    network.up("munich")
    relay_id = asked["relay_id"]

    def state() -> str:
        return str(network.coordinator("show", relay_id, "--json").json()["state"])

    eventually(lambda: state() == "confirmed", timeout_s=120, what="the relay over munich to be confirmed")


def test_a_site_reads_what_is_for_it_at_the_brokers_of_others_and_does_nothing_else(network: Bundles) -> None:
    """Whoever has bonn's certificate."""
    for site, its_own in (
        ("munich", {link_queue("kme-2", "kme-4")}),
        (
            "berlin",
            {link_queue("kme-1", "kme-3"), *map(control_queue, ("kme-3", "kme-4")), *answer_queues("bonn")},
        ),
    ):
        listed = json.loads((network.folder / site / "deploy" / "definitions.json").read_text())
        assert its_own <= {queue["name"] for queue in listed["queues"]}
        refused = {queue["name"] for queue in listed["queues"] if not allowed(network, site, reading(queue["name"]))}
        assert refused == {queue["name"] for queue in listed["queues"]} - its_own
        for exchange in [exchange["name"] for exchange in listed["exchanges"]] + [""]:
            assert not allowed(network, site, writing(exchange))
        queue = min(its_own)
        for attempt in (
            lambda channel: channel.queue_declare("mine"),
            lambda channel, queue=queue: channel.queue_delete(queue),
            lambda channel, queue=queue: channel.queue_bind(queue, "amq.direct", "mine"),
            lambda channel: channel.exchange_declare("mine"),
        ):
            assert not allowed(network, site, attempt)


def test_nobody_gets_in_between_sites_but_by_a_certificate_of_its_name(network: Bundles, tmp_path: Path) -> None:
    own = network.folder / "bonn" / TLS / "site"
    for user in ("operator", "kme-1", "coordinator", "cli", "site.munich", "site.bonn", "guest"):
        for password in ("", user, "guest"):
            with pytest.raises(AMQPConnectionError):
                connect(network, "berlin", own, pika.PlainCredentials(user, password))
    stranger = Authority.new("three")
    for name in ("site.bonn", "operator"):
        folder = tmp_path / name
        folder.mkdir()
        certificate, key = stranger.issue(name)
        (folder / "ca.pem").write_bytes((own / "ca.pem").read_bytes())
        (folder / "cert.pem").write_text(certificate)
        (folder / "key.pem").write_text(key)
        with pytest.raises(AMQPConnectionError):
            connect(network, "berlin", folder, pika.credentials.ExternalCredentials())
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "ca.pem").write_bytes((own / "ca.pem").read_bytes())
    with pytest.raises(AMQPConnectionError):
        connect(network, "berlin", bare, pika.credentials.ExternalCredentials())
    # A broker's own certificate names nobody who could log in.
    with pytest.raises(AMQPConnectionError):
        connect(network, "berlin", network.folder / "bonn" / TLS / "rabbitmq", pika.credentials.ExternalCredentials())


def take_over_certificates(network: Bundles) -> None:
    """As docs/sites.md says, once they are provisioned."""
    network.provision()
    for site in network.topology.sites:
        network.rabbitmqctl(site, "eval", "ssl:clear_pem_cache().")
        network.rabbitmqctl(site, "close_all_connections", "certificates are new")
    until_whole(network)


def test_certificates_and_their_authority_are_renewed_while_all_goes_on(network: Bundles, tmp_path: Path) -> None:
    bonn, at = network.folder / "bonn" / TLS, network.topology.sites["bonn"]
    started = network.compose("bonn", "ps", "-q").out

    def certificates() -> set[bytes]:
        return {(bonn / name / "cert.pem").read_bytes() for name in ("site", "rabbitmq")}

    def presented() -> bytes:
        return ssl.get_server_certificate((at.host, at.port)).encode()

    first = certificates()
    for name in ("site", "rabbitmq"):
        (bonn / name / "cert.pem").unlink()
    take_over_certificates(network)
    assert certificates().isdisjoint(first)
    assert x509.load_pem_x509_certificate(presented()) == certificate(bonn / "rabbitmq")

    shutil.copytree(bonn / "site", tmp_path / "stolen")
    connect(network, "berlin", tmp_path / "stolen", pika.credentials.ExternalCredentials()).close()
    shutil.rmtree(network.folder / "authority")
    take_over_certificates(network)
    assert x509.load_pem_x509_certificate(presented()) == certificate(bonn / "rabbitmq")
    (tmp_path / "stolen" / "ca.pem").write_bytes((bonn / "site" / "ca.pem").read_bytes())
    with pytest.raises(AMQPConnectionError):
        connect(network, "berlin", tmp_path / "stolen", pika.credentials.ExternalCredentials())
    assert network.coordinator("relay", "kme-1", "kme-4", "--json").json()["state"] == "confirmed"
    assert network.compose("bonn", "ps", "-q").out == started


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())


def test_a_site_that_takes_all_it_can_have_at_anothers_broker_leaves_what_others_need(network: Bundles) -> None:
    own, queue = network.folder / "bonn" / TLS / "site", link_queue("kme-2", "kme-4")
    most = CONNECTIONS_MAX + CONNECTIONS_PER_QUEUE
    with ExitStack() as held:

        def take() -> pika.BlockingConnection:
            connection = connect(network, "munich", own, pika.credentials.ExternalCredentials())
            held.callback(lambda: connection.is_open and connection.close())
            return connection

        with pytest.raises(AMQPConnectionError, match=f"limit \\({most}\\) is reached"):
            [take() for _ in range(most + 1)]
        relay = network.coordinator("relay", "kme-1", "kme-2", "--allow-unprotected", "--json").json()
        assert relay["state"] == "confirmed"
    channel = take().channel()
    with pytest.raises(ConnectionClosedByBroker, match="consumers per channel"):
        [reading(queue)(channel) for _ in range(17)]


def test_each_site_asks_for_what_concerns_it_and_is_told_of_nothing_else(network: Bundles) -> None:
    asked = ("--allow-unprotected", "--json")
    own, other = (
        network.cli("munich", "relay", "kme-2", "kme-3", *asked).json(),
        network.cli("bonn", "relay", "kme-4", "kme-1", *asked).json(),
    )
    assert {own["state"], other["state"]} == {"confirmed"}
    refused = network.cli("munich", "relay", "kme-1", "kme-4", *asked)
    assert refused.code != 0
    assert "error: neither kme-1 nor kme-4 is at this site\nhint: one of them must be kme-2" in refused.err
    listed = network.cli("munich", "relays", "--limit", "1000", "--json").json()["relays"]
    assert own["relay_id"] in {relay["relay_id"] for relay in listed}
    assert all("kme-2" in (relay["source"], relay["target"]) for relay in listed)
    assert "there is no relay" in network.cli("munich", "show", other["relay_id"]).err
    seen = network.cli("munich", "network", "--json").json()
    assert {kme["name"] for kme in seen["kmes"]} == {"kme-1", "kme-2", "kme-4"}
    for command in (("dead-letters", "list"), ("watch",), ("link", "down", "kme-1", "kme-3")):
        answer = network.cli("munich", *command)
        assert answer.code != 0
        assert "Traceback" not in answer.err
        assert "hint: " in answer.err
    assert network.cli("berlin", "show", other["relay_id"], "--json").json()["state"] == "confirmed"


def test_four_command_lines_of_a_site_are_answered_at_a_time(network: Bundles) -> None:
    said = dotenv_file.read(network.folder / "munich" / ".env")
    at = network.topology.sites["berlin"]
    home = RabbitMqSettings(
        addresses=f"127.0.0.1:{said['QKDRELAY_AMQP_PORT']}", user="cli", password=said["QKDRELAY_CLI_PASSWORD"]
    )
    own = network.folder / "munich" / TLS / "site"
    coordinator = RabbitMqSettings(addresses=at.broker, user="site.munich", password=None, tls=own)
    key = bytes.fromhex(said["SITE_KEY_MUNICH"])
    with ExitStack() as open_ones:
        clients = [open_ones.enter_context(SiteClient(home, coordinator, "munich")) for _ in range(4)]
        assert len({client.address for client in clients}) == 4
        for client in clients:
            assert CoordinatorClient(client, key).ask(NetworkRequest(), NetworkView).name == network.topology.name
        with pytest.raises(BrokerUnreachableError, match="4 command lines of this site are at work"):
            SiteClient(home, coordinator, "munich")
    with SiteClient(home, coordinator, "munich") as client, pytest.raises(BrokerUnreachableError):
        CoordinatorClient(client, secrets.token_bytes(32)).ask(NetworkRequest(), NetworkView)


@pytest.mark.usefixtures("disturbed")
def test_secrets_are_renewed_one_after_the_other_and_no_share_is_lost(network: Bundles) -> None:
    """As docs/sites.md says: of a simulated link, between coordinator and KME, and of a site's command line."""
    relays: list[str] = []

    def ask() -> None:
        for source, target in (("kme-1", "kme-4"), ("kme-4", "kme-1"), ("kme-2", "kme-3")):
            told = ("--timeout", "600", "--allow-unprotected", "--no-wait", "--json")
            relays.append(network.coordinator("relay", source, target, *told).json()["relay_id"])

    def renew(name: str, *sites: str) -> None:
        before = {site: dotenv_file.read(network.folder / site / ".env") for site in sites}
        for site, said in before.items():
            lines = (f"{other}={value}\n" for other, value in said.items() if other != name)
            (network.folder / site / ".env").write_text("".join(lines))
        network.provision()
        after = {dotenv_file.read(network.folder / site / ".env")[name] for site in sites}
        assert len(after) == 1
        assert after.isdisjoint(said[name] for said in before.values())
        for site in sites:
            ask()
            network.up(site)

    ask()
    assert network.cli("munich", "link", "down", "kme-1", "kme-2").code == 0
    ask()
    for site, queue in (("berlin", link_queue("kme-1", "kme-2")), ("munich", link_queue("kme-2", "kme-1"))):
        eventually(lambda s=site, q=queue: network.waiting(s)[q] == 0, timeout_s=60, what=f"{queue} to be empty")
    renew("LINK_SECRET_KME_1__KME_2", "munich", "berlin")
    until_whole(network)
    assert network.cli("munich", "link", "up", "kme-1", "kme-2").code == 0
    renew("CONTROL_KEY_KME_4", "berlin", "bonn")
    renew("SITE_KEY_MUNICH", "berlin", "munich")
    until_whole(network)
    until_confirmed(network, relays)
    assert network.cli("munich", "network").code == 0
    letters = network.coordinator("dead-letters", "list", "--json").json()["dead_letters"]
    assert not [letter for letter in letters if letter["queue"].startswith("link.")]


@pytest.fixture
def later_version() -> Iterator[str]:
    """An image of a version to come, which speaks as this one does."""
    import docker  # noqa: PLC0415 - slow, and only this test needs it

    raise_it = (
        "sed -i 's/^__version__ = .*/__version__ = \"99.0.0\"/' $(python -c 'import qkdrelay as q; print(q.__file__)')"
    )
    text = f"FROM {stack.IMAGE}\nUSER root\nRUN {raise_it}\nUSER 10001:10001\n"
    client = docker.from_env()
    image, _ = client.images.build(fileobj=io.BytesIO(text.encode()), tag="qkdrelay:later", rm=True)
    yield "qkdrelay:later"
    client.images.remove(image.id, force=True)


@pytest.mark.usefixtures("disturbed")
def test_sites_are_upgraded_one_after_the_other_and_back_while_relays_are_under_way(
    network: Bundles, later_version: str
) -> None:
    """The coordinator's site last, and first on the way back; each shows its version meanwhile."""
    relays: list[str] = []

    def versions() -> dict[str, str]:
        return {kme["name"]: kme["version"] for kme in shown(network)["kmes"]}

    def run(site: str, image: str) -> None:
        dotenv = network.folder / site / ".env"
        dotenv.write_text(re.sub("(?m)^QKDRELAY_IMAGE=.*", f"QKDRELAY_IMAGE={image}", dotenv.read_text()))
        for source, target in (("kme-1", "kme-4"), ("kme-4", "kme-1"), ("kme-2", "kme-3")):
            told = ("--timeout", "600", "--allow-unprotected", "--no-wait", "--json")
            relays.append(network.coordinator("relay", source, target, *told).json()["relay_id"])
        network.up(site)
        until_whole(network)

    before = versions()
    assert set(before.values()) == {__version__}
    for number, site in enumerate(("munich", "bonn", "berlin"), 1):
        run(site, later_version)
        assert list(versions().values()).count("99.0.0") == (1, 3, 4)[number - 1]
    for site in ("berlin", "bonn", "munich"):
        run(site, stack.IMAGE)
    assert versions() == before
    until_confirmed(network, relays)


@pytest.mark.usefixtures("disturbed")
def test_a_second_coordinator_takes_over_where_the_first_is_gone(network: Bundles) -> None:
    network.provision(None, "--standby")
    network.up("berlin")
    both = ("coordinator", "coordinator-2")

    def waits(service: str) -> bool:
        return "this coordinator does not lead; it waits" in network.ready("berlin", service)

    eventually(lambda: sorted(map(waits, both)) == [False, True], timeout_s=90, what="one to lead, and one to wait")
    until_whole(network)
    first = next(service for service in both if not waits(service))
    asked = ("relay", "kme-1", "kme-4", "--allow-unprotected", "--json")
    assert network.cli("berlin", *asked).json()["state"] == "confirmed"
    assert network.compose("berlin", "kill", first).code == 0
    second = next(service for service in both if service != first)
    eventually(lambda: not waits(second), timeout_s=60, what="the other to lead")
    assert network.cli("berlin", *asked).json()["state"] == "confirmed"
    network.provision()
    assert network.compose("berlin", "up", "-d", "--remove-orphans").code == 0
    assert "coordinator-2" not in network.compose("berlin", "ps").out


def allowed(network: Bundles, site: str, attempt: Callable[[Any], object]) -> bool:
    """Whether bonn may do something at a broker; what it may not closes the channel, for that reason."""
    own = network.folder / "bonn" / TLS / "site"
    with connect(network, site, own, pika.credentials.ExternalCredentials()) as connection:
        try:
            attempt(connection.channel())
        except ChannelClosedByBroker as closed:
            if closed.reply_code != ACCESS_REFUSED:
                raise
            return False
        return True


def reading(queue: str) -> Callable[[Any], object]:
    return lambda channel: channel.basic_consume(queue, lambda *_: None)


def writing(exchange: str) -> Callable[[Any], object]:
    def write(channel: Any) -> None:
        channel.confirm_delivery()
        channel.basic_publish(exchange, "results.kme-3", b"", mandatory=False)

    return write
