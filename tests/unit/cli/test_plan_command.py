"""`coordinator plan`: what there is to choose from, and what is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

TOPOLOGIES = Path(__file__).parents[3] / "infra" / "topologies"
REFERENCE = ("--topology", str(TOPOLOGIES / "eight-kmes.toml"))
WAIST = """\
name = "waist"
kmes = ["s", "a", "b", "x", "c", "d", "t"]
links = [["s", "a"], ["s", "b"], ["a", "x"], ["b", "x"], ["x", "c"], ["x", "d"], ["c", "t"], ["d", "t"]]
[trust]
x = "trusted"
"""


@pytest.fixture
def waist(tmp_path):
    file = tmp_path / "waist.toml"
    file.write_text(WAIST, encoding="utf-8")
    return ("--topology", str(file))


def test_json_has_the_plans_of_the_reference_network(run):
    data = run("plan", "kme-1", "kme-8", *REFERENCE, "--json").data
    assert (data["source"], data["target"]) == ("kme-1", "kme-8")
    best, disjoint, recursive = data["plans"]
    assert [p["policy"] for p in data["plans"]] == ["best", "disjoint", "recursive"]
    assert recursive["withstands"] == {"compromised": 1, "failed": 0, "failed_links": 0, "tampering": 0}
    assert recursive["messages"] == 17
    assert recursive["successors"]["kme-2"] == ["kme-5", "kme-6"]
    assert recursive["thresholds"] == {f"kme-{i}": 1 if i > 4 else 2 for i in range(1, 8)}
    assert recursive["link_key"]["kme-6>kme-8"] == 3 * (32 + 64 + 2 * 32)
    assert best["withstands"] == {"compromised": 1, "failed": 1, "failed_links": 1, "tampering": 1}
    assert [p["chosen"] for p in (best, disjoint, recursive)] == [True, False, False]
    assert all(p["meets_wish"] and p["relies_on"] == [] for p in data["plans"])


def test_a_batch_takes_more_link_key_than_one_key(run):
    data = run("plan", "kme-1", "kme-8", *REFERENCE, "--keys", "4", "--json").data
    for plan in data["plans"]:
        for link, one in plan["link_key"].items():
            batch = plan["link_key_batch"][link]
            shares = (batch - one) / (3 * 32)
            assert shares == int(shares) >= 1


def test_people_see_all_plans_and_how_the_chosen_one_goes(run):
    result = run("plan", "kme-1", "kme-8", *REFERENCE)
    assert result.code == 0
    assert result.out == (
        "kme-1 to kme-8 in eight-kmes\n"
        "to withstand compromised=1, and failed=1 if the network allows it\n"
        "\n"
        "   policy     compromised  failed  links  tampering  messages      key        rate\n"
        "*  best                 1       1      1          1         9  1,152 B    1 Mbit/s\n"
        "   disjoint             1       1      1          1         9  1,152 B    1 Mbit/s\n"
        "   recursive            1       0      0          0        17  2,624 B  333 kbit/s\n"
        "In the worst case. Compromised and failed KMEs are withstood at the same time; a\n"
        "tampering one counts as one of each.\n"
        "\n"
        "kme-1  splits, any 2 of 3: kme-2>kme-5>kme-8, kme-3>kme-6>kme-8,\n"
        "       kme-4>kme-7>kme-8\n"
    )


def test_one_policy_only(run):
    data = run("plan", "kme-1", "kme-8", *REFERENCE, "--policy", "recursive", "--json").data
    assert [(p["policy"], p["chosen"]) for p in data["plans"]] == [("recursive", True)]


def test_each_split_of_a_recursive_plan_is_told(run):
    lines = run("plan", "kme-1", "kme-8", *REFERENCE, "--policy", "recursive").out.splitlines()
    assert "kme-1  splits, any 2 of 3: kme-2, kme-3, kme-4" in lines
    assert "kme-2  splits, any 2 of 2: kme-5>kme-8, kme-6>kme-8" in lines


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_wish_that_cannot_be_met_exits_2_and_the_plans_are_still_there(run, form):
    result = run("plan", "kme-1", "kme-8", *REFERENCE, "--withstand", "compromised=2,failed=1", *form)
    assert result.code == 2
    assert result.err == (
        "error: no plan withstands compromised=2,failed=1: 3 disjoint paths join kme-1 and kme-8, and that takes 4\n"
        "hint: possible with policy best: --withstand compromised=2,failed=0\n"
    )
    if form:
        assert [(p["meets_wish"], p["chosen"]) for p in result.data["plans"]] == [(False, False)] * 3
    else:
        assert "disjoint" in result.out
        assert "*" not in result.out


def test_a_plan_that_relies_on_trusted_kmes_is_taken_only_if_allowed_and_says_so(run, waist):
    refused = run("plan", "s", "t", *waist)
    assert refused.code == 2
    assert "if x can be trusted" in refused.err
    taken = run("plan", "s", "t", *waist, "--allow-unprotected", "--json")
    assert taken.code == 0
    assert [(p["policy"], p["relies_on"]) for p in taken.data["plans"] if p["chosen"]] == [("trusted", ["x"])]
    assert "It relies on the honesty of x." in run("plan", "s", "t", *waist, "--allow-unprotected").out


def test_a_wish_that_is_allowed_to_fail_is_labelled(run):
    wish = ("--withstand", "compromised=2,failed=1", "--allow-unprotected")
    result = run("plan", "kme-1", "kme-8", *REFERENCE, *wish)
    assert result.code == 0
    assert "It does not withstand what was asked for." in result.out


@pytest.mark.parametrize(
    "wish",
    ["", "compromised", "compromised=x", "compromised=-1", "broken=1", "failed=1,failed=2", "failed=1;tampering=1"],
)
def test_a_wish_that_cannot_be_read(run, wish):
    result = run("plan", "kme-1", "kme-8", *REFERENCE, "--withstand", wish)
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[1] == "hint: such as --withstand compromised=1,failed=1,tampering=0"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("kme-1", "kme-9"), "there is no KME 'kme-9'"),
        (("kme-1", "kme-1"), "source and target are both kme-1"),
        (("kme-1", "kme-8", "--keys", "0"), "0 keys"),
        (("kme-1", "kme-8", "--policy", "clever"), "clever"),
    ],
)
def test_wrong_use(run, arguments, error):
    result = run("plan", *arguments, *REFERENCE)
    assert (result.code, result.out) == (2, "")
    assert error in result.err


def test_names_that_are_long_fit_80_columns(run):
    result = run("plan", "palo-alto", "princeton", "--topology", str(TOPOLOGIES / "nsfnet.toml"))
    assert max(map(len, result.out.splitlines()[1:])) <= 80


def test_without_a_file_the_network_is_the_running_ones(here):
    with_file = here.run("plan", "kme-1", "kme-8", *REFERENCE, "--json").data
    assert here.run("plan", "kme-1", "kme-8", "--json").data == with_file


def test_without_a_file_and_a_coordinator_the_hint_names_the_option(here):
    here.stop("coordinator")
    result = here.run("plan", "kme-1", "kme-8")
    assert (result.code, result.out) == (3, "")
    assert "--topology" in result.err.splitlines()[1]


def test_the_rate_of_a_plan_is_that_of_its_narrowest_link(run, tmp_path):
    """By hand: of one path its slowest link; by the recursive rule both shares meet on the last."""
    file = tmp_path / "net.toml"
    file.write_text(
        'name = "net"\nkmes = ["s", "a", "b", "c", "t"]\nlinks = [["s", "a", { rate_bps = 400 }], ["a", "b"], '
        '["s", "c", { rate_bps = 300 }], ["c", "b"], ["b", "t", { rate_bps = 500 }]]\n',
        encoding="utf-8",
    )
    plans = run("plan", "s", "t", "--topology", str(file), "--json").data["plans"]
    rates = {plan["policy"]: plan["rate_bps"] for plan in plans}
    assert rates == {"best": 400.0, "disjoint": 400.0, "recursive": 250.0}
