"""Whatever is typed: an answer, or one error line with a hint, and an exit status from 0 to 3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.fuzzing import fuzzed

COMMANDS = (
    ("relay",),
    ("relays",),
    ("show",),
    ("trace",),
    ("plan",),
    ("analyse",),
    ("network",),
    ("link", "down"),
    ("link", "up"),
    ("dead-letters", "list"),
    ("dead-letters", "show"),
    ("dead-letters", "requeue"),
    ("dead-letters", "drop"),
    ("lab", "compromise"),
    ("lab", "restore"),
    ("lab", "attack"),
    (),
)
KNOWN_OPTIONS = """--keys --key-size --timeout --policy --withstand --allow-unprotected --no-wait --linger --id --json
--limit --mode --kme --network --help -h --topology --all --svg --failing --compromised --cut --pairs --reason --"""
KNOWN_WORDS = """kme-1 kme-2 kme-8 kme-9 eight-kmes nsfnet leak tamper recursive best disjoint trusted none.toml
compromised=1,failed=1 compromised=-1 tampering=x 0 1 -1 2 64 256 255 16384 99999999999999999999 0.5 5 nan inf -inf
1e400 failed=9 0x10 00112233-4455-6677-8899-aabbccddeeff kme-1-kme-2 = all abcd"""
OPTIONS, WORDS = KNOWN_OPTIONS.split(), KNOWN_WORDS.split()
# What a shell can hand over: no zero byte; what is not UTF-8 arrives as surrogates. No path to anywhere.
TEXT = st.text(st.characters(exclude_characters="\x00/.", exclude_categories=()), max_size=12)
ARGUMENT = st.sampled_from((*OPTIONS, *WORDS)) | TEXT | st.tuples(st.sampled_from(OPTIONS), TEXT).map("=".join)


@pytest.mark.parametrize("lab_is_on", [False, True])
def test_any_arguments_are_answered_or_refused(place, lab_is_on):
    here = place(lab=lab_is_on)

    @fuzzed(150)
    @given(st.sampled_from(COMMANDS), st.lists(ARGUMENT, max_size=5))
    def check_command_line(command, arguments):
        result = here.run(*command, *arguments)
        assert 0 <= result.code <= 3
        assert result.code < 2 or result.err.strip() or "Usage" in result.out

    check_command_line()
