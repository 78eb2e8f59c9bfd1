"""The network as the coordinator knows it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import asdict

from qkdrelay.messages.network_answers import NetworkView
from qkdrelay.messages.reports import LinkReport


def network_as_data(view: NetworkView) -> dict[str, Any]:
    """Return the network for programs; what no KME has told is null."""
    said = reports(view)
    return {
        "name": view.name,
        "lab": view.lab,
        "sites": [asdict(site) for site in view.sites],
        "kmes": [
            {
                "name": kme.name,
                "trust": kme.trust,
                "heard_s_ago": kme.heard_s_ago,
                "version": kme.version or None,
                "lab": kme.lab,
                "lab_mode": kme.lab_mode,
                "pending": kme.pending,
            }
            for kme in view.kmes
        ],
        "links": [
            {
                "link": [a, b],
                "ordered_down": (a, b) in view.down,
                "directions": [_direction(*way, said.get(way)) for way in ((a, b), (b, a))],
            }
            for a, b in view.links
        ],
    }


def _direction(sender: str, receiver: str, report: LinkReport | None) -> dict[str, Any]:
    return {
        "from": sender,
        "to": receiver,
        "up": report.up if report else None,
        "available_bytes": report.available_bytes if report else None,
        "buffer_bytes": report.buffer_bytes if report else None,
        "rate_bps": report.rate_bps if report else None,
        "waiting": report.waiting if report else None,
        "key": asdict(report.key) if report else None,
    }


def reports(view: NetworkView) -> dict[tuple[str, str], LinkReport]:
    """Return what the sender of each direction of a link said of it last."""
    return {(kme.name, link.peer): link for kme in view.kmes for link in kme.links}
