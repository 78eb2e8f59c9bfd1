"""SPIN, the model checker: exhaustive searches of the models in tests/models, and simulations of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

MODELS = Path(__file__).parents[1] / "models"
MEMORY_MB = 1_500
DEPTH = 1_000_000
_WITHIN_S = 240
_DONE = "Full statespace search for:"
_CUT_SHORT = ("Search not completed", "max search depth too small", "out of memory", "reached -DMEMLIM")


@dataclass(frozen=True)
class Search:
    """What a search has found; one that says no error has looked at every state."""

    fault: str
    """The violation that was found, or nothing."""
    states: int


def require_spin() -> None:
    """Skip a test that cannot run SPIN; with CI set, fail it."""
    lacking = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if lacking:
        problem = f"{' and '.join(lacking)} not found; infra/ensure-spin.sh installs what the models need"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(problem, pytrace=False)
        pytest.skip(problem)


class Searches:
    """Searches that run ahead of who looks at them, one a processor: each is done by one thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._begun: dict[tuple[object, ...], Future[Search]] = {}

    def begin(self, model: str, *switches: str, reach: str = "", thorough: bool = False) -> Future[Search]:
        """Have every state of a model looked at; ``reach`` is a condition to be found as if it were a fault.

        ``thorough`` compiles for speed: where nothing is to be found, all the time is the search's.
        """
        asked = model, switches, reach, thorough
        if asked not in self._begun:
            self._begun[asked] = self._pool.submit(_search, *asked)
        return self._begun[asked]

    def end(self) -> None:
        """Begin no more of them."""
        self._pool.shutdown(cancel_futures=True)


def _search(model: str, switches: tuple[str, ...], reach: str, thorough: bool) -> Search:
    is_live = "LIVE" in switches
    with TemporaryDirectory() as folder:
        path = _written(Path(folder), model, switches, reach)
        _run(folder, "spin", "-a", path)
        # Steps are single transitions already: partial order reduction would find nothing to leave out.
        options = ["-DNFAIR=3"] if is_live else ["-DSAFETY", "-DNOREDUCE", "-DCOLLAPSE"]
        _run(folder, "gcc", "-O1" if thorough else "-O0", "-w", *options, f"-DMEMLIM={MEMORY_MB}", "-o", "pan", "pan.c")
        said = _run(folder, "./pan", f"-m{DEPTH}", *(["-a", "-f"] if is_live else []))
    errors = re.search(r"errors: (\d+)", said)
    states = re.search(r"(\d+(?:\.\d+e\+\d+)?) states, stored", said)
    assert errors, said
    assert states, said
    fault = re.search(r"pan:\d+: (.*?) \(at depth \d+\)", said)
    if errors[1] == "0":
        assert fault is None, said
        assert _DONE in said, said
        assert not [word for word in _CUT_SHORT if word in said], said
    else:
        assert fault, said
    return Search(fault[1] if fault else "", int(float(states[1])))


def simulated(model: str, *switches: str, seed: int, steps: int) -> list[str]:
    """Return what a random run of a model prints, line by line."""
    require_spin()
    with TemporaryDirectory() as folder:
        path = _written(Path(folder), model, switches, "")
        # A simulation that is cut off ends with a status of its own; what it printed before is what was asked for.
        said = _run(folder, "spin", "-T", f"-n{seed}", f"-u{steps}", path)
    return said.splitlines()


def _written(folder: Path, model: str, switches: tuple[str, ...], reach: str) -> str:
    """Write a model with its switches: SPIN's own -D knows no spaces."""
    every = [*switches, f"REACH={reach}"] if reach else switches
    defines = [f"#define {switch.replace('=', ' ', 1)}" for switch in every]
    (folder / model).write_text("\n".join([*defines, (MODELS / model).read_text()]))
    return model


def _run(folder: str, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_WITHIN_S, check=False, errors="replace"
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2_000:]}\n{done.stderr[-2_000:]}"
    return done.stdout
