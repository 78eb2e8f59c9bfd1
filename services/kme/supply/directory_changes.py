"""What becomes of keys when a KME's directory of SAEs changes."""

from __future__ import annotations

from kme.supply.model import Pair
from qkdrelay.network.directory import Directory


def struck_off(before: Directory, after: Directory) -> frozenset[str]:
    """Return the SAEs that are in the directory no longer, or in another place, or with another certificate."""
    return frozenset(sae_id for sae_id, sae in before.saes.items() if after.saes.get(sae_id) != sae)


def loses_keys(before: Directory, after: Directory, pair: Pair) -> bool:
    """Whether what is kept for a pair must go, now that another directory counts."""
    return not after.allows(*pair) or not {*pair}.isdisjoint(struck_off(before, after))
