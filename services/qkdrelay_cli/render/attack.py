"""An attack in the lab, in words."""

from __future__ import annotations

from qkdrelay.messages.answers import AttackView
from qkdrelay.terminal.wording import counted
from qkdrelay_cli.render.outcome import short_split


def attack_in_words(view: AttackView) -> list[str]:
    """Return what an attack came to, line by line, for people."""
    if not view.kmes:
        return [f"learned nothing: no KME has leaked a share of relay {view.relay_id}"]
    by = f"from {counted(view.shares_held, 'share')} leaked by {' and '.join(view.kmes)}"
    if view.learned:
        return [f"LEARNED the secret of relay {view.relay_id}, {by}"]
    short = [f"  {short_split(s.split, s.present, s.needed)}" for s in view.short_splits]
    return [f"learned nothing of relay {view.relay_id}, {by}", *short]
