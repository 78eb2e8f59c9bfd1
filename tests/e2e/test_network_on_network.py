"""A network on a network, set up as docs/devices.md says: the upper one's KMEs are SAEs of the lower one's.

What cuts the lower network is said at the upper one's links that have their key from it, which come back by themselves.
"""

from __future__ import annotations

import json
import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support import stack
from support.deployment import Deployment, brought_up
from support.saes import sae_at
from support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(400)]

AT = {"north": "kme-1", "east": "kme-4", "west": "kme-2", "south": "kme-3"}
"""Where the upper network's KMEs are SAEs of the lower one."""
ON_LOWER = {("north", "east"): "", ("west", "south"): "keeps_uncollected = true, "}
"""Links that have their key from the lower network, and what else the topology says of them."""
SIMULATED = (("north", "west"), ("east", "south"))
BACK_WITHIN_S = 90.0


@dataclass(frozen=True)
class Networks:
    """The lower network, and the upper one on it."""

    lower: Deployment
    upper: Deployment
    address: str
    """At which the lower one's KMEs serve applications."""

    def keys_of_link(self, a: str, b: str) -> dict[str, Any]:
        """Return what `coordinator network` says of one direction of a link of the upper network."""
        links = self.upper.coordinator("network", "--json").json()["links"]
        (found,) = (way for link in links for way in link["directions"] if (way["from"], way["to"]) == (a, b))
        return dict(found)

    def granted(self, a: str, b: str) -> int:
        """Return how many blocks of key both ends of a link have agreed on, so far, in one direction."""
        return int(self.keys_of_link(a, b)["key"]["blocks_granted"])

    def relay(self, source: str, target: str, keys: int = 10, timeout_s: int = 30) -> dict[str, Any]:
        asked = ("--keys", str(keys), "--timeout", str(timeout_s), "--json")
        answer = self.upper.coordinator("relay", source, target, *asked)
        assert answer.code in (0, 1), answer.err
        outcome: dict[str, Any] = answer.json()
        return outcome

    def delivered(self, kme: str, relay_id: str) -> dict[str, str]:
        """Return the keys of a relay at ``kme``, by id, once they are released there."""

        def there() -> dict[str, str]:
            listed = self.in_container(kme, "kme", "keys", "--json", "--reveal")["keys"]
            return {
                key["key_id"]: key["key"]
                for key in listed
                if (key["relay_id"], key["state"]) == (relay_id, "delivered")
            }

        return eventually(there, what=f"{kme} to release the keys of {relay_id}")

    def in_container(self, kme: str, *command: str) -> Any:
        done = self.upper.compose("exec", "-T", kme, *command)
        assert done.code == 0, done.err
        return done.json()

    def use_up(self, a: str, b: str) -> dict[str, Any]:
        """Relay over one link until it has too little key left, and return what the last relay says.

        Each takes less than half of the 4 KiB that are granted ahead at least: the link wants more, then.
        """

        def failed() -> dict[str, Any] | None:
            last = self.relay(a, b, 60, timeout_s=5)
            return last if last["state"] == "failed" else None

        return eventually(failed, timeout_s=60, what=f"{a}>{b} to have no key left") or {}

    def is_back(self, a: str, b: str) -> bool:
        """Whether keys get over a link, and it says nothing any more."""
        return self.relay(a, b, timeout_s=5)["state"] == "confirmed" and not self.keys_of_link(a, b)["key"]["why_dry"]


def between_containers() -> str:
    """Return the address at which containers of one network reach ports that those of another publish."""
    import docker  # noqa: PLC0415 - slow, and only these tests need it

    return str(docker.from_env().networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"])


def upper_topology(saes: dict[str, Any]) -> str:
    """Return the file of the upper network; ``saes`` is deploy/saes.json of the lower one."""
    text = f'name = "upper"\nkmes = {json.dumps(list(AT))}\nlinks = [\n'
    for (a, b), note in ON_LOWER.items():
        devices = ", ".join(f'{kme} = {{ url = "{saes[kme]["url"]}", sae = "{kme}" }}' for kme in (a, b))
        text += f'["{a}", "{b}", {{ source = "etsi014", {note}devices = {{ {devices} }} }}],\n'
    return text + "".join(f'["{a}", "{b}"],\n' for a, b in SIMULATED) + "]\n"


def set_up(lower: Deployment, folder: Path) -> Path:
    """Make SAEs of the upper network's KMEs, have their files where they belong, and return its topology's file."""
    for sae, kme in list(AT.items())[1:]:
        assert lower.coordinator("saes", "add", sae, kme).code == 0
    path = folder / "upper.toml"
    path.write_text(upper_topology(json.loads((lower.folder / "deploy/saes.json").read_text())))
    provisioned = stack.command("coordinator", "provision", str(path), "--out", str(folder))
    assert provisioned.code == 0, provisioned.err
    for kme, peer in (end for a, b in ON_LOWER for end in ((a, b), (b, a))):
        for file in (lower.folder / "deploy/saes" / kme).iterdir():
            shutil.copy(file, folder / "deploy/devices" / kme / peer)
    return path


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Networks]:
    folder, address = tmp_path_factory.mktemp("networks"), between_containers()
    (folder / "lower.toml").write_text((stack.TOPOLOGIES / "diamond.toml").read_text() + '[saes]\nnorth = "kme-1"\n')
    with brought_up(folder / "lower", str(folder / "lower.toml"), QKDRELAY_ETSI014_ADDRESS=address) as lower:
        (folder / "upper").mkdir()
        with brought_up(folder / "upper", str(set_up(lower, folder / "upper"))) as upper:
            networks = Networks(lower, upper, address)
            for way in (way for link in ON_LOWER for way in (link, link[::-1])):
                eventually(partial(networks.granted, *way), timeout_s=BACK_WITHIN_S, what=f"key of {way}")
            yield networks


def test_a_link_is_tried_from_both_ends_by_the_name_of_the_other(networks: Networks) -> None:
    drawn = networks.in_container("north", "kme", "try-device", "east", "--number", "2", "--json")
    ids = ",".join(key["key_id"] for key in drawn["keys"])
    fetched = networks.in_container("east", "kme", "try-device", "north", "--fetch", ids, "--json")
    assert fetched["keys"] == drawn["keys"]
    assert len(drawn["keys"]) == 2


def test_relays_over_both_kinds_of_links_have_equal_keys_at_both_ends(networks: Networks) -> None:
    for source, target in (("north", "south"), ("north", "east"), ("south", "west")):
        outcome = networks.relay(source, target)
        assert outcome["state"] == "confirmed", outcome["reason"]
        keys = networks.delivered(source, outcome["relay_id"])
        assert len(keys) == 10
        assert networks.delivered(target, outcome["relay_id"]) == keys
    for a, b in (*ON_LOWER, *SIMULATED):
        said = networks.keys_of_link(a, b)
        assert said["key"]["source"] == ("etsi014" if (a, b) in ON_LOWER else "simulated")
        assert said["key"]["blocks_granted"] >= 1
        assert said["rate_bps"] > 0
        assert said["key"]["why_dry"] == ""
    logs = networks.upper.compose("logs", "--no-color").out + networks.lower.compose("logs", "--no-color").out
    assert not [key for key in keys.values() if key in logs]


def test_it_is_served_steadily_with_nothing_tuned(networks: Networks) -> None:
    before = networks.keys_of_link("east", "north")["key"]
    for _ in range(5):
        assert networks.relay("east", "north", 1_000)["state"] == "confirmed"
    requests = 5 * 1_000 // 128
    eventually(lambda: networks.granted("east", "north") - before["blocks_granted"] >= requests, what="it to be said")
    key = networks.keys_of_link("east", "north")["key"]
    assert (key["blocks_given_up"], key["why_dry"]) == (before["blocks_given_up"], "")


@contextmanager
def cut(networks: Networks, a: str, b: str) -> Iterator[None]:
    """Have a link of the lower network down meanwhile."""
    down = networks.lower.coordinator("link", "down", a, b)
    assert down.code == 0, down.err
    try:
        yield
    finally:
        up = networks.lower.coordinator("link", "up", a, b)
        assert up.code == 0, up.err


@contextmanager
def killed(networks: Networks, kme: str) -> Iterator[None]:
    """Have a KME of the lower network killed meanwhile."""
    kill = networks.lower.compose("kill", kme)
    assert kill.code == 0, kill.err
    try:
        yield
    finally:
        start = networks.lower.compose("start", kme)
        assert start.code == 0, start.err


def drained(networks: Networks, master: str, slave: str) -> str:
    """Take all keys that the lower network has for a pair, as its master, and return what it says then."""
    folder = networks.lower.folder / "deploy/saes" / master
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    port = json.loads((networks.lower.folder / "deploy/saes.json").read_text())[master]["url"].rpartition(":")[2]
    with sae_at(int(port), context, networks.address) as sae:
        for number in (128, 1):
            while (answer := sae.get(slave, "enc_keys", f"?number={number}"))[0] == 200:
                pass
    assert answer[0] == 503
    return str(answer[2]["message"])


def test_while_the_lower_network_is_cut_the_link_says_why_and_comes_back_by_itself(networks: Networks) -> None:
    with cut(networks, "kme-1", "kme-2"):
        said = drained(networks, "north", "east")
        assert "the QKD link to east has no key left" in networks.use_up("north", "east")["reason"]
        key = eventually(lambda: (key := networks.keys_of_link("north", "east")["key"])["why_dry"] and key)
        assert key["why_dry"] == f"enc_keys: it gives none now (503: {said})"
        for a, b in SIMULATED:
            assert networks.relay(a, b)["state"] == "confirmed", "the other links go on"
    eventually(lambda: networks.is_back("north", "east"), timeout_s=BACK_WITHIN_S, what="the link to come back")


def test_while_a_kme_of_the_lower_network_is_down_the_link_says_so_and_comes_back_by_itself(networks: Networks) -> None:
    with killed(networks, "kme-3"):
        assert "the QKD link to west has no key left" in networks.use_up("south", "west")["reason"]
        key = eventually(lambda: (key := networks.keys_of_link("south", "west")["key"])["why_dry"] and key)
        assert key["why_dry"].startswith("enc_keys: no connection: ")
    eventually(lambda: networks.is_back("south", "west"), timeout_s=BACK_WITHIN_S, what="the link to come back")
