"""What is shown of keys for applications: figures whole in a narrow window, and in words what is in the way."""

import msgspec
import pytest
from rich.console import Console

from qkdrelay.messages.answers import SaePairView, SuppliesView, SupplyView
from qkdrelay.messages.assignments import OutgoingSupply, SaePair
from qkdrelay_cli.render.supplies import supplies_as_tables

SUPPLY = OutgoingSupply(
    target="kme-8",
    level=1,
    stored_bytes=0,
    pending_bytes=1_000_000,
    wanted_bytes=32_768,
    assigned_bytes_per_s=123_456.7,
    waiting=256,
    why="",
)
PAIR = SaePair(
    master="sae-1",
    slave="sae-8",
    level=1,
    ready_keys=12_345,
    ready_bytes=395_040,
    handed_out=7_654_321,
    burned=128,
    expired=255,
    keys_per_s=1234.5,
    low=True,
    waiting=8,
    why="kme-8 has no room for more keys",
)


def shown(supply=SUPPLY, pair=PAIR, said_s_ago=1.0, why="", served="", width=80):
    view = SuppliesView(
        kmes=("kme-1", "kme-8"),
        supplies=(SupplyView(source="kme-1", said_s_ago=said_s_ago, supply=supply, refills=2, served=served, why=why),),
        pairs=(SaePairView(kme="kme-1", said_s_ago=said_s_ago, pair=pair),),
        left_out=0,
    )
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(supplies_as_tables(view))
    return [line.split() for line in captured.get().splitlines()], " ".join(captured.get().split())


@pytest.mark.parametrize("width", [80, 100])
def test_no_figure_is_cut_in_a_narrow_window(width):
    rows, _ = shown(width=width)
    supply, pair = ([row for row in rows if row and row[0] == name] for name in ("kme-1>kme-8", "sae-1"))
    assert supply == [["kme-1>kme-8", "1", *["0", "B", "976.6", "KiB", "32.0", "KiB", "120.6", "KiB", "256", "2"]]]
    assert pair[0] == ["sae-1", "sae-8", "1", "12345", "7654321", "128", "255", "1234.5", "8"]


def test_what_is_in_the_way_is_said_in_words():
    _, text = shown(why="too few shares in time: the QKD link to kme-8 is down", said_s_ago=75.0)
    assert "kme-1>kme-8, level 1: as kme-1 said 1 min 15 s ago; too few shares in time: the QKD link to kme-8" in text
    assert "sae-1 to sae-8: as kme-1 said 1 min 15 s ago; fewer keys are ready than should be; kme-8 has no" in text


def test_why_it_is_refilled_is_said_too():
    _, text = shown(served="requests wait and nothing is there")
    assert "kme-1>kme-8, level 1: refilled since requests wait and nothing is there" in text


def test_of_what_is_as_it_should_be_nothing_is_said():
    _, text = shown(pair=msgspec.structs.replace(PAIR, low=False, why=""))
    assert "sae-1 to sae-8" not in text
    assert "level 1" not in text
