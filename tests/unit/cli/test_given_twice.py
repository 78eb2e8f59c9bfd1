"""No option is dropped unseen: each takes a list in both forms, or refuses to be given twice. For every command."""

from __future__ import annotations

import sys

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from qkdrelay.errors import RequestRefusedError
from qkdrelay.terminal import run_app
from qkdrelay.terminal.commands import takes_list
from support.commands import APPS, commands
from support.fuzzing import fuzzed

ON_NSFNET = ("palo-alto", "princeton", "--topology", "nsfnet", "--json")


def params():
    """Each parameter of each command of both command lines, with the way to it."""
    return [(words, command, param) for words, command in commands() for param in command.params]


SINGLE, LISTS = [], []
for path, command, param in params():
    if takes_list(param):
        LISTS.append(pytest.param(command, param, id=" ".join((*path, param.opts[0]))))
    elif param.param_type_name == "option":
        SINGLE.append(pytest.param(path, param, id=" ".join((*path, param.opts[0]))))


def parsed(command, param, *arguments):
    return command.make_parser(typer.Context(command)).parse_args(list(arguments))[0][param.name]


def test_there_are_commands_to_look_at():
    seen = {" ".join(path) for path, _, _ in params()}
    assert {"coordinator relay", "coordinator lab attack", "coordinator dead-letters drop", "kme keys"} <= seen
    assert {param.id for param in LISTS} >= {
        "coordinator analyse --compromised",
        "coordinator analyse --failed",
        "coordinator analyse --cut",
        "coordinator analyse --withstand",
        "coordinator plan --cut",
        "coordinator relay --withstand",
        "coordinator lab attack --kme",
        "coordinator dead-letters requeue letters",
    }


@pytest.mark.parametrize(("path", "param"), SINGLE)
@pytest.mark.parametrize("times", [2, 3])
def test_an_option_that_takes_one_value_refuses_a_second(path, param, times, monkeypatch, capsys):
    for name in (*param.opts, *param.secondary_opts):
        once = [name] if param.is_flag else [name, "1"]
        monkeypatch.setattr(sys, "argv", [*path, *once, *[param.opts[0], *once[1:]] * (times - 1)])
        with pytest.raises(SystemExit) as ended:
            run_app(APPS[path[0]])
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (2, "")
        error, hint = said.err.splitlines()
        assert error.startswith(f"error: {param.opts[0]} is given {'twice' if times == 2 else '3 times'}")
        assert hint == "hint: give it once"


@pytest.mark.parametrize(("command", "param"), LISTS)
def test_a_list_is_taken_in_both_forms(command, param):
    option = [param.opts[0]] if param.param_type_name == "option" else []

    @fuzzed(30)
    @given(st.lists(st.lists(st.from_regex(r"[a-z0-9:=]{1,4}", fullmatch=True), min_size=1), min_size=1))
    def check(groups):
        arguments = [word for group in groups for word in (*option, ", ".join(group))]
        assert parsed(command, param, *arguments) == [item for group in groups for item in group]

    check()


@pytest.mark.parametrize(("command", "param"), LISTS)
@pytest.mark.parametrize("text", ["", ",", "a,", ",a", "a,,b", "a, ,b"])
def test_a_list_has_no_empty_item(command, param, text):
    option = [param.opts[0]] if param.param_type_name == "option" else []
    with pytest.raises(RequestRefusedError, match="an item is empty"):
        parsed(command, param, *option, text)


def test_nothing_is_taken_from_variables_where_it_could_contradict_an_option():
    assert [path for path, _, param in params() if param.envvar] == []


def test_help_is_given_however_often_it_is_asked_for(run):
    assert run("plan", "--json", "--json", "--help", "-h").code == 0


@pytest.mark.parametrize(
    ("comma", "repeated"),
    [
        (["--compromised", "urbana-champaign,houston"], ["--compromised", "urbana-champaign", "--compromised=houston"]),
        (["--failed", "houston, seattle"], ["--failed", "houston", "--failed", "seattle"]),
        (["--failed", "houston,seattle,houston"], ["--failed", "houston,houston", "--failed", "seattle"]),
        (
            ["--cut", "seattle:urbana-champaign,houston:boulder"],
            ["--cut", "urbana-champaign:seattle", "--cut", "seattle:urbana-champaign", "--cut", "boulder:houston"],
        ),
        (["--withstand", "compromised=2,failed=0"], ["--withstand", "compromised=2", "--withstand", "failed=0"]),
    ],
)
def test_both_forms_mean_the_same(run, comma, repeated):
    one, other = (run("analyse", *ON_NSFNET, *form) for form in (comma, repeated))
    assert (one.code, other.code) == (0, 0)
    one, other = ({**data, "cut": sorted(data["cut"])} for data in (one.data, other.data))
    assert one == other


def test_what_two_compromised_kmes_learn_is_said_in_both_forms(run):
    analyse = ("analyse", "kme-1", "kme-8", "--topology", "eight-kmes", "--policy", "recursive", "--json")
    assert run(*analyse, "--compromised", "kme-2,kme-3").data["learned"]
    assert run(*analyse, "--compromised", "kme-2", "--compromised", "kme-3").data["learned"]


@pytest.mark.parametrize(
    "withstand",
    [
        ["compromised=1,compromised=2"],
        ["compromised=1", "compromised=2"],
        ["compromised=1,failed=0", "compromised=1"],
    ],
)
def test_one_wish_is_not_told_twice(run, withstand):
    options = [word for part in withstand for word in ("--withstand", part)]
    result = run("plan", "kme-1", "kme-8", "--topology", "eight-kmes", *options)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: --withstand names 'compromised' twice\nhint: such as ")


def test_dead_letters_are_named_in_both_forms(here):
    for letters in (["17,18"], ["17", "18"]):
        assert here.run("dead-letters", "requeue", *letters).err.startswith("error: there is no dead letter 17")
