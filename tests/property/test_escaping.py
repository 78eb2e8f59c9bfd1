"""Any text, escaped: one line that can be seen, and that says what was there."""

import json
import re
import tomllib
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qkdrelay.escaping import TEXT_MAX, escaped, escaped_json
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import format_topology, parse_topology
from support.fuzzing import fuzzed
from support.hostile import ANY_TEXT, TEXT, steering


@fuzzed(500)
@given(ANY_TEXT)
@example("\ud800\x1b\u202e")
def test_nothing_that_steers_is_left(text):
    shown = escaped(text)
    assert not steering(shown)
    assert "\n" not in shown
    assert escaped(shown) == shown
    shown.encode()


@fuzzed(500)
@given(ANY_TEXT, st.sampled_from([None, 2]))
def test_json_says_the_same(text, indent):
    written = escaped_json(json.dumps({text: [text]}, indent=indent, ensure_ascii=False))
    assert not steering(written)
    assert json.loads(written.encode()) == {text: [text]}


@fuzzed(300)
@given(TEXT.filter(bool))
@example("\x7f\U0001f600\U000e0041")
def test_a_deployment_gets_the_very_name_of_its_network(name):
    written = format_topology(Topology(name, ("a", "b"), (("a", "b"),)))
    assert not steering(written)
    assert parse_topology(written, "here.toml").name == tomllib.loads(written)["name"] == name


@pytest.mark.parametrize(
    "word",
    [
        "kme-1",
        "Zürich",
        "Ελλάδα",
        "Жнец",
        "漢字かな",
        "नमस्ते",
        "ไทยนี้",
        "שָׁלוֹם",
        "مرحبا",
        "Tiếng Việt",
        "👍🏽",
        "x² ± ½ €",
    ],
)
def test_words_of_all_languages_stay(word):
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, word)
        assert escaped(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"bad \[/x] share", r"bad \[/x] share"),
        ("\x1b[31m", r"\u001b[31m"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\u2028\u202e\x9b\ud800\U000e0041", r"\u2028\u202e\u009b\ud800\U000e0041"),
        ("=\u0338", r"=\u0338"),
        ("e" + "\u0301" * 6, "e" + "\u0301" * 4 + r"\u0301\u0301"),
        ("\u3164", r"\u3164"),
    ],
)
def test_what_is_shown(text, shown):
    assert escaped(text) == shown


def test_of_a_long_text_the_beginning_is_shown():
    shown = escaped("\x1b" * 10 + "x" * 1_000_000)
    assert shown.endswith(f"x... ({1_000_010 - TEXT_MAX} more characters)")
    assert len(re.sub(r"\\u[0-9a-f]{4}", ".", shown)) < TEXT_MAX + 40
    assert len(escaped("x" * TEXT_MAX)) == TEXT_MAX
    assert len(escaped("x" * 1_000_000, None)) == 1_000_000
