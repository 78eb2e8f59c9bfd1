"""The scenario as it is told at a terminal of 80 columns; only what was observed is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from qkdrelay.network.names import Route, route_name
from qkdrelay.terminal.wording import counted
from qkdrelay_demo.observation import NOBODY, ApplicationKey, Attack, Claim, Gathered, Observation, who
from qkdrelay_demo.picture import picture

_CELL_CHARACTERS_MAX = 20


def tell_story(seen: Observation, console: Console) -> None:
    """Print the run step by step, then what was claimed of it and what was seen."""
    relay = seen.relay
    title = f"Keys go from {relay.source} to {relay.target}; no KME between them has to be trusted alone."
    console.print(Text(title, "bold"))
    console.print("Eight KMEs, coordinator and broker in one process: the services' own code.")
    console.print()
    for row in picture(seen.cut_links, seen.compromised):
        console.print(row)
    for number, (title, lines) in enumerate(_steps(seen), 1):
        console.print()
        console.print(Text.assemble((f"{number}  ", "bold cyan"), (title, "bold")))
        for line in lines:
            console.print(Text(f"   {line}"))
    console.print()
    console.print(_table(seen.claims))
    console.print()
    failed = sum(not claim.held for claim in seen.claims)
    if failed:
        console.print(Text(f"{failed} of {len(seen.claims)} claims were not observed.", "bold red"))
    else:
        console.print(Text(f"All {len(seen.claims)} claims were observed.", "bold green"))


def _steps(seen: Observation) -> Iterator[tuple[str, Iterable[str]]]:
    relay = seen.relay
    links = _and(f"{a} - {b}" for a, b in seen.cut_links)
    yield (
        "Before anything is sent, the lab does its harm",
        (f"QKD link down: {links}", f"leaking all they receive to one adversary: {_and(seen.compromised)}"),
    )
    splits = {split.route: split for split in seen.splits}
    for split in (split for route, split in splits.items() if len(route) == 1):
        keys = f"{relay.key_count} {'key' if relay.key_count == 1 else 'keys'} of {relay.key_size_bits} bits"
        yield (
            f"{split.route[-1]} draws {keys} and splits them {split.needed} of {split.of}",
            _parts(seen, split.route),
        )
    second = [split for route, split in splits.items() if len(route) > 1]
    yield (
        f"{_and(split.route[-1] for split in second)} split their share again",
        (_split_on(seen, split) for split in second),
    )
    yield f"{_and(sorted({route[-1] for route in relay.forwarded}))} forward what they get", _forwarded(seen)
    yield "The adversary attacks with the very code that the target rebuilds with", map(_attack, seen.attacks)
    yield (
        f"{relay.target} rebuilds, from the inside out" if seen.rebuilt_by else f"{relay.target} could not rebuild",
        _rebuilt(seen),
    )
    yield f"{relay.source} checks the proof of {relay.target} that it has the same keys", _confirmed(seen)
    yield (
        f"Counter-example: on a second relay {_and(seen.counter_example.kmes)} leak instead",
        ("the same attack on other keys, to see that it is a real one", _attack(seen.counter_example)),
    )
    yield "Two applications share a key, over ETSI GS QKD 014 and TLS", _application(seen.application)


def _parts(seen: Observation, route: Route) -> Iterator[str]:
    yield "    ".join(route_name(child) for child in seen.carried if child[:-1] == route)


def _split_on(seen: Observation, split: Gathered) -> str:
    to = _and(child[-1] for child in seen.carried if child[:-1] == split.route)
    return f"{route_name(split.route)}   {split.needed} of {split.of}, to {to}"


def _forwarded(seen: Observation) -> Iterator[str]:
    relay = seen.relay
    waits = {stuck.route: f"waits at {stuck.route[-2]}: {stuck.reason}" for stuck in relay.stuck}
    for route in sorted({*relay.collected, *relay.missing}):
        yield f"{route_name(route)}   {'arrived' if route in relay.collected else waits.get(route, 'did not arrive')}"
    lengths = Counter(len(route) - 1 for route in seen.carried)
    sums = " + ".join(str(count) for _, count in sorted(lengths.items()))
    yield f"Over the QKD links went {sums} = {len(seen.carried)} of {relay.planned_share_messages} share messages."


def _attack(attack: Attack) -> str:
    shares = f"{attack.shares_held} {'share' if attack.shares_held == 1 else 'shares'}"
    what = f"{who(attack.kmes)}: {shares}, learned {attack.outcome}"
    if attack.learned or not attack.short_splits:
        return what
    short = attack.short_splits[0]
    return f"{what} ({short.present} of {short.needed} needed at {short.split[-1]})"


def _rebuilt(seen: Observation) -> Iterator[str]:
    relay = seen.relay
    for split in sorted(seen.splits, key=lambda split: (-len(split.route), split.route)):
        what = "the keys" if len(split.route) == 1 else f"{split.route[-1]}'s share"
        outcome = what if split.present >= split.needed else f"not {what}"
        needs = f"{split.present} of {split.of} shares here, {split.needed} needed"
        yield f"{route_name(split.route):<12}  {needs}: {outcome}"
    yield f"{len(relay.collected)} of {seen.plan.final_shares} shares came."


def _confirmed(seen: Observation) -> Iterator[str]:
    yield f"the proof was found valid by: {_and(seen.confirmed_by)}"
    yield f"relay {seen.relay.relay_id}: {seen.relay.state}"
    released = {*seen.rebuilt_by, *seen.confirmed_by}
    yield f"keys released at: {_and(sorted(released))}; equal: {'yes' if seen.keys_equal else 'no'}"


def _application(key: ApplicationKey) -> Iterator[str]:
    yield f"{key.master} at {key.master_kme}: GET {key.slave}/enc_keys   {key.answers[0]}"
    yield f"{key.slave} at {key.slave_kme}: GET {key.master}/dec_keys   {key.answers[1]}"
    yield f"key {key.key_id or NOBODY}; the same: {'yes' if key.equal else 'no'}"
    if key.compromised is not None:
        yield f"both were told that it withstands {counted(key.compromised, 'compromised KME')} on the way"


def _table(claims: Iterable[Claim]) -> Table:
    table = Table("claim", "expected", "observed", "", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for claim in claims:
        style = "" if claim.held else "bold red"
        table.add_row(
            claim.text,
            _cell(claim.expected),
            _cell(claim.observed, style),
            Text("ok", "green") if claim.held else Text("NO", style),
        )
    return table


def _cell(text: str, style: str = "") -> Group:
    parts = [text] if len(text) <= _CELL_CHARACTERS_MAX else text.split(", ")
    return Group(*(Text(part, style) for part in parts))


def _and(names: Iterable[str]) -> str:
    *most, last = list(names) or ["none"]
    return f"{', '.join(most)} and {last}" if most else last
