"""A dictionary that batches change is a dictionary; undone, it is what it was, in its order."""

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from qkdrelay.service.batch import Batch, BatchDict, Cell

KEYS = st.integers(0, 6)
CHANGES = st.one_of(
    st.tuples(st.just("set"), KEYS),
    st.tuples(st.just("del"), KEYS),
    st.tuples(st.just("pop"), KEYS),
    st.tuples(st.just("popitem"), st.none()),
    st.tuples(st.just("setdefault"), KEYS),
    st.tuples(st.just("update"), st.lists(KEYS, max_size=4)),
    st.tuples(st.just("or"), st.lists(KEYS, max_size=4)),
    st.tuples(st.just("clear"), st.none()),
)


def change(it, how, what, value):
    with suppress(KeyError):
        match how:
            case "set":
                it[what] = value
            case "del":
                del it[what]
            case "pop":
                return it.pop(what, "none")
            case "popitem":
                return it.popitem()
            case "setdefault":
                return it.setdefault(what, value)
            case "update":
                it.update(dict.fromkeys(what, value))
            case "or":
                it |= dict.fromkeys(what, value)
            case "clear":
                it.clear()
    return None


@settings(max_examples=300)
@given(st.lists(st.tuples(st.booleans(), st.lists(CHANGES, max_size=8)), max_size=6))
def test_a_dictionary_of_batches_is_a_dictionary_and_undone_what_it_was(batches):
    batch, plain = Batch(), {}
    kept, cell = BatchDict(batch), Cell(batch, 0)
    for number, (undone, changes) in enumerate(batches):
        batch.begin()
        before, cell.value = list(kept.items()), number
        for value, (how, what) in enumerate(changes):
            after = plain if not undone else dict(kept)
            assert change(kept, how, what, (number, value)) == change(after, how, what, (number, value))
            assert list(kept.items()) == list(after.items())
        if undone:
            cell.value = -1
            batch.undo()
            assert list(kept.items()) == before == list(plain.items())
            cell.value = number
        assert cell.value == number
