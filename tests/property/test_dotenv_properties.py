"""Whatever stands in .env: all readers find the same in it, an independent one too, or it is refused."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from unittest.mock import patch

import pytest
from dotenv import dotenv_values
from hypothesis import example, given
from hypothesis import strategies as st

from qkdrelay.errors import SettingsError
from qkdrelay.service.dotenv_file import assignment, read
from qkdrelay.service.settings import load
from qkdrelay_cli.settings import CliSettings
from support.fuzzing import fuzzed

NAME = "QKDRELAY_CLI_PASSWORD"
PIECES = st.sampled_from(
    [
        *"'\"$#\\`= \t\n\r:;&{}",
        "a",
        "B_1",
        "${A}",
        "$A",
        "$$",
        " #",
        "\\n",
        "export ",
        NAME,
        f"\n{NAME}=",
        "\n#",
        "é",
        "\ufeff",
        "\u2028",
        "\x85",
        "\xa0",
        "\x00",
        "\x0b",
        "\x1f",
        "='",
        '="',
        "'\n",
        '"\n',
        "pa$ss",
        "a b",
    ]
)
VALUES = st.lists(PIECES, max_size=6).map("".join) | st.text(max_size=12)
LINES = st.tuples(
    st.sampled_from([NAME, "OTHER", "lower", "export A", " A", "A ", ""]),
    st.sampled_from(["=", " = ", ":", ""]),
    VALUES,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("dotenv") / ".env"


def attempted(what):
    """What was done, or what our error says; any other error is a failure."""
    try:
        return what(), ""
    except SettingsError as error:
        return None, str(error)


def slowly(text: str) -> dict[str, str]:
    """Read a file a character at a time: names, and values that end at their quote or with their line."""
    found: dict[str, str] = {}
    name, value, quote, at = "", "", "", "start"
    for char in text + "\n":
        if char == "\n":
            if at != "start" and name.strip():
                found[name] = value if quote else value.strip()
            name, value, quote, at = "", "", "", "start"
        elif at == "start" and char == "=":
            at = "begin"
        elif at == "start":
            name += char
            if name.lstrip().startswith("#"):
                at, name = "over", ""
        elif at == "begin" and char in "'\"":
            quote, at = char, "value"
        elif at == "value" and quote and char == quote:
            at = "over"
        elif at != "over":
            value, at = value + char, "value"
    return found


@fuzzed(800)
@given(st.lists(LINES.map("".join) | VALUES | st.just("# a comment"), max_size=5).map("\n".join))
@example(f"{NAME}='pa$ss'")
@example(f'{NAME}="a b"')
@example(f"{NAME}=a #b")
@example(f"{NAME}='a\nOTHER=b'")
@example(f"# a\r{NAME}=b")
def test_any_file_is_refused_with_its_line_or_read_alike_by_all(path, text):
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    found, error = attempted(lambda: read(path))
    if found is None:
        assert str(path) in error
        assert "\n" not in error
        return
    assert found == slowly(text) == dotenv_values(path)
    kept = "\n".join(assignment(name, value) for name, value in found.items())
    path.write_text(kept, encoding="utf-8", newline="")
    assert read(path) == found
    if found.get(NAME):
        with patch.dict(os.environ, {"QKDRELAY_CLI_KEY": "0f" * 32}, clear=True), contextlib.chdir(path.parent):
            assert load(CliSettings).cli_password.get_secret_value() == found[NAME]


@fuzzed(500)
@given(st.text(max_size=20) | VALUES)
def test_any_value_is_kept_as_it_is_or_refused(path, value):
    line, error = attempted(lambda: assignment("ANY", value))
    if line is None:
        assert error.startswith("ANY: ")
        return
    path.write_text(line, encoding="utf-8", newline="")
    assert read(path) == {"ANY": value}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("A=pa$ss", "A: a $ without quotes"),
        ('A="pa$ss"', "A: a $ within the quotes"),
        ("A='${B}'", "A: a ${ within the quotes"),
        ('A="a\\nb"', "A: a \\ within the quotes"),
        ("A=a #b", "A: a # without quotes"),
        ("A=a#b", "A: a # without quotes"),
        ("A='a' # b", "A: the value does not end with its quote"),
        ("A='a\nb'", "A: the value does not end with its quote"),
        ("A=it's", "A: a ' without quotes"),
        ("A= a", "A: a blank before or behind the value"),
        ("A=é", "A: what is not printable ASCII"),
        ("A=1\t2", "A: what is not printable ASCII"),
        ("export A=1", "is no NAME=VALUE"),
        ("A = 1", "is no NAME=VALUE"),
        ("A: 1", "is no NAME=VALUE"),
        ("A", "is no NAME=VALUE"),
        ("A=1\r", "ends as lines do in Windows"),
        ("qkdrelay_lab=1", "qkdrelay_lab is not in capital letters"),
        ("FIRST=1", "FIRST stands in line 1 already"),
    ],
)
def test_what_compose_may_read_differently_is_named_with_its_line_and_variable(path, line, said):
    path.write_text(f"FIRST=1\n\n{line}\n", encoding="utf-8", newline="")
    with pytest.raises(SettingsError) as error:
        read(path)
    assert str(error.value).startswith(f"{path} line 3: {said}")


def test_a_byte_order_mark_and_what_is_too_long_are_refused(path):
    path.write_bytes(b"\xef\xbb\xbfA=1\n")
    with pytest.raises(SettingsError, match="line 1: begins with a byte order mark"):
        read(path)
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(SettingsError, match="larger than"):
        read(path)


def test_no_error_repeats_a_value(path):
    for line in ("A={}$", "A='{}'{}", "{}", "export A={}", "A={}\r", "A=1\nA={}", 'A="{}', "'{}'=1"):
        path.write_text(line.replace("{}", "S3cr3t"), newline="")
        with pytest.raises(SettingsError) as error:
            read(path)
        assert "S3cr3t" not in str(error.value) + str(error.value.hint)
