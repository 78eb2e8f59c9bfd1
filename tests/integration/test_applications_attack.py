"""Whoever is in the coordinator's place: the masters' KME never hands out what the slaves' KME does not hold."""

from random import Random

import msgspec
import pytest

from kme.applications import ApplicationError, KeyRequest
from qkdrelay.messages.assignments import Assign, Assigned, AssignRefused, PeerStarted
from qkdrelay.messages.control import Cancel, Confirm, Expect, Start
from support.applications import SAES, Applications, Whole, caller
from support.courier import Courier

PAIRS = [("sae-1", "sae-8"), ("sae-2", "sae-8"), ("sae-1", "sae-9"), ("sae-5", "sae-8")]
REASONS = ["unknown-relay", "range", "sae", "tag", "full", "expired", "reused"]


class Liar(Courier):
    """Withholds, repeats, reorders, alters and invents what it carries."""

    def __init__(self, network, seed=0):
        self.random, self.kept, self.lies = Random(seed), [], True
        super().__init__(network)

    def pass_on(self, kme, message):
        random = self.random
        self.kept.append((kme, message))
        if not self.lies or isinstance(message, (Expect, Start)) or random.random() < 0.4:
            self.tell(kme, message)
        for _ in range(random.choice([0, 1, 2]) if self.lies else 0):
            where, what = random.choice(self.kept)
            self.tell(*random.choice([(where, what), (where, self.altered(what)), self.invented(where, what)]))

    def altered(self, message):
        random = self.random
        if isinstance(message, Assign):
            one = message.assignment
            fields = {
                "offset": random.randrange(32_768),
                "key_count": random.randrange(1, 400),
                "slave": random.choice(["sae-8", "sae-9"]),
                "master": random.choice(["sae-1", "sae-2"]),
                "tag_number": random.randrange(16),
                "usable_until": one.usable_until + 1e6,
            }
            changed = dict(random.sample(sorted(fields.items()), random.randrange(1, 4)))
            return Assign(assignment=msgspec.structs.replace(one, **changed), tag=message.tag)
        if isinstance(message, Assigned):
            other = random.choice([m for _, m in self.kept if isinstance(m, (Assign, Assigned))])
            return msgspec.structs.replace(message, tag=random.choice([other.tag, random.randbytes(16)]))
        if isinstance(message, Confirm):
            return msgspec.structs.replace(message, proof=random.randbytes(16))
        return message

    def invented(self, kme, message):
        random = self.random
        assigns = [m for _, m in self.kept if isinstance(m, Assign)]
        started = PeerStarted(kme=random.choice(["kme-1", "kme-5", "kme-8"]), incarnation=random.randbytes(16))
        if not assigns:
            return kme, started
        one = random.choice(assigns).assignment
        about = {"assign_id": one.assign_id, "relay_id": one.relay_id, "source": one.source, "target": one.target}
        hints = {"first_free_byte": random.randrange(40_000), "first_free_tag": random.randrange(18)}
        return random.choice(
            [
                (one.source, Assigned(**about, tag=random.randbytes(16))),
                (one.source, Assigned(**about, tag=random.choice(assigns).tag)),
                (one.source, AssignRefused(**about, **hints, reason=random.choice(REASONS))),
                (one.source, started),
                (random.choice(list(self.relays.values()))[0], Cancel(relay_id=one.relay_id)),
            ]
        )


class Lied(Applications):
    carried_by = Liar


def checked(network, pair, keys, seen):
    """Compare with what the slaves' KME holds at this moment."""
    for key in keys:
        assert network.held(SAES[pair[1]], key.key_id) == (pair, key.key)
        assert key.key_id not in seen
        assert key.key not in seen
        seen |= {key.key_id, key.key}


@pytest.mark.parametrize("seed", range(6))
def test_what_is_handed_out_the_target_holds_whatever_the_coordinator_does(seed):
    network, random, seen, given = Lied(), Random(seed), set(), 0
    network.courier.random = Random(seed)
    for _ in range(40):
        pair = random.choice(PAIRS)
        request = KeyRequest(pair[1], random.choice([1, 7, 128]), random.choice([64, 256, 2_048]))
        answer = network.keys_of[SAES[pair[0]]].take(caller(pair[0]), request)
        network.courier.run()
        if answer.done() and not isinstance(answer.exception(), ApplicationError):
            checked(network, pair, answer.result(), seen)
            given += len(answer.result())
        network.pass_time(random.choice([0.0, 1.0, 7.0]))
    assert given > 0
    # And once it stops lying, all is well again.
    network.courier.lies = False
    network.pass_time(60.0)
    for pair in PAIRS:
        answer = network.ask(*pair, 3)
        network.pass_time(4.5)
        taken = answer.result(timeout=0)
        checked(network, pair, taken, seen)
        fetched = network.fetch(pair[1], pair[0], [key.key_id for key in taken])
        assert [key.key for key in fetched] == [key.key for key in taken]


class Withholding(Courier):
    """Carries all but messages of one kind."""

    kind = Assigned

    def pass_on(self, kme, message):
        if not isinstance(message, self.kind):
            super().pass_on(kme, message)


@pytest.mark.parametrize("kind", [Assign, Assigned, Confirm])
def test_without_an_answer_or_a_confirmation_nothing_is_handed_out_and_the_request_ends(kind):
    class Carried(Applications):
        carried_by = type("Without", (Withholding,), {"kind": kind})

    network = Carried()
    answer = network.ask("sae-1", "sae-8")
    assert not answer.done()
    network.pass_time(5.5)
    assert "not enough keys" in str(answer.exception(timeout=0))


class WithForgedTags(Courier):
    """Answers and confirms itself."""

    kind = Assigned

    def pass_on(self, kme, message):
        if isinstance(message, Confirm) and self.kind is Confirm:
            message = msgspec.structs.replace(message, proof=bytes(16))
        if isinstance(message, Assign) and self.kind is Assigned:
            one = message.assignment
            about = {"assign_id": one.assign_id, "relay_id": one.relay_id, "source": one.source, "target": one.target}
            self.tell(one.source, Assigned(**about, tag=message.tag))
            return
        super().pass_on(kme, message)


@pytest.mark.parametrize("kind", [Assigned, Confirm])
def test_what_the_target_has_not_tagged_counts_for_nothing(kind):
    class Carried(Applications):
        carried_by = type("Forging", (WithForgedTags,), {"kind": kind})

    network = Carried()
    answer = network.ask("sae-1", "sae-8")
    network.pass_time(5.5)
    assert "not enough keys" in str(answer.exception(timeout=0))


# --- the broker --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("restless")
def test_old_messages_of_every_queue_brought_to_every_queue_give_nobody_a_key(tmp_path):
    """Also once both ends have begun anew: what was ready at the source is gone, and is not ready again."""
    network = Whole(folder=tmp_path)
    old, publish = [], network.hub.publish

    def recorded(user, publication):
        old.append(publication)
        return publish(user, publication)

    network.hub.publish = recorded
    given = {pair: network.take(*pair, 10) for pair in PAIRS}
    fetched = {pair: network.fetch(pair[1], pair[0], [key.key_id for key in given[pair][:5]]) for pair in PAIRS}
    network.hub.publish = publish
    bodies = list(dict.fromkeys(publication.body for publication in old))
    links = [link for a, b in network.topology.links for link in ((a, b), (b, a))]
    seen = {key.key for keys in given.values() for key in keys}
    for begun_anew in ((), ("kme-1", "kme-8"), ("kme-5",)):
        for kme in begun_anew:
            network.restart(kme)
        for body in bodies:
            for kme in network.topology.kmes:
                network.as_coordinator(kme, body)
                network.as_kme(kme, body)
            for link in links:
                network.on_link(*link, body)
            network.as_cli(body)
        network.settle()
        network.pass_time(1.1)
        for pair, keys in fetched.items():
            for master, slave in (pair, *PAIRS):
                with pytest.raises(ApplicationError):
                    network.fetch(slave, master, [keys[0].key_id])
            more = network.take(*pair, 10)
            assert not seen & {key.key for key in more}
            seen |= {key.key for key in more}
    for (master, slave), keys in given.items():
        left = network.fetch(slave, master, [key.key_id for key in keys[5:]])
        assert [(key.key_id, key.key) for key in left] == [(key.key_id, key.key) for key in keys[5:]]
