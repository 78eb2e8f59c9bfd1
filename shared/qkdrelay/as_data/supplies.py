"""Keys for applications as the coordinator knows of them."""

from __future__ import annotations

from typing import Any

import msgspec

from qkdrelay.messages.answers import SuppliesView


def supplies_as_data(view: SuppliesView) -> dict[str, Any]:
    """Return what is known for programs."""
    return {
        "kmes": list(view.kmes),
        "supplies": [
            {
                "source": one.source,
                **msgspec.to_builtins(one.supply),
                "refills": one.refills,
                "said_s_ago": one.said_s_ago,
                "served": one.served,
                "why": one.why or one.supply.why,
            }
            for one in view.supplies
        ],
        "pairs": [
            {**msgspec.to_builtins(one.pair), "kme": one.kme, "said_s_ago": one.said_s_ago} for one in view.pairs
        ],
        "left_out": view.left_out,
    }
