"""What becomes of keys when a KME's directory of SAEs changes."""

from __future__ import annotations

from collections.abc import Mapping

from kme.supply.model import Pair
from qkdrelay.network.directory import Directory, Sae


def struck_off(before: Mapping[str, Sae], after: Mapping[str, Sae]) -> frozenset[str]:
    """Return the ids of SAEs that are there no longer, or in another place, or with another certificate."""
    return frozenset(sae_id for sae_id, sae in before.items() if after.get(sae_id) != sae)


def loses_keys(before: Directory, after: Directory, pair: Pair) -> bool:
    """Whether what is kept for a pair must go, now that another directory counts."""
    return not after.allows(*pair) or not {*pair}.isdisjoint(struck_off(before.saes, after.saes))
