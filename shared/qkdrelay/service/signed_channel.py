"""Signed messages between a KME and the coordinator: one end's side (protocol, sections 6 and 7)."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from qkdrelay.errors import OvertakenError
from qkdrelay.messages import codec, signing
from qkdrelay.messages.control import Commands, SignedMessage
from qkdrelay.messages.reports import Reports
from qkdrelay.service.journal import Journal

B = TypeVar("B", Commands, Reports)


class SignedChannel:
    """Both directions of what is signed between two services: each number is given once, and taken once."""

    def __init__(
        self,
        journal: Journal,
        key: bytes,
        me: str,
        peer: str,
        *,
        incoming: str,
        outgoing: str,
        latest_only: bool = False,
    ) -> None:
        """``key`` is shared with ``peer``; the streams of numbers are called ``incoming`` and ``outgoing``.

        With ``latest_only`` nothing is taken of an epoch before the latest: there may be two that are the peer.
        """
        self._latest_only = latest_only
        self._journal, self._key, self._me, self._peer = journal, key, me, peer
        self._incoming, self._outgoing = incoming, outgoing

    def start(self) -> None:
        """Forget what was taken under another key; before the first message is."""
        self._journal.seen.verified_under(self._incoming, signing.mark(self._key))

    def take(self, data: bytes, kind: type[B]) -> tuple[SignedMessage, B] | None:
        """Return a message of the peer and what it says; None if it was taken before.

        Raises MalformedMessageError, ForgedMessageError or OvertakenError; none of them takes a number.
        """
        message = codec.decode(data, SignedMessage)
        signing.verify(self._key, self._peer, self._me, message)
        body = codec.decode(message.body, kind)
        if self._latest_only and message.epoch < self._journal.seen.latest(self._incoming):
            raise OvertakenError("it is of an epoch before the latest")
        if not self._journal.seen.take(self._incoming, message.epoch, message.number, message.mac):
            return None
        return message, body

    @property
    def heard(self) -> bytes:
        """The latest epoch of the peer's that was taken; empty for none."""
        return self._journal.seen.latest(self._incoming)

    def sign(self, body: Commands | Reports) -> list[bytes]:
        """Return ``body`` as one signed message or, where that would be too long, as several."""
        numbers = self._journal.numbers
        number = partial(numbers.next, self._outgoing)
        return signing.sign_all(self._key, self._me, self._peer, epoch=numbers.epoch, number=number, body=body)
