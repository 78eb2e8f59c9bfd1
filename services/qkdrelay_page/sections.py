"""Sections of the page: what the coordinator answered, as data that the page's script draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from qkdrelay.as_data.network import reports
from qkdrelay.as_data.relays import attack_as_data, relay_as_data, summary_as_data, tree_as_data
from qkdrelay.messages.answers import AttackView, AttentionView, RelaysView, RelayView, SuppliesView
from qkdrelay.messages.network_answers import KmeView, NetworkView
from qkdrelay.messages.reports import SILENT_S, SKEW_MAX_S, LinkReport
from qkdrelay.messages.states import TERMINAL
from qkdrelay.network.names import link_name
from qkdrelay.network.topology import Topology
from qkdrelay.terminal.wording import counted
from qkdrelay_page.advice import ADVICE
from qkdrelay_pictures.spread import spread

WIDTH, HEIGHT, CLEARANCE = 1000.0, 640.0, 46.0
"""Of the map, in its own units; links keep so far from KMEs that are not theirs."""
DRY: Final = 0.01
"""A direction of a link with less of its buffer than this is dry."""
ITEMS_MAX: Final = 100


def layout_section(topology: Topology) -> dict[str, Any]:
    """Return where each KME stands; takes a second or two for 50 KMEs."""
    places = spread(topology, WIDTH, HEIGHT, CLEARANCE)
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "kmes": {kme: [round(x, 1), round(y, 1)] for kme, (x, y) in places.items()},
    }


def network_section(view: NetworkView) -> dict[str, Any]:
    """Return KMEs and links as they are; times since something are whole seconds, so that it seldom changes."""
    said = reports(view)
    return {
        "name": view.name,
        "lab": view.lab,
        "kmes": [
            {
                "name": kme.name,
                "state": _state(kme),
                "heard_s_ago": None if kme.heard_s_ago is None else int(kme.heard_s_ago),
                "clock_off_s": round(kme.clock_off_s, 1) if kme.clock_off_s and _is_off(kme) else None,
                "version": kme.version,
                "lab_mode": kme.lab_mode,
                "pending": kme.pending,
                "trust": kme.trust,
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


def _state(kme: KmeView) -> str:
    if kme.heard_s_ago is None:
        return "not heard yet"
    return "silent" if kme.heard_s_ago >= SILENT_S else "healthy"


def _is_off(kme: KmeView) -> bool:
    return kme.clock_off_s is not None and abs(kme.clock_off_s) >= SKEW_MAX_S


def _direction(sender: str, receiver: str, report: LinkReport | None) -> dict[str, Any]:
    ends = {"from": sender, "to": receiver}
    if report is None:
        return {
            **ends,
            "state": "unknown",
            "level": None,
            "available_bytes": None,
            "rate_bps": None,
            "waiting": 0,
            "why_dry": "",
        }
    level = min(1.0, report.available_bytes / report.buffer_bytes)
    return {
        **ends,
        "state": "down" if not report.up else "dry" if level < DRY or report.key.why_dry else "up",
        "level": round(level, 2),
        "available_bytes": report.available_bytes,
        "rate_bps": report.rate_bps,
        "waiting": report.waiting,
        "why_dry": report.key.why_dry,
    }


def relays_section(view: RelaysView) -> dict[str, Any]:
    """Return the latest relays; the running time of those under way is the page's to show."""
    listed = [summary_as_data(relay) for relay in view.relays]
    for relay in listed:
        if relay["state"] not in TERMINAL:
            relay["elapsed_s"] = None
    return {"total": view.total, "relays": listed}


def relay_section(view: RelayView, attack: AttackView | None) -> dict[str, Any]:
    """Return one relay: as `coordinator show` and `trace` have it, and what the lab's adversary learned of it."""
    show = relay_as_data(view)
    if view.state not in TERMINAL:
        show["elapsed_s"] = None  # or it would be sent again and again, and it may be large
    return {
        "show": show,
        "trace": tree_as_data(view),
        "attack": attack_as_data(attack) if attack else None,
    }


def attention_section(network: NetworkView, seen: AttentionView, supplies: SuppliesView | None) -> dict[str, Any]:
    """Return what asks for somebody: first what holds now, then what happened, newest first."""
    happened = sorted(_happened(seen), key=lambda item: -item["at"])
    items = [*_holding(network), *_dry(supplies), *happened]
    return {"items": items[:ITEMS_MAX], "letters_total": seen.letters_total}


def _item(kind: str, about: str, text: str, at: float | None = None, **more: Any) -> dict[str, Any]:
    advice = ADVICE[kind]
    return {
        "at": None if at is None else round(at, 1),
        "kind": kind,
        "about": about,
        "text": text,
        "advice": advice.text,
        "section": advice.section,
        **more,
    }


def _holding(view: NetworkView) -> Iterator[dict[str, Any]]:
    """Yield what is wrong with KMEs and links now."""
    for kme in view.kmes:
        if (state := _state(kme)) != "healthy":
            yield _item("KME silent", kme.name, f"{kme.name} is {state}")
        if kme.clock_off_s is not None and _is_off(kme):
            yield _item("clock off", kme.name, f"the clock of {kme.name} is off by {kme.clock_off_s:+.1f} s")
    said = reports(view)
    for a, b in view.links:
        ordered = (a, b) in view.down
        if ordered:
            yield _item("link down", f"{a} - {b}", f"the QKD link {a} - {b} was ordered down")
        for way in ((a, b), (b, a)):
            told = _direction(*way, said.get(way))
            name = link_name(*way)
            waits = f", {counted(told['waiting'], 'share')} waiting" if told["waiting"] else ""
            if told["state"] == "down" and not ordered:
                yield _item("link down", name, f"{way[0]} says that the QKD link to {way[1]} is down{waits}")
            elif told["state"] == "dry":
                yield _item(
                    "link dry",
                    name,
                    f"the QKD link {name} has no key left{waits}{f': {why}' if (why := told['why_dry']) else ''}",
                )


def _dry(view: SuppliesView | None) -> Iterator[dict[str, Any]]:
    for one in view.supplies if view else ():
        if one.supply.waiting and not one.supply.stored_bytes:
            why = one.why or one.supply.why
            name = link_name(one.source, one.supply.target)
            yield _item(
                "supply dry", name, f"{counted(one.supply.waiting, 'request')} waiting{f': {why}' if why else ''}"
            )


def _happened(seen: AttentionView) -> Iterator[dict[str, Any]]:
    for relay in seen.failed:
        what = f"{relay.source} to {relay.target}: {relay.reason}"
        at = relay.created_at + relay.elapsed_s
        yield _item("relay failed", str(relay.relay_id)[:8], what, at, relay_id=str(relay.relay_id))
    for letter in seen.letters:
        by = f"{letter.given_up_by} gave up a message of {letter.queue}: {letter.reason}"
        yield _item("dead letter", f"letter {letter.letter}", by, letter.at)
    for alarm in seen.alarms:
        yield _item("alarm", alarm.about, f"{alarm.event}: {alarm.text}" if alarm.text else alarm.event, alarm.at)
