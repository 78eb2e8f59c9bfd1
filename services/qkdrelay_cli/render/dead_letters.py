"""Dead letters, in words and as data; of a message only what it says in clear."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from qkdrelay.broker.names import requests_queue
from qkdrelay.errors import MalformedMessageError
from qkdrelay.messages import codec
from qkdrelay.messages.answers import DeadLetterSummary, DeadLetterView
from qkdrelay.messages.blocks import Announce, BlocksHeld, Facts
from qkdrelay.messages.control import SignedMessage
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.messages.requests import Request
from qkdrelay.network.names import CLIENTS, link_name, route_name
from qkdrelay.terminal.wording import duration, moment


def size(letter: DeadLetterSummary) -> str:
    """Return a dead letter's size in bytes; of one that was cut, what is left of it."""
    return f"{letter.size:,}" if letter.whole else f">={letter.size:,}"


def dead_letter_summary_as_data(letter: DeadLetterSummary) -> dict[str, Any]:
    """Return one line of the list for programs."""
    return msgspec.structs.asdict(letter)


def dead_letter_as_data(view: DeadLetterView) -> dict[str, Any]:
    """Return a dead letter for programs; of its bytes only a digest."""
    digest = hashlib.sha256(view.body).hexdigest()
    return {
        **dead_letter_summary_as_data(view.letter),
        "sha256": digest,
        "message": clear_part(view.letter.queue, view.body),
    }


def dead_letter_in_words(view: DeadLetterView) -> list[str]:
    """Return a dead letter, line by line, for people."""
    letter, data = view.letter, dead_letter_as_data(view)
    lines = [
        ("dead letter", str(letter.letter)),
        ("reason", letter.reason),
        ("given up by", f"{letter.given_up_by}, {duration(letter.age_s)} ago, at {moment(letter.at)}"),
        ("from queue", letter.queue),
        ("sender", letter.sender or "unknown"),
        ("size", f"{size(letter)} bytes{'' if letter.whole else '; the rest was cut off, so it cannot be requeued'}"),
        ("sha256", data["sha256"]),
        *((name.replace("_", " "), str(value)) for name, value in data["message"].items()),
    ]
    return [f"{name:<13}{value}" for name, value in lines]


def _block(facts: Facts) -> dict[str, Any]:
    return {
        "kind": "block announced",
        "link": link_name(*facts.link),
        "block": facts.block.hex(),
        "size": f"{facts.length} bytes",
        "device_keys": len(facts.key_ids),
    }


def clear_part(queue: str, body: bytes) -> dict[str, Any]:
    """Return what a message says in clear: names, numbers, sizes; never what is sealed."""
    try:
        if queue.startswith("link."):
            if codec.is_of(body, Announce):
                return _block(codec.decode(body, Announce).facts)
            if codec.is_of(body, BlocksHeld):
                held = codec.decode(body, BlocksHeld)
                return {"kind": "blocks held", "link": link_name(*held.link), "blocks": len(held.held)}
            sealed = codec.decode(body, SealedMessage)
            header = codec.decode(sealed.header, ShareHeader)
            return {
                "kind": "share",
                "link": link_name(*header.link),
                "block": header.slot.block.hex(),
                "slot": header.slot.index,
                "pad": f"{sum(piece.length for piece in header.pad)} bytes of {len(header.pad)} blocks",
                "relay": str(header.relay_id),
                "route": route_name(header.route),
                "deadline": header.deadline,
                "ciphertext": f"{len(sealed.ciphertext)} bytes",
            }
        signed = codec.decode(body, SignedMessage)
        if queue in map(requests_queue, CLIENTS):
            request = codec.decode(signed.body, Request)
            return {"kind": "request", "asks": type(request.body).__name__, "at": request.at}
    except MalformedMessageError as error:
        return {"kind": f"unreadable: {error}"}
    return {
        "kind": "signed",
        "from": signed.sender,
        "to": signed.recipient,
        "epoch": signed.epoch.hex(),
        "number": signed.number,
        "content": f"{len(signed.body)} bytes",
    }
