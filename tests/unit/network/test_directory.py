"""The directory of SAEs: what its file may say, and how a mistake is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdrelay.errors import TopologyError
from qkdrelay.network.directory import (
    DIRECTORY_BYTES_MAX,
    LEVEL_MAX,
    STOCK_MAX,
    WEIGHT_MAX,
    Directory,
    PairSettings,
    Sae,
    directory_text,
    load_directory,
    parse_directory,
)
from qkdrelay.network.names import KME_NAME, SAE_ID

PIN = "ab" * 32
TEXT = f"""\
[saes]
sae-1 = "kme-1"
"sae.8" = {{ kme = "kme-8", pin = "sha256:{PIN}" }}

[pairs]
"sae-1 sae.8" = {{ level = 2, stock = 64 }}
"""
IDS = st.from_regex(SAE_ID, fullmatch=True)


@st.composite
def directories(draw):
    kmes = st.from_regex(KME_NAME, fullmatch=True)
    pins = st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex)
    saes = {sae: Sae(sae, draw(kmes), draw(pins)) for sae in draw(st.sets(IDS, max_size=6))}
    pairs = {}
    if len(saes) > 1:
        ends = st.tuples(*[st.sampled_from(sorted(saes))] * 2).filter(lambda pair: pair[0] != pair[1])
        settings = st.builds(
            PairSettings, st.integers(0, LEVEL_MAX), st.integers(0, STOCK_MAX), st.integers(1, WEIGHT_MAX)
        )
        pairs = draw(st.dictionaries(ends, settings, max_size=6))
    return Directory(saes, pairs, draw(st.booleans()))


@given(directory=directories())
def test_what_is_written_is_read_again(directory):
    assert parse_directory(directory_text(directory), "saes.toml") == directory


def test_a_file_says_which_kme_an_sae_is_at_and_what_pairs_have():
    directory = parse_directory(TEXT, "saes.toml")
    assert directory.saes == {"sae-1": Sae("sae-1", "kme-1"), "sae.8": Sae("sae.8", "kme-8", PIN)}
    assert directory.kme_of("sae.8") == "kme-8"
    assert directory.kme_of("SAE.8") is None
    assert directory.settings("sae-1", "sae.8") == PairSettings(level=2, stock=64)
    assert directory.settings("sae.8", "sae-1") == PairSettings()


def test_only_pairs_that_are_listed_if_it_says_so():
    assert parse_directory(TEXT, "saes.toml").allows("sae.8", "sae-1")
    limited = parse_directory(f"only_pairs = true\n{TEXT}", "saes.toml")
    assert limited.allows("sae-1", "sae.8")
    assert not limited.allows("sae.8", "sae-1")
    assert not limited.allows("sae-1", "sae-1")


@pytest.mark.parametrize(
    ("old", "new", "error", "hint"),
    [
        ("[saes]", "[sae]", "saes.toml:1: unknown entry 'sae'", "did you mean 'saes'?"),
        ("[saes]", "only_pairs = 1\n[saes]", "saes.toml:1: 'only_pairs' is 1", "true or false"),
        ("[saes]", "[[saes]]", "saes.toml:1: 'saes' must be a table", 'sae-1 = "kme-1"'),
        ("sae-1 =", '"sae 1" =', "saes.toml:2: 'sae 1' is no SAE ID", "1 to 64 of"),
        ("sae-1 =", '".." =', "saes.toml:2: '..' is no SAE ID", "not '.' or '..'"),
        ("sae-1 =", f"{'a' * 65} =", "is no SAE ID", "1 to 64 of"),
        ('"kme-1"', '"KME-1"', "saes.toml:2: SAE 'sae-1' is at 'KME-1', which is no KME name", "a-z"),
        ('"kme-1"', "1", "saes.toml:2: SAE 'sae-1' is at 1, which is no KME name", "a-z"),
        ("kme = ", "kmee = ", "saes.toml:3: SAE 'sae.8' has an unknown entry 'kmee'", "did you mean 'kme'?"),
        ("sha256:", "sha1:", "saes.toml:3: the pin of SAE 'sae.8' is no fingerprint", "openssl x509"),
        ("sae-1 sae.8", "sae-1", "saes.toml:6: 'sae-1' is no pair of SAEs", "the master, a space, the slave"),
        ("sae-1 sae.8", "sae-1 sae-8", "names 'sae-8', which is not in 'saes'", "did you mean 'sae.8'?"),
        ("sae-1 sae.8", "sae-1 sae-1", "saes.toml:6: the pair 'sae-1 sae-1' is one SAE", None),
        ("{ level = 2, stock = 64 }", "2", "saes.toml:6: the settings of the pair", "level = 1"),
        ("level = 2", "level = 9", "saes.toml:6: the pair 'sae-1 sae.8': level is 9; it must be a whole number", None),
        ("level = 2", "level = true", "level is True; it must be a whole number from 0 to 3", None),
        ("stock", "stok", "saes.toml:6: the pair 'sae-1 sae.8' has an unknown entry 'stok'", "did you mean 'stock'?"),
        ("[pairs]", "[pairs]\n'sae-1  sae.8' = {}", "the pair 'sae-1 sae.8' is named twice", None),
        ("[pairs]", "[pairs", "saes.toml: not valid TOML", None),
    ],
)
def test_a_mistake_is_told_with_its_line(old, new, error, hint):
    assert old in TEXT
    with pytest.raises(TopologyError) as caught:
        parse_directory(TEXT.replace(old, new, 1), "saes.toml")
    assert error in str(caught.value)
    assert (hint or "") in (caught.value.hint or "")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(TopologyError, match="there is no such file"):
        load_directory(tmp_path / "saes.toml")
    (tmp_path / "long.toml").write_text("#" * (DIRECTORY_BYTES_MAX + 1))
    with pytest.raises(TopologyError, match="larger than"):
        load_directory(tmp_path / "long.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(TopologyError, match="not UTF-8"):
        load_directory(tmp_path / "bytes.toml")
