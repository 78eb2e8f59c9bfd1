"""The steps of tests/models/relay.pml, taken by the code: ends with stores on disk, the coordinator's lifecycle."""

from __future__ import annotations

import os
from pathlib import Path

from coordinator import lifecycle
from coordinator.lifecycle import Relay
from kme.effects import DropShares, KeepRelay, KeepShare, SendReport, SendShare, SupplyChanged, TryRebuild
from kme.endpoint import Endpoint
from kme.forwarding import Forwarding
from kme.model import NodeSettings
from kme.store import open_kme_store
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.control import Cancel, Confirm, Deliver, Expect, Start
from qkdrelay.messages.reports import Confirmed, Expected, Rebuilt, Refused, Started
from qkdrelay.network.plan import Hop, Plan
from support.kme import DEMAND, NOTHING, NOW, RELAY, header, terms
from support.traces import Step

PLAN = Plan.checked("s", "t", {"s": Hop(("t",), 1)})
STATES = {
    "none": {None},
    "expecting": {"expecting"},
    "pending": {"pending"},
    "held": {"held"},
    # Supply is, to the store of its source, forgotten as soon as it is confirmed.
    "delivered": {"delivered", "forgotten"},
    "failed": {"failed"},
    "idle": {None},
    "begun": {"planned", "started"},
    "confirmed": {"confirmed"},
    "given_up": {"failed"},
}


class End:
    """One end of the relay."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.path = name, folder / name / "kme.sqlite"
        settings = NodeSettings(name, frozenset({"s", "t"} - {name}), has_applications=True)
        self.endpoint, self.forwarding = Endpoint(settings, os.urandom), Forwarding(settings, os.urandom)
        self.said, self.sent, self.supply = [], [], []
        self.copy: bytes | None = None
        self.store = open_kme_store(self.path, name)

    @property
    def relay(self):
        return self.store.relays.get(RELAY)

    def do(self, work):
        """Take a step in one commit; return what was said in it."""
        before = len(self.said)
        with self.store.journal.transaction():
            self._carry_out(work())
        self.store.journal.batch.end()
        return self.said[before:]

    def _carry_out(self, effects):
        for effect in effects:
            match effect:
                case KeepRelay(relay=relay):
                    self.store.keep_relay(relay)
                case KeepShare():
                    self.store.shares.keep(effect)
                case DropShares(relay_id=relay_id):
                    self.store.drop_shares(relay_id)
                case TryRebuild(relay_id=relay_id):
                    self._carry_out(self.endpoint.rebuilder.try_rebuild(relay_id, self.store))
                case SendReport(report=report):
                    self.said.append(report)
                case SendShare():
                    self.sent.append(effect)
                case SupplyChanged(relay=relay):
                    self.supply.append(relay)

    def told(self, command):
        return self.do(lambda: self.endpoint.on_command(command, self.store, NOW))

    def gets(self, share: SendShare):
        sealed = header(PLAN, share.route)
        return self.do(lambda: self.forwarding.on_share("s", sealed, share.payload, self.store, NOW))

    def gives_up(self):
        return self.do(lambda: self.endpoint.end([self.relay]))

    def copies(self) -> None:
        self.copy = self.store.journal.connection.serialize()

    def restarts(self, copy: bytes | None = None):
        self.store.journal.close()
        if copy is not None:
            self.path.write_bytes(copy)
        self.store = open_kme_store(self.path, self.name)
        return self.do(lambda: self.endpoint.recall(self.store.relays.open(NOW)))


class RelayReplay:
    """Takes the model's steps, and looks whether all is as the model has it."""

    def __init__(self, folder: Path, *, supply: bool) -> None:
        self.ends = {"source": End("s", folder), "target": End("t", folder)}
        self.source, self.target = self.ends.values()
        kept = Supply(until=NOW + 1e5, tag_pairs=1) if supply else None
        # Terms that differ, and leave the length of shares alone.
        self.terms = [terms(PLAN, withstand=demand, supply=kept) for demand in (DEMAND, NOTHING)]
        self.is_supply = supply
        self.payloads, self.shares, self.proofs = [], [], {}
        self.coordinator: Relay | None = None
        self.passed_on: Confirm | None = None

    def take(self, step: Step) -> None:
        """Take one step, and compare."""
        match step.name.split():
            case ["start"]:
                self._starts(step.number("terms"))
            case ["start", "again"]:
                assert isinstance(self.source.told(Start(terms=self.terms[0]))[0], Refused)
            case ["start", "repeated"]:
                (said,) = self.source.told(Start(terms=self.terms[step.number("terms")]))
                assert isinstance(said, Started)
            case ["expect"]:
                (said,) = self.target.told(Expect(terms=self.terms[step.number("terms")]))
                assert isinstance(said, Expected)
            case ["expect", "again"]:
                assert isinstance(self.target.told(Expect(terms=self.terms[0]))[0], Refused)
            case ["expect", "repeated"]:
                (said,) = self.target.told(Expect(terms=self.terms[step.number("terms")]))
                assert isinstance(said, Expected if self.target.relay.state == "expecting" else Rebuilt)
            case ["share", "late"]:
                assert not any(
                    isinstance(said, Rebuilt) for said in self.target.gets(self.shares[step.number("version")])
                )
            case ["rebuild"]:
                self._rebuilds(step.number("version"))
            case ["confirm", "forged"]:
                self.source.told(Confirm(relay_id=RELAY, proof=os.urandom(16)))
            case ["confirm"]:
                proof = self.proofs[step.number("version"), step.number("terms")]
                told = Confirm(relay_id=RELAY, proof=proof)
                assert self.passed_on in (None, told)
                self.source.told(told)
            case ["deliver"]:
                self.target.told(Deliver(relay_id=RELAY))
            case [role, "cancel"]:
                self.ends[role].told(Cancel(relay_id=RELAY))
            case [role, "gives", "up"]:
                self.ends[role].gives_up()
            case ["source" | "target", "late"]:
                pass  # it takes no terms any more, and may give up
            case [role, "copy"]:
                self.ends[role].copies()
            case [role, "restore"]:
                self.ends[role].restarts(self.ends[role].copy)
            case [role, "restart"]:
                self.ends[role].restarts()
            case ["coordinator", "overtaken"]:
                self._overtaken(step.given["by"])
            case ["coordinator", *what]:
                self._coordinator(" ".join(what), step)
            case other:
                raise AssertionError(other)
        self._compare(dict(step.after)["STATE"])

    def _starts(self, which: int) -> None:
        said = self.source.told(Start(terms=self.terms[which]))
        assert isinstance(said[0], Started)
        self.payloads.append(self.source.relay.payload)
        self.shares.append(self.source.sent[-1])

    def _rebuilds(self, version: int) -> None:
        which = self.terms.index(next(t for t in self.terms if t.withstand == self.target.relay.withstand))
        (proof,) = (said.proof for said in self.target.gets(self.shares[version]) if isinstance(said, Rebuilt))
        # The same again, if it had them before an old copy came back.
        assert self.proofs.setdefault((version, which), proof) == proof

    def _coordinator(self, what: str, step: Step) -> None:
        if what == "begin":
            self.coordinator = Relay(terms=self.terms[0], policy="best", protected=True, created_at=NOW)
            assert lifecycle.outstanding(self.coordinator) == [
                ("t", Expect(terms=self.terms[0])),
                ("s", Start(terms=self.terms[0])),
            ]
            return
        before = self.coordinator
        if what == "late":
            after = lifecycle.fail_if_overdue(before, _Nowhere(), before.terms.deadline)
        else:
            after = lifecycle.advance(before, *self._heard(what, step), NOW)
        cancels = [(end, Cancel(relay_id=RELAY)) for end in ("s", "t")]
        told = lifecycle.told_once(before, after)
        if what == "rebuilt":
            self.passed_on = Confirm(relay_id=RELAY, proof=self.proofs[step.number("version"), 0])
            assert lifecycle.outstanding(after) == [("s", self.passed_on)]
        elif what == "confirmed":
            assert told == ([] if self.is_supply else [("t", Deliver(relay_id=RELAY))])
        elif what == "refused late":
            assert told == []
        else:
            assert told == cancels
        self.coordinator = after

    def _overtaken(self, by: str) -> None:
        """Nothing follows from what comes too late."""
        relay = self.coordinator
        if by == "time":
            after = lifecycle.fail_if_overdue(relay, _Nowhere(), relay.terms.deadline)
        else:
            report = {
                "rebuilt": ("t", Rebuilt(relay_id=RELAY, proof=self.proofs.get((0, 0), bytes(16)))),
                "confirmed": ("s", Confirmed(relay_id=RELAY)),
                "refused": ("s", Refused(relay_id=RELAY, reason="")),
                "refused-target": ("t", Refused(relay_id=RELAY, reason="")),
            }[by]
            after = lifecycle.advance(relay, *report, NOW)
        assert after == relay

    def _heard(self, what: str, step: Step):
        if what == "rebuilt":
            return "t", Rebuilt(relay_id=RELAY, proof=self.proofs[step.number("version"), step.number("terms")])
        if what == "confirmed":
            return "s", Confirmed(relay_id=RELAY)
        by = self.ends[step.given.get("by", "source")]
        return by.name, next(said for said in by.said if isinstance(said, Refused))

    def _compare(self, after: dict[str, str]) -> None:
        for role, end in self.ends.items():
            state, _, version = after[role].partition("/")
            relay = end.relay
            assert (relay and relay.state) in STATES[state], (role, state, relay)
            if relay is not None and relay.payload is not None and state in ("pending", "held", "delivered"):
                assert relay.payload == self.payloads[int(version)]
        assert (self.coordinator and self.coordinator.state) in STATES[after["coordinator"]]
        said = [
            any(isinstance(said, Confirmed) for said in self.source.said),
            any(isinstance(said, Refused) for said in self.source.said),
            any(isinstance(said, Refused) for said in self.target.said),
        ]
        assert "".join(str(int(each)) for each in said) == after["said"]
        self._check()

    def _check(self) -> None:
        """What is in use at the source, the target holds: of the code, whatever the model says."""
        if self.is_supply:
            used = [relay.payload.keys for relay in self.source.supply if relay.state == "delivered"]
            held = [relay.payload.keys for relay in self.target.supply if relay.state == "held"]
            assert len(used) == len(set(used))
        else:
            relays = [self.source.relay, self.target.relay]
            used, _ = ([r.payload.keys] if r and r.payload and r.is_released else [] for r in relays)
            held = [self.payloads[version].keys for version, _ in self.proofs]
        assert set(used) <= set(held)


class _Nowhere:
    """Shares that nobody has seen."""

    seen = ()
