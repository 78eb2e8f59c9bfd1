"""What a service sets up for its process."""

import subprocess
import sys

from qkdrelay import service

FAULTS_OF_TEN_SPLITS = """
import resource
from qkdrelay.randomness import random_bytes
from qkdrelay.service import keep_freed_memory
from qkdrelay.sharing import shamir

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        shamir.split(bytes(1 << 20), 3, 2, random_bytes)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""


def test_memory_that_was_freed_is_used_again():
    script = [sys.executable, "-c", FAULTS_OF_TEN_SPLITS]
    output = subprocess.run(script, capture_output=True, text=True, check=True, timeout=60).stdout
    given_back, kept = map(int, output.split())
    assert kept < 500 < 5_000 < given_back


def test_another_c_library_is_left_as_it_is(monkeypatch):
    asked = []

    def none(name):
        asked.append(name)
        raise OSError("no such library")

    monkeypatch.setattr(service.ctypes, "CDLL", none)
    service.keep_freed_memory()
    assert asked == [None]
