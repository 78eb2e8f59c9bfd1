"""The pictures in docs/protocol.md are what the code does: the state machines of a relay, and one that goes well."""

import re
from pathlib import Path
from typing import get_args

import pytest

from qkdrelay.messages.reports import Report
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
    assert tried == {kind for kind in get_args(Report) if "relay_id" in kind.__struct_fields__}


def test_the_states_that_are_found_are_those_there_are():
    at_the_coordinator = {edge.after.partition(",")[0] for edge in state_machines.at_the_coordinator()}
    at_an_end = {edge.after.partition(",")[0] for edge in state_machines.at_an_end()}
    assert at_the_coordinator == set(get_args(state_machines.RelayState))
    assert at_an_end == {state_machines.NONE, *get_args(state_machines.EndpointState)}


def test_keys_are_released_only_where_the_other_end_is_proven_to_have_them():
    released = {edge for edge in state_machines.at_an_end() if edge.after == "delivered"}
    assert released == {("pending, proven", "delivered", "decide (confirmed)")}
