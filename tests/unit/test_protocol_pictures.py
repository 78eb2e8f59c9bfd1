"""The pictures in docs/protocol.md are what the code does: the state machines of a relay, and one that goes well."""

import re
from pathlib import Path
from typing import get_args

import pytest

from qkdrelay.messages.reports import AboutSupply, Report
from support import sequence, state_machines

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
SHOWN = dict(re.findall(r"^##+ ([^\n]+)\n(?:(?!^#).)*?^```mermaid\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
MADE = {"6. The life of a relay": sequence.drawn, **state_machines.PICTURES}


@pytest.mark.parametrize("section", MADE)
def test_a_picture_is_what_the_code_does(section):
    made = MADE[section]()
    assert SHOWN[section] == made, f"section {section} shows something else than this:\n{made}"


def test_there_are_no_other_pictures():
    assert SHOWN.keys() == MADE.keys()
    assert TEXT.count("```mermaid") == len(MADE)


def test_every_report_about_a_relay_is_tried():
    tried = {type(report) for reports in state_machines.REPORTS.values() for report in reports}
    about = {kind for kind in get_args(Report) if "relay_id" in kind.__struct_fields__}
    assert tried == about - set(get_args(AboutSupply))


def test_the_states_that_are_found_are_those_there_are():
    edges = state_machines.at_the_coordinator()
    at_the_coordinator = {name.partition(",")[0] for edge in edges for name in (edge.before, edge.after)}
    at_an_end = {edge.after.partition(",")[0] for edge in state_machines.at_an_end()}
    assert at_the_coordinator == set(get_args(state_machines.RelayState))
    assert at_an_end == {state_machines.NONE, *get_args(state_machines.EndpointState)}


def test_a_source_releases_keys_only_once_its_target_has_shown_that_it_holds_them():
    edges = state_machines.at_an_end()
    assert {edge for edge in edges if edge.before == "pending" and edge.after != "failed"} == {
        ("pending", "delivered", "confirm (valid)"),
        ("pending", "forgotten", "confirm (valid) of supply"),
    }


def test_a_target_releases_keys_by_the_rebuild_alone_and_nobody_takes_them_back():
    edges = state_machines.at_an_end()
    assert {edge for edge in edges if edge.after == "held"} == {("expecting", "held", "the shares give one secret")}
    assert {edge.after for edge in edges if edge.before in ("held", "delivered")} == {"delivered", "forgotten"}
