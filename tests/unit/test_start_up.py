"""What starts is light: no solver in a KME, no waiting for `--help`, no HTTP server where nothing is served."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "scipy", "networkx", "cheroot")


def loaded(code):
    """The heavy packages among the modules that a fresh interpreter has after running ``code``."""
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}} & {set(HEAVY)}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("module", ["kme.__main__", "kme.service", "qkdrelay_cli.__main__", "coordinator.service"])
def test_starting_loads_nothing_heavy(module):
    assert loaded(f"import {module}") == []


@pytest.mark.parametrize(
    ("module", "helps"),
    [
        ("qkdrelay_cli.__main__", [["--help"], ["plan", "--help"], ["analyse", "--help"]]),
        ("kme.__main__", [["--help"], ["run", "--help"]]),
    ],
)
def test_help_loads_nothing_heavy(module, helps):
    code = (
        f"import {module} as it\n"
        f"for arguments in {helps}:\n"
        "    sys.argv = ['command', *arguments]\n"
        "    try:\n        it.main()\n    except SystemExit as ended:\n        assert ended.code == 0"
    )
    assert loaded(code) == []


def test_the_check_finds_what_it_looks_for():
    assert loaded("import numpy") == ["numpy"]
