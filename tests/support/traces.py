"""Random runs of the models in tests/models, read: each step, and what is there after it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from support.spin import simulated


@dataclass
class Step:
    """A step of a model: its name, its figures, and the lines that follow it."""

    name: str
    given: dict[str, str]
    after: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def number(self, name: str) -> int:
        return int(self.given[name])


def _parsed(line: str) -> tuple[str, dict[str, str]]:
    given = dict(re.findall(r"(\S+)=(\S+)", line))
    return re.sub(r"\s*\S+=\S+", "", line).strip(), given


def trace(model: str, *switches: str, seed: int, steps: int = 2_000) -> list[Step]:
    """Return the steps of one random run, but the last if it was cut off, for that may be in the midst of it."""
    done: list[Step] = []
    lines = simulated(model, "TRACE", *switches, seed=seed, steps=steps)
    for line in lines:
        kind, _, rest = line.strip().partition(" ")
        if kind == "STEP":
            done.append(Step(*_parsed(rest)))
        elif kind in ("STATE", "CUT") and done:
            name, given = _parsed(rest)
            done[-1].after.append((f"{kind} {name}".strip(), given))
        elif done:
            break
    return done[:-1] if any(line.startswith("depth-limit") for line in lines) else done
