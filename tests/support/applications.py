"""A network with applications: SAEs at three KMEs of the reference network, and what passes between them and KMEs."""

from kme.applications import KEYS_PER_REQUEST_MAX, Caller, KeyRequest
from qkdrelay.network.directory import Directory, Sae
from support.courier import Courier
from support.network import Network

SAES = {"sae-1": "kme-1", "sae-2": "kme-1", "sae-8": "kme-8", "sae-9": "kme-8", "sae-5": "kme-5"}
DIRECTORY = Directory({sae: Sae(sae, kme) for sae, kme in SAES.items()})


def caller(sae):
    return Caller(sae, "00" * 32)


class Applications(Network):
    """The reference network with SAEs at three KMEs; ``carried_by`` is in the coordinator's place."""

    carried_by = Courier

    def __init__(self, **options):
        directories = dict.fromkeys(("kme-1", "kme-5", "kme-8"), DIRECTORY)
        super().__init__(**{"directories": directories, **options})
        self.courier = self.carried_by(self)
        self.courier.run()

    def ask(self, master, slave, number=1, size_bits=256, level=None):
        """Return the answer to come."""
        keys = self.keys_of[SAES[master]]
        answer = keys.take(caller(master), KeyRequest(slave, number, size_bits, level))
        self.courier.run()
        return answer

    def take(self, *asked, **wishes):
        return self.ask(*asked, **wishes).result(timeout=0)

    def fetch(self, slave, master, key_ids):
        """Fetch them, as many at once as can be."""
        fetched = []
        for start in range(0, len(key_ids), KEYS_PER_REQUEST_MAX):
            some = key_ids[start : start + KEYS_PER_REQUEST_MAX]
            answer = self.keys_of[SAES[slave]].fetch(caller(slave), master, some)
            self.courier.run()
            fetched += answer.result(timeout=0)
        return fetched

    def held(self, kme, key_id):
        """Return what the slaves' KME holds under this id: (master, slave), key."""
        key = self.stores[kme].applications.get([key_id]).get(key_id)
        return key and ((key.master, key.slave), key.key)

    def pass_time(self, seconds):
        self.time.forward(seconds)
        self.courier.run()


class Whole(Applications):
    """The whole network, its own coordinator included."""

    class carried_by:  # noqa: N801 - in a courier's place
        def __init__(self, network):
            self.run = network.settle
