"""Everything a service has in memory, as plain data: to compare before and after a batch that was undone."""

import types
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import contextmanager
from enum import Enum
from itertools import chain, repeat
from pathlib import Path
from uuid import UUID

import msgspec

from qkdrelay.errors import StoreError

OURS = ("kme.", "coordinator.", "qkdrelay.")
PLAIN = (str, bytes, int, float, bool, type(None), UUID, Path, Enum, type, types.FunctionType, types.MethodType)
BESIDE = {
    "qkdrelay.service.batch.Batch": "the undoing itself",
    "qkdrelay.service.metrics.Metrics": "counts what was committed",
    "kme.metrics.KmeMetrics": "counts what was committed",
    "coordinator.metrics.CoordinatorMetrics": "counts what was committed",
    "qkdrelay.storage.database.Database": "the store, which rolls back itself",
    "qkdrelay.storage.connection.Connection": "the store, which rolls back itself",
    "qkdrelay.network.topology.Topology": "does not change",
    "kme.supply.application_metrics.ApplicationMetrics": "counts what was committed",
    "kme.searches.Searches": "results of computations, which are the same whenever they are made",
    "kme.blocks.computed.ComputedSource": "as a device: what it has given it does not take back",
    "kme.blocks.announcing.Announcing": "key that was taken to seal with is never given back: the commit may have been",
    "kme.blocks.holding.Holding": "what it was told and has to say comes again by time; what it holds is in the store",
}
ONLY_GROWS = {
    "kme.supply.question.Question._has_begun",
    "qkdrelay.service.outbox.Outbox._next_id",
    "qkdrelay.messages.dialogue.Answerer.latest",
    "qkdrelay.messages.dialogue.Answerer._since",
    "qkdrelay.messages.dialogue.Answerer._numbers",
}
CLOCK_ONLY = {"_now", "_looked_at"}
"""When it last looked: a batch later it looks again."""


def remembered(thing, batch):
    """Return all that can be reached from ``thing`` in objects of ours, by path, but for caches of ``batch``."""
    found, seen = {}, {id(cache) for cache in batch._caches}

    def name(kind):
        return f"{kind.__module__}.{kind.__qualname__}"

    def visit(path, it):
        if isinstance(it, (*PLAIN, msgspec.Struct)):
            found[path] = it if not isinstance(it, types.MethodType) else None
            return
        kind = name(type(it))
        if kind in BESIDE or callable(it) or id(it) in seen:
            return
        if isinstance(it, Mapping):
            found[path] = tuple(it) if not isinstance(it, OrderedDict) else None
            for key, value in it.items():
                visit(f"{path}[{key!r}]", value)
            seen.add(id(it))
        elif isinstance(it, (list, tuple, set, frozenset)):
            found[path] = len(it)
            for number, value in enumerate(it if isinstance(it, (list, tuple)) else sorted(it, key=repr)):
                visit(f"{path}[{number}]", value)
        elif kind.startswith(OURS):
            seen.add(id(it))
            names = [*getattr(it, "__dict__", {}), *(s for k in type(it).__mro__ for s in getattr(k, "__slots__", ()))]
            for attribute in names:
                if f"{kind}.{attribute}" not in ONLY_GROWS and attribute not in CLOCK_ONLY:
                    visit(f"{path}.{attribute}", getattr(it, attribute))

    visit("", thing)
    return found


class FailingCommits:
    """Has those commits of a service fail that ``fails`` says, in turn, and compares its memory before and after."""

    def __init__(self, loop, fails):
        self.failed, self.fails, self.left = 0, chain(fails, repeat(False)), set()
        """Of these, the last: what was not as before, by its path."""
        transaction = loop.journal.transaction

        @contextmanager
        def transacting():
            before = remembered(loop.service, loop.journal.batch)
            try:
                with transaction():
                    yield
                    if next(self.fails):
                        raise StoreError("the disk is full")  # noqa: TRY301 - as the commit would
            except StoreError:
                after = remembered(loop.service, loop.journal.batch)
                self.left |= {path for path in {**before, **after} if before.get(path) != after.get(path)}
                self.left |= {type(cache) for cache in loop.journal.batch._caches if len(cache)}
                self.failed += 1
                raise

        loop.journal.transaction = transacting
