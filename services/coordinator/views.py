"""Relays and the network as they are shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import structs

from coordinator.lifecycle import Relay, outstanding
from coordinator.store.flow import ShareFlow
from qkdrelay.messages.answers import RelaySummary, RelayView, ShortSplit, Stuck
from qkdrelay.messages.network_answers import KmeView, NetworkView, NotedLink, SiteView
from qkdrelay.messages.reports import Hello
from qkdrelay.messages.states import TERMINAL
from qkdrelay.network.analysis import shortfall
from qkdrelay.network.names import COORDINATOR, Link
from qkdrelay.network.topology import Topology


def summary(relay: Relay, now: float) -> RelaySummary:
    """Return a relay as one line of a list."""
    source, target = relay.ends
    return RelaySummary(
        relay_id=relay.relay_id,
        source=source,
        target=target,
        state=relay.state,
        key_count=relay.terms.key_count,
        key_size_bits=relay.terms.key_size_bits,
        supply=relay.terms.supply is not None,
        created_at=relay.created_at,
        elapsed_s=max(0.0, (relay.ended_at or now) - relay.created_at),
        reason=relay.reason,
    )


def view(relay: Relay, flow: ShareFlow, now: float) -> RelayView:
    """Return a relay with the flow of its shares."""
    plan = relay.plan
    collected = set(flow.collected)
    missing = tuple(route for route in plan.routes() if route not in collected)
    settled = relay.state in TERMINAL and not outstanding(relay)
    findings = relay.findings
    return RelayView(
        relay_id=relay.relay_id,
        source=plan.source,
        target=plan.target,
        state=relay.state,
        reason=relay.reason,
        policy=relay.policy,
        withstand=relay.terms.withstand,
        protected=relay.protected,
        relies_on=relay.relies_on,
        plan=relay.terms.plan,
        key_count=relay.terms.key_count,
        key_size_bits=relay.terms.key_size_bits,
        created_at=relay.created_at,
        deadline=relay.terms.deadline,
        elapsed_s=max(0.0, (relay.ended_at or now) - relay.created_at),
        planned_share_messages=plan.share_messages,
        split=flow.split,
        forwarded=flow.forwarded,
        collected=flow.collected,
        missing=missing,
        stuck=tuple(Stuck(route=route, reason=reason[:500]) for route, reason in flow.stuck),
        short_splits=tuple(
            ShortSplit(split=route, present=present, needed=needed)
            for route, present, needed in shortfall(plan, collected)
        ),
        false_shares=findings.false if findings else (),
        disputed=findings.disputed if findings else (),
        equivocating=findings.equivocating if findings else (),
        released_at=relay.released,
        final=settled and (not missing or now > relay.terms.deadline),
    )


def network_view(
    topology: Topology,
    last_hellos: Mapping[str, tuple[float, Hello]],
    down: tuple[Link, ...],
    now: float,
    *,
    lab: bool,
    away: Collection[str] = (),
) -> NetworkView:
    """Return the network as it is known; ``down`` has the links that were told to stop carrying.

    ``away`` has the sites at which the coordinator can read nothing.
    """
    kmes = []
    for kme in topology.kmes:
        at, hello = last_hellos.get(kme, (None, None))
        kmes.append(
            KmeView(
                name=kme,
                trust=topology.trust.get(kme),
                heard_s_ago=None if at is None else max(0.0, now - at),
                clock_off_s=hello.clock - at if hello and at is not None else None,
                version=hello.version if hello else "",
                lab=hello.lab if hello else False,
                lab_mode=hello.lab_mode if hello else None,
                pending=hello.pending if hello else 0,
                links=hello.links if hello else (),
            )
        )
    return NetworkView(
        name=topology.name,
        lab=lab,
        kmes=tuple(kmes),
        links=topology.links,
        noted=tuple(
            NotedLink(a=a, b=b, suite=note.suite, rate_bps=note.rate_bps, buffer_bytes=note.buffer_bytes)
            for (a, b), note in topology.link_notes.items()
        ),
        down=down,
        sites=tuple(_site(topology, site, last_hellos, away) for site in topology.sites),
    )


def _site(
    topology: Topology, site: str, last_hellos: Mapping[str, tuple[float, Hello]], away: Collection[str]
) -> SiteView:
    lost = [kme for kme in topology.kmes if kme in last_hellos and site in last_hellos[kme][1].away]
    return SiteView(
        name=site,
        kmes=topology.sites[site].kmes,
        broker=topology.sites[site].broker,
        has_coordinator=site == topology.coordinator,
        away_from=(*lost, *((COORDINATOR,) if site in away else ())),
    )


def seen_from(view: NetworkView, here: frozenset[str]) -> NetworkView:
    """Return what a site with these KMEs is told of the network: these, their neighbours, and the links of both."""
    links = tuple(link for link in view.links if not here.isdisjoint(link))
    near = here.union(*links)

    def told(kme: KmeView) -> KmeView:
        own = kme.links if kme.name in here else tuple(link for link in kme.links if link.peer in here)
        return structs.replace(kme, links=own)

    def of_site(site: SiteView) -> SiteView:
        away = site.away_from if not here.isdisjoint(site.kmes) else here.intersection(site.away_from)
        return structs.replace(site, kmes=tuple(kme for kme in site.kmes if kme in near), away_from=tuple(sorted(away)))

    sites = map(of_site, view.sites)
    return structs.replace(
        view,
        kmes=tuple(told(kme) for kme in view.kmes if kme.name in near),
        links=links,
        noted=tuple(link for link in view.noted if (link.a, link.b) in links),
        down=tuple(link for link in view.down if link in links),
        sites=tuple(site for site in sites if site.kmes or site.has_coordinator),
    )
