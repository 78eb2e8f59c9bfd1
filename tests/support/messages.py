"""Messages of every kind, drawn at random within what their types allow."""

import types
import typing

import msgspec
from hypothesis import strategies as st

from qkdrelay.messages import answers, blocks, control, leaks, link, reports, requests

KINDS = (
    link.SealedMessage,
    link.ShareHeader,
    blocks.Announce,
    blocks.BlocksHeld,
    control.SignedMessage,
    control.Terms,
    control.Commands,
    reports.Reports,
    link.Bundle,
    reports.DeadLetter,
    leaks.SealedLeak,
    leaks.Leak,
    requests.Request,
    answers.Reply,
)
"""Every kind that is decoded by itself."""

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=32)
CLIENT_QUEUES = st.builds(
    "{}.q.{}".format, st.sampled_from(("cli", "page")), st.text("0123456789abcdef-", min_size=1, max_size=64)
)


def any_of(kind):
    """Messages of ``kind``."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return st.deferred(lambda: st.builds(kind, **{name: values(hints[name]) for name in kind.__struct_fields__}))


def values(kind):
    """Values of a field's type."""
    if typing.get_origin(kind) is typing.Annotated:
        inner, *metas = typing.get_args(kind)
        return _bounded(inner, next(meta for meta in metas if isinstance(meta, msgspec.Meta)))
    return _bounded(kind, msgspec.Meta())


def _bounded(kind, meta):
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    sizes = {"min_size": meta.min_length or 0, "max_size": min(meta.max_length or 4, max(4, meta.min_length or 0))}
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values(each) for each in arguments])
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), **sizes).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if kind is str and meta.pattern:
        return NAMES if "cli" not in meta.pattern else CLIENT_QUEUES
    if kind is str:
        return st.text(min_size=meta.min_length or 0, max_size=8)
    if kind is bytes:
        return st.binary(**(sizes if meta.min_length else {"max_size": min(12, meta.max_length or 12)}))
    if kind is int:
        multiple = meta.multiple_of or 1
        low, high = meta.ge if meta.ge is not None else -(2**63), meta.le if meta.le is not None else 2**64 - 1
        return st.integers(-(-low // multiple), high // multiple).map(lambda n: n * multiple)
    if kind is float:
        return st.floats(meta.ge, meta.le, allow_nan=False, allow_infinity=False)
    simple = {bool: st.booleans(), type(None): st.none()}
    if kind in simple:
        return simple[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return any_of(kind)
    return st.from_type(kind)
