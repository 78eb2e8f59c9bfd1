"""Back-off: the seconds to wait before the next attempt."""

import random

_DOUBLINGS_MAX = 16


def backoff_s(failures: int, least_s: float, most_s: float) -> float:
    """Return a wait that doubles with each of ``failures`` (from 0) up to ``most_s``.

    Its upper half is drawn at random, so that clients of a broker that comes back do not come all at once.
    """
    ceiling = min(most_s, least_s * 2 ** min(failures, _DOUBLINGS_MAX))
    return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - spreads load, guards nothing
