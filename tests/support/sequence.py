"""One relay as the sequence of its messages, as it went in a network in this process: a diagram (Mermaid)."""

from __future__ import annotations

from qkdrelay.broker.port import Publication
from qkdrelay.messages import codec
from qkdrelay.messages.control import Commands, SignedMessage
from qkdrelay.messages.reports import URGENT, Confirmed, Reports
from qkdrelay.network.names import COORDINATOR
from support.network import DIAMOND, Network

ROLES = {
    COORDINATOR: "coordinator",
    "kme-1": "source",
    "kme-2": "on_the_way",
    "kme-3": "on_the_way",
    "kme-4": "target",
}


class Recorded(Network):
    """Notes who sends whom what of a relay: shares, commands, and the reports that something waits for."""

    def __init__(self) -> None:
        self.arrows: dict[tuple[str, str, str], None] = {}
        super().__init__(DIAMOND)
        publish = self.hub.publish

        def noted(user: str, publication: Publication) -> str | None:
            self._note(publication.routing_key.split("."), publication.body)
            return publish(user, publication)

        self.hub.publish = noted

    def _note(self, key: list[str], body: bytes) -> None:
        match key:
            case ["link", sender, receiver]:
                self._arrow(sender, receiver, "share")
            case ["kme", kme, "control"]:
                for command in codec.decode(codec.decode(body, SignedMessage).body, Commands).items:
                    self._arrow(COORDINATOR, kme, type(command).__struct_config__.tag)
            case ["results", kme]:
                for report in codec.decode(codec.decode(body, SignedMessage).body, Reports).items:
                    if isinstance(report, URGENT | Confirmed):
                        self._arrow(kme, COORDINATOR, type(report).__struct_config__.tag)

    def _arrow(self, sender: str, receiver: str, what: str) -> None:
        self.arrows[ROLES[sender], ROLES[receiver], what] = None


def drawn() -> str:
    """Return the diagram of one relay over two paths that goes well."""
    network = Recorded()
    assert network.relay("kme-1", "kme-4").state == "confirmed"
    lines = [f"participant {role}" for role in ("coordinator", "source", "on_the_way", "target")]
    lines += [f"{sender}->>{receiver}: {what}" for sender, receiver, what in network.arrows]
    return "\n".join(["sequenceDiagram", *(f"    {line}" for line in lines)]) + "\n"
