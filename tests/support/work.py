"""A rebuild with its work counted."""

from unittest.mock import patch

from kme import searches
from qkdrelay.schemes import recursive
from qkdrelay.sharing.work import Budget


def counted(plan, held, length, *, search=recursive.SEARCH_MAX):
    """Return what a rebuild finds, its work, and the places of each agreement it found."""
    work, found, agreements = 0, [], recursive.agreements

    def noting(*arguments, **options):
        several, hit = yield from agreements(*arguments, **options)
        found.extend(agreement.places for agreement in several)
        return several, hit

    with patch.object(recursive, "agreements", noting):
        steps = recursive.rebuilding(plan, held, length, budget=Budget(search))
        while True:
            try:
                work += next(steps)
            except StopIteration as end:
                return end.value, work, found


def note_rebuilding(monkeypatch, works, *, begun=lambda: None):
    """Have the work of all KMEs' rebuilds added to the last of ``works`` from now on; call ``begun`` as one begins."""
    rebuild = searches.rebuilding

    def noting(*arguments, **options):
        begun()
        steps = rebuild(*arguments, **options)
        while True:
            try:
                work = next(steps)
            except StopIteration as end:
                return end.value
            works[-1] += work
            yield work

    monkeypatch.setattr(searches, "rebuilding", noting)
