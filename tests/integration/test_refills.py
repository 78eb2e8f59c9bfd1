"""Supply as the coordinator refills it: a whole network in one process, with applications at three KMEs."""

from kme.applications import KeyRequest
from kme.supply.slave_keys import SlaveLimits
from kme.supply.target import TargetSide
from support.applications import DIRECTORY, SAES, caller
from support.network import Network


class Refilled(Network):
    """The reference network with SAEs at three KMEs, and the coordinator in its own place."""

    def __init__(self, **options):
        directories = dict.fromkeys(("kme-1", "kme-5", "kme-8"), DIRECTORY)
        super().__init__(**{"directories": directories, "slaves": _slaves, **options})

    def ask(self, master, slave, number=1, size_bits=256, level=None):
        """Return the answer to come."""
        answer = self.keys_of[SAES[master]].take(caller(master), KeyRequest(slave, number, size_bits, level))
        self.settle()
        return answer

    def fetch(self, slave, master, keys):
        answer = self.keys_of[SAES[slave]].fetch(caller(slave), master, [key.key_id for key in keys])
        self.settle()
        return answer.result(timeout=0)


def _slaves(name, store):
    def is_expected(relay_id):
        relay = store.relays.get(relay_id)
        return relay is not None and relay.role == "target" and relay.state == "expecting"

    return TargetSide(
        name,
        store.journal.batch,
        store.applications,
        is_expected=is_expected,
        random=bytes,
        limits=SlaveLimits(),
    )


def test_a_cold_pair_of_kmes_has_its_first_key_from_one_relay():
    network = Refilled()
    taken = network.ask("sae-1", "sae-8", 2).result(timeout=0)
    assert [key.key for key in network.fetch("sae-8", "sae-1", taken)] == [key.key for key in taken]
    assert {(key.compromised, key.route) for key in taken} == {(1, "relayed")}
