"""An attack in the lab, in words and as data."""

from __future__ import annotations

from typing import Any

from qkdrelay.messages.answers import AttackView
from qkdrelay.terminal.wording import counted
from qkdrelay_cli.render.outcome import short_split


def attack_as_data(view: AttackView) -> dict[str, Any]:
    """Return what an attack came to, for programs."""
    return {
        "relay_id": str(view.relay_id),
        "kmes": list(view.kmes),
        "shares_held": view.shares_held,
        "learned": view.learned,
        "short_splits": [{"split": list(s.split), "present": s.present, "needed": s.needed} for s in view.short_splits],
    }


def attack_in_words(view: AttackView) -> list[str]:
    """Return what an attack came to, line by line, for people."""
    if not view.kmes:
        return [f"learned nothing: no KME has leaked a share of relay {view.relay_id}"]
    by = f"from {counted(view.shares_held, 'share')} leaked by {' and '.join(view.kmes)}"
    if view.learned:
        return [f"LEARNED the secret of relay {view.relay_id}, {by}"]
    short = [f"  {short_split(s.split, s.present, s.needed)}" for s in view.short_splits]
    return [f"learned nothing of relay {view.relay_id}, {by}", *short]
