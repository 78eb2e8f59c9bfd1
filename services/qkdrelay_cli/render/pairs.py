"""The resilience of every pair of a network under one policy, in tables and as data."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from qkdrelay.errors import InvalidPlanError
from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.network.candidates import Candidate
from qkdrelay.network.demand import Demand, Policy
from qkdrelay.network.selection import plans
from qkdrelay.network.topology import Topology
from qkdrelay.terminal import console, print_json
from qkdrelay.terminal.wording import counted
from qkdrelay_cli.picture_files import PictureFiles
from qkdrelay_cli.render import TERMINAL_WIDTH

if TYPE_CHECKING:
    from qkdrelay_pictures.pairs import Pair

_CELL = 4


def print_pairs(network: Topology, policy: Policy, demand: Demand, pictures: PictureFiles, *, as_json: bool) -> None:
    """Print the table of all pairs (source, target), and draw it if there are files for that."""
    if pictures:
        from qkdrelay_pictures.pairs import check_drawable, draw_pairs

        check_drawable(network)
    found = all_pairs(network, policy, demand)
    between = {pair: made for pair, made in found.items() if pair[1] not in network.neighbours[pair[0]]}
    exposed = _exposed(between)
    name = escaped(network.name, NAME_MAX)
    title = f"{name}, policy {policy}: {len(between)} pairs (source, target) that are not neighbours"
    if pictures:
        pictures.write(draw_pairs(network, found, title, exposed.in_words()))
    if as_json:
        pairs = [_as_data(*item) for item in found.items()]
        print_json({"network": network.name, "policy": policy, **asdict(exposed), "pairs": pairs})
        return
    screen = console()
    screen.print(Text(title, "bold"), soft_wrap=True)
    screen.print(exposed.in_words(), soft_wrap=True)
    screen.print()
    screen.print(_counts(between))
    if max(map(len, network.kmes)) + 1 + _CELL * len(network.kmes) <= TERMINAL_WIDTH:
        screen.print()
        screen.print(Text("compromised/failed KMEs that each pair withstands, sources down, targets across"))
        for line in _matrix(network, found):
            screen.print(line, soft_wrap=True)
    else:
        screen.print()
        screen.print(Text(f"--json has each of the {counted(len(found), 'pair')}", "dim"))


@dataclass(frozen=True, slots=True)
class _Exposed:
    """Of the pairs that are not neighbours, how many a single KME endangers."""

    between: int
    learned_by_one: int
    blocked_by_one: int

    def in_words(self) -> str:
        if not self.between:
            return "all are neighbours: nobody is between them"
        learned, blocked = (f"{100 * n / self.between:.0f} %" for n in (self.learned_by_one, self.blocked_by_one))
        return f"one compromised KME learns the keys of {learned} of them, one crash blocks {blocked}"


def _exposed(between: Mapping[Pair, Candidate | str]) -> _Exposed:
    have = [made.resilience for made in between.values() if isinstance(made, Candidate)]
    return _Exposed(len(between), sum(h.compromised == 0 for h in have), sum(h.failed == 0 for h in have))


def all_pairs(network: Topology, policy: Policy, demand: Demand) -> dict[Pair, Candidate | str]:
    """Return for each (source, target) the plan of this kind, or why there is none."""
    found: dict[Pair, Candidate | str] = {}
    for source in network.kmes:
        for target in network.kmes:
            if source == target:
                continue
            try:
                made = plans(network, source, target, demand, policy)
                found[source, target] = made[0] if made else f"there is no {policy} plan"
            except InvalidPlanError as error:
                found[source, target] = str(error)
    return found


def _as_data(pair: Pair, made: Candidate | str) -> dict[str, Any]:
    ends = {"source": pair[0], "target": pair[1]}
    if isinstance(made, str):
        return {**ends, "error": made}
    return {**ends, "withstands": asdict(made.resilience), "messages": made.messages}


def _counts(found: Mapping[Pair, Candidate | str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in ("compromised", "failed", "links", "tampering", "pairs", "share", "messages"):
        table.add_column(name, justify="right")
    made = [candidate for candidate in found.values() if isinstance(candidate, Candidate)]
    for have, number in sorted(Counter(c.resilience for c in made).items(), key=lambda item: _order(item[0])):
        messages = [c.messages for c in made if c.resilience == have]
        low, high = min(messages), max(messages)
        table.add_row(
            *map(str, _order(have)),
            str(number),
            f"{100 * number / len(found):.0f} %",
            str(low) if low == high else f"{low} to {high}",
        )
    if missing := len(found) - len(made):
        table.add_row("no plan", "", "", "", str(missing), f"{100 * missing / len(found):.0f} %", "")
    return table


def _order(have: Any) -> tuple[int, int, int, int]:
    return have.compromised, have.failed, have.failed_links, have.tampering


def _matrix(network: Topology, found: Mapping[Pair, Candidate | str]) -> list[Text]:
    column = max(map(len, network.kmes)) + 1
    lines = [Text(" " * column + "".join(str(n).rjust(_CELL) for n in range(1, len(network.kmes) + 1)), "dim")]
    for number, source in enumerate(network.kmes, 1):
        line = Text(source.ljust(column))
        for target in network.kmes:
            line.append_text(_cell(network, (source, target), found.get((source, target))))
        lines.append(line.append(f"  {number}", "dim") if line.cell_len + 4 <= TERMINAL_WIDTH else line)
    return [*lines, Text(f"{' ' * column}   -: neighbours, nobody is between them", "dim")]


def _cell(network: Topology, pair: Pair, made: Candidate | str | None) -> Text:
    if made is None:
        return Text(" " * _CELL)
    if pair[1] in network.neighbours[pair[0]]:
        return Text("-".rjust(_CELL), "dim")
    if isinstance(made, str):
        return Text("none".rjust(_CELL), "red")
    have = made.resilience
    style = "red" if have.compromised == 0 else "yellow" if have.failed == 0 else "green"
    return Text(f"{have.compromised}/{have.failed}".rjust(_CELL), style)
