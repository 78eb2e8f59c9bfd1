"""The flow of one relay's shares as a tree, the source at its root."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from qkdrelay.as_data.flow import Flow
from qkdrelay.escaping import escaped
from qkdrelay.messages.answers import RelayView
from qkdrelay.network.names import Route
from qkdrelay_cli.render.outcome import STYLES


def as_tree(view: RelayView) -> Tree:
    """Return the tree for people. Below a KME stand those it sent shares to."""
    flow = Flow(view)
    head = Text.assemble(str(view.relay_id), "  ", (view.state, STYLES.get(view.state, "bold")))
    root: Route = (view.source,)
    tree = Tree(Group(head, _label(flow, root)), guide_style="dim")
    _grow(flow, tree, root)
    return tree


def _grow(flow: Flow, tree: Tree, route: Route) -> None:
    for successor in flow.plan.successors(route[-1]):
        child = (*route, successor)
        branch = tree.add(_label(flow, child))
        # What follows a share that came no further is planned, and told by its absence.
        if child in flow.seen:
            _grow(flow, branch, child)


def _label(flow: Flow, route: Route) -> Text:
    text, style = _fate(flow, route)
    label = Text.assemble((route[-1], "bold"), "  ", (escaped(text), style))
    for mark in flow.marks(route):
        label.append(f"  {mark}", "bold red" if mark.isupper() else "bold yellow")
    return label


def _fate(flow: Flow, route: Route) -> tuple[str, str]:
    """Return in words what became of the share on ``route``, and a style."""
    kme = route[-1]
    if route in flow.collected:
        return "arrived", "green"
    if len(route) > 1 and route not in flow.seen:
        halt = flow.halt(route)
        beyond = sum(1 for planned in flow.view.missing if planned[: len(route)] == route)
        what = "no news of it" if halt.sent and not halt.reason else str(halt)
        if kme != flow.plan.target and beyond > 1:
            what += f" ({beyond} routes end here)"
        return what, "yellow"
    if route in flow.split:
        return f"split, {flow.plan.threshold(kme)} of {len(flow.plan.successors(kme))} needed", ""
    if route in flow.forwarded:
        return "forwarded", ""
    return "has it" if len(route) > 1 else "no news of it", "yellow"
