"""Whoever is in the coordinator's place: carries what KMEs say about supply, as a test has it, and lies at will."""

import time

from qkdrelay.messages import codec
from qkdrelay.messages.assignments import (
    SUPPLY_BYTES_PER_TAG_PAIR,
    Assign,
    Assigned,
    AssignRefused,
    PeerStarted,
    Supplies,
    Supply,
)
from qkdrelay.messages.control import Commands, Confirm, Expect, FixedDemand, SignedMessage, Start, Terms
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.reports import Rebuilt, Reports
from qkdrelay.messages.signing import sign
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.planner import recursive_plan

KEYS, KEY_BITS = 128, 2_048
"""Of a relay of supply: 32 KiB."""


class Courier:
    """Does the coordinator's part for supply, in a network whose own does not run."""

    def __init__(self, network, **supply):
        network.stop(COORDINATOR)
        self.network, self.number, self.relays, self.incarnations = network, 0, {}, {}
        self.epoch = round(time.time() * 1000).to_bytes(6) + bytes(10)
        self.broker = network.loops[COORDINATOR].broker
        self.supply_s, self.size = supply.get("supply_s", 86_400.0), supply.get("keys", KEYS)
        self.heard, self.told = [], []
        """Everything that came, and that was told: (KME, message)."""
        self.refills = True

    # --- what a lying one does otherwise ---

    def pass_on(self, kme, message):
        """Have a message reach a KME."""
        self.tell(kme, message)

    def tell(self, kme, *commands):
        self.told += ((kme, command) for command in commands)
        key, self.number = self.network.control_keys[kme], self.number + 1
        body = Commands(items=commands)
        self.network.as_coordinator(kme, sign(key, COORDINATOR, kme, epoch=self.epoch, number=self.number, body=body))

    def run(self):
        """Carry on until nobody has anything to say."""
        while True:
            self.network.settle()
            received = self.broker.receive(1_000, 0.0, ())
            if not received.deliveries:
                return
            for delivery in received.deliveries:
                message = codec.decode(delivery.body, SignedMessage)
                for report in codec.decode(message.body, Reports).items:
                    self.heard.append((message.sender, report))
                    self.on_report(message.sender, report)
            self.broker.acknowledge(received.deliveries)

    def on_report(self, kme, report):
        if isinstance(report, Assign):
            self.pass_on(report.assignment.target, report)
        elif isinstance(report, (Assigned, AssignRefused)):
            self.pass_on(report.source, report)
        elif isinstance(report, Rebuilt):
            self.pass_on(self.relays[report.relay_id][0], Confirm(relay_id=report.relay_id, proof=report.proof))
        elif isinstance(report, Supplies):
            self.on_supplies(kme, report)

    def on_supplies(self, kme, report):
        if self.incarnations.get(kme) != report.incarnation:
            self.incarnations[kme] = report.incarnation
            for source in self.network.directories:
                if source != kme:
                    self.pass_on(source, PeerStarted(kme=kme, incarnation=report.incarnation))
        for wanted in report.outgoing if self.refills else ():
            if wanted.wanted_bytes > 0:
                self.refill(kme, wanted.target, wanted.level)

    def refill(self, source, target, level=1):
        now, plan = self.network.clock(), recursive_plan(self.network.topology, source, target)
        pairs = max(1, self.size * KEY_BITS // 8 // SUPPLY_BYTES_PER_TAG_PAIR)
        terms = Terms(
            relay_id=new_relay_id(now),
            plan=encode_plan(plan),
            key_count=self.size,
            key_size_bits=KEY_BITS,
            withstand=FixedDemand(compromised=level, failed=0, tampering=0),
            supply=Supply(until=now + self.supply_s, tag_pairs=pairs),
            deadline=now + 30.0,
        )
        self.relays[terms.relay_id] = source, target
        self.pass_on(target, Expect(terms=terms))
        self.pass_on(source, Start(terms=terms))
        return terms.relay_id

    def said(self, kind):
        """Return the messages of a kind that came, with who said them."""
        return [(kme, report) for kme, report in self.heard if isinstance(report, kind)]
