"""Whatever is logged: a line, or several at once, that steer nothing and from which programs read what was there."""

import io
import json
import logging
from uuid import UUID

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from qkdrelay.service.logs import LINE_MAX, lines_lost, log_all, set_up_logging
from support.fuzzing import fuzzed
from support.hostile import ANY_TEXT, steering


class Fails:
    """Cannot say what it is, while something is being logged."""

    now = False

    def __repr__(self):
        if Fails.now:
            raise RuntimeError("no")
        return "Fails()"


PLAIN = ANY_TEXT | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
ODD = (
    st.binary(max_size=8)
    | st.just(Fails())
    | st.builds(lambda text: OSError(2, text), ANY_TEXT)
    | st.sampled_from([UUID(int=7), float("nan"), float("-inf"), object, {1, 2}, {(1, 2): 3}, ("a", 5), 1 << 70])
    | st.lists(ANY_TEXT, max_size=2)
    | st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=2)
    | st.tuples(ANY_TEXT, ANY_TEXT)
)
KEYS = st.sampled_from(["kme", "relay_id", "route", "split", "reason", "queue"]) | ANY_TEXT
FIELDS = st.dictionaries(
    KEYS.filter(lambda key: key not in ("event", "exc_info", "exception", "stack")), PLAIN | ODD, max_size=4
)


@pytest.fixture(autouse=True)
def as_it_was():
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def logged(form, say):
    out = io.StringIO()
    set_up_logging(form, "debug", out)
    Fails.now = True
    try:
        say(structlog.get_logger())
    finally:
        Fails.now = False
    assert lines_lost() == 0
    return out.getvalue()


def fail(text):
    raise OSError(5, text)


@pytest.mark.parametrize("form", ["json", "console"])
def test_any_fields_make_one_line_each(form):
    @fuzzed(300)
    @given(ANY_TEXT, st.lists(FIELDS, max_size=3))
    @example("event", [{"reason": "\ud800\x1b\u202e\u2028\x9b[/x]"}])
    @example("event", [{"kme": Fails(), "route": ("a", Fails()), "x": {(1, 2): "\ud800"}}])
    def check(event, lines):
        def say(log):
            for fields in lines:
                log.warning(event, **fields)
            log_all([("info", event, fields) for fields in lines], kme="kme-1")

        text = logged(form, say)
        assert not steering(text, colours=form == "console")
        assert text.count("\n") == 2 * len(lines)
        if form == "json":
            for line in text.splitlines():
                assert json.loads(line, parse_constant=fail)["level"] in ("warning", "info")

    check()


@fuzzed(300)
@given(st.dictionaries(ANY_TEXT.filter(lambda key: key not in ("event", "exc_info", "timestamp", "level")), PLAIN))
def test_programs_read_what_was_logged(fields):
    (line,) = logged("json", lambda log: log.info("it.happened", **fields)).splitlines()
    read = json.loads(line)
    # Two halves that stand beside each other are one character, in JSON.
    assert {joined(key): joined(read[joined(key)]) for key in fields} == {
        joined(k): joined(v) for k, v in fields.items()
    }


def joined(value):
    if not isinstance(value, str):
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_text_of_an_error_begins_no_line(form):
    @fuzzed(150)
    @given(ANY_TEXT)
    @example("\n2026-01-01T00:00:00Z [error] forged\x1b[2J\ud800")
    def check(text):
        def say(log):
            try:
                fail(text)
            except OSError:
                log.exception("it.failed")

        first, *rest = (written := logged(form, say)).splitlines()
        assert not steering(written, colours=form == "console")
        assert "it.failed" in first
        if form == "json":
            assert json.loads(first)["exception"][0]["exc_type"] == "OSError"
        assert all(line.startswith("  ") for line in rest)

    check()


def test_what_is_too_long_is_cut():
    (line,) = logged("json", lambda log: log.info("it", reason="\x1b" * 1_000_000, kme="kme-1")).splitlines()
    assert len(line) < LINE_MAX
    read = json.loads(line)
    assert (read["kme"], read["event"]) == ("kme-1", "it")
    assert read["reason"].endswith("more characters)")
    (shown,) = logged("console", lambda log: log.info("it", reason="x" * 1_000_000)).splitlines()
    assert "more characters)" in shown


def test_what_libraries_say_is_a_line_like_any_other(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    hostile = "x\x1b[2J\n\ud800"

    def say(_log):
        logging.getLogger("pika").critical("%s and %d", hostile, 5)
        logging.getLogger("else").log(37, "%d", hostile)

    first, second = (json.loads(line) for line in logged("json", say).splitlines())
    assert (first["event"], first["logger"], first["message"]) == ("library.message", "pika", f"{hostile} and 5")
    assert (second["message"], second["level"]) == ("%d (TypeError)", "warning")
    assert not steering(logged("console", say), colours=True)
