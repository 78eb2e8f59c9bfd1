"""Who a message is from: told by the exchange it came through, and by the site at whose broker it was read."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from qkdrelay.broker.names import parse_kme_exchange
from qkdrelay.broker.port import Delivery
from qkdrelay.errors import ForgedMessageError


class Senders:
    """The KMEs of a network, and where each of them is: a site's broker speaks for its own KMEs alone."""

    def __init__(self, kmes: Collection[str], elsewhere: Mapping[str, str]) -> None:
        """``elsewhere`` has the sites of those that are not at the coordinator's own."""
        self._kmes, self._elsewhere = kmes, elsewhere

    def of(self, delivery: Delivery) -> str:
        """Return the KME that sent it. Raises TopologyError if none did, ForgedMessageError if that cannot be."""
        sender = parse_kme_exchange(delivery.exchange)
        if sender not in self._kmes:
            raise ForgedMessageError(f"{sender} is not a KME of this network")
        if self.site_of(sender) != delivery.site:
            where = f"site {delivery.site}" if delivery.site else "the coordinator's site"
            raise ForgedMessageError(f"{sender} is not at {where}, whose broker this was read at")
        return sender

    def site_of(self, kme: str) -> str:
        """Return the site of a KME; empty for the coordinator's own."""
        return self._elsewhere.get(kme, "")
