"""Several messages for one queue in one of RabbitMQ's: each costs the broker far more than the bytes in it.

Under load a service has many to publish at once, and what was handed over together travels together. Whoever reads
gets each by itself, as if it had come alone; a message that is alone is not wrapped. Nothing is sealed, signed,
refused or dead-lettered by the bundle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qkdrelay.broker.port import Publication
from qkdrelay.errors import MalformedMessageError
from qkdrelay.messages import codec
from qkdrelay.messages.link import Bundle

CONTENT_TYPE = "application/vnd.qkdrelay.bundle"
BUNDLE_BYTES_MAX = codec.MESSAGE_BYTES_MAX - 1024
"""Messages that are longer together travel apart: a bundle is a message, too, and takes a few bytes for each in it."""


@dataclass(slots=True)
class Parcel:
    """Publications that travel together: one of the broker's messages."""

    publications: list[Publication]
    size: int = 0
    failures: int = 0

    @property
    def kept(self) -> bool:
        """Whether it is seen through to the broker's confirm, and not merely an observation."""
        return self.publications[0].id is not None

    def body(self) -> bytes:
        """Return what to publish."""
        if len(self.publications) == 1:
            return self.publications[0].body
        return codec.encode(Bundle(bodies=tuple(publication.body for publication in self.publications)))

    @property
    def content_type(self) -> str | None:
        """The mark of the broker's message; None for a message that is alone."""
        return CONTENT_TYPE if len(self.publications) > 1 else None


def parcels(publications: Iterable[Publication], most: int) -> list[Parcel]:
    """Put together, at most ``most`` at a time, what goes by one routing key; observations go alone."""
    made: list[Parcel] = []
    filling: dict[tuple[str, str], Parcel] = {}
    for publication in publications:
        size = len(publication.body)
        place = (publication.exchange, publication.routing_key)
        parcel = filling.get(place) if publication.id is not None else None
        if parcel is None or len(parcel.publications) >= most or parcel.size + size > BUNDLE_BYTES_MAX:
            parcel = Parcel([])
            made.append(parcel)
            if publication.id is not None:
                filling[place] = parcel
        parcel.publications.append(publication)
        parcel.size += size
    return made


def unpacked(body: bytes, content_type: str | None) -> tuple[bytes, ...]:
    """Return the messages in one of the broker's. What only claims to be a bundle is one message, to be refused."""
    if content_type != CONTENT_TYPE:
        return (body,)
    try:
        return codec.decode(body, Bundle).bodies
    except MalformedMessageError:
        return (body,)
