"""The directory of SAEs from its file: read again once it changes; what is broken is said, and mended by mending it."""

import os

import pytest

from kme.supply.directory_changes import loses_keys, struck_off
from kme.supply.model import Pair
from qkdrelay.errors import TopologyError
from qkdrelay.network.directory import Directory, PairSettings, Sae, directory_text
from qkdrelay.network.directory_file import DirectoryFile

SAES = {sae: Sae(sae, kme) for sae, kme in (("a", "kme-1"), ("b", "kme-2"), ("c", "kme-2"))}
BEFORE = Directory(SAES)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "saes.toml"
    path.write_text(directory_text(BEFORE))
    return path


def replace(path, text):
    """As a program does that replaces a file in one step."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def test_a_file_that_has_not_changed_gives_the_same_directory(path):
    read = DirectoryFile(path)
    assert read() == BEFORE
    assert read() is read()


def test_a_file_that_was_replaced_is_read_again(path):
    read = DirectoryFile(path)
    read()
    after = Directory({"a": SAES["a"]})
    replace(path, directory_text(after))
    assert read() == after


def test_a_file_that_was_written_in_place_is_read_again(path):
    read = DirectoryFile(path)
    read()
    after = Directory({**SAES, "d": Sae("d", "kme-3")})
    path.write_text(directory_text(after))
    os.utime(path, ns=(1, 1))
    assert read() == after


def test_a_broken_file_is_an_error_each_time_until_it_is_mended(path):
    read = DirectoryFile(path)
    read()
    replace(path, "[saes]\na = ")
    for _ in range(2):
        with pytest.raises(TopologyError, match=r"saes\.toml"):
            read()
    replace(path, directory_text(BEFORE))
    assert read() == BEFORE


def test_a_file_that_is_missing_or_no_file_is_an_error_until_it_is_there(path):
    read = DirectoryFile(path)
    path.unlink()
    with pytest.raises(TopologyError, match="No such file"):
        read()
    path.mkdir()
    with pytest.raises(TopologyError):
        read()
    path.rmdir()
    path.write_text(directory_text(BEFORE))
    assert read() == BEFORE


@pytest.mark.parametrize(
    ("after", "gone"),
    [
        (SAES, set()),
        ({**SAES, "d": Sae("d", "kme-1")}, set()),
        ({"a": SAES["a"], "c": SAES["c"]}, {"b"}),
        ({**SAES, "b": Sae("b", "kme-3")}, {"b"}),
        ({**SAES, "b": Sae("b", "kme-2", "00" * 32)}, {"b"}),
        ({}, {"a", "b", "c"}),
    ],
)
def test_an_sae_that_has_gone_moved_or_got_another_certificate_is_struck_off(after, gone):
    after = Directory(after)
    assert struck_off(BEFORE.saes, after.saes) == gone
    for pair in (Pair("a", "b"), Pair("a", "c"), Pair("b", "a")):
        assert loses_keys(BEFORE, after, pair) == bool(gone & {*pair})


def test_a_pair_that_gets_no_keys_any_more_loses_them():
    after = Directory(SAES, {("a", "c"): PairSettings()}, only_pairs=True)
    assert loses_keys(BEFORE, after, Pair("a", "b"))
    assert not loses_keys(BEFORE, after, Pair("a", "c"))
