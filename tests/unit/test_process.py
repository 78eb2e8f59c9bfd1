"""What a service sets up for its process."""

import json
import subprocess
import sys

from qkdrelay.service import process

FAULTS_OF_TEN_SPLITS = """
import resource
from qkdrelay.randomness import random_bytes
from qkdrelay.service.process import keep_freed_memory
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


DUMPABLE = """
import ctypes, resource
from qkdrelay.service.process import forbid_core_dumps

def state():
    return resource.getrlimit(resource.RLIMIT_CORE)[0] == 0, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)

resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
before = state()
forbid_core_dumps()
print(before[1], *state())
"""


def test_a_service_that_crashes_leaves_nothing_of_its_memory():
    script = [sys.executable, "-c", DUMPABLE]
    output = subprocess.run(script, capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.split() == ["1", "True", "0"]


def test_another_c_library_is_left_as_it_is(monkeypatch):
    asked = []

    def none(name):
        asked.append(name)
        raise OSError("no such library")

    monkeypatch.setattr(process.ctypes, "CDLL", none)
    process.keep_freed_memory()
    assert asked == [None]


OUT_OF_SIGHT = """
import threading, warnings
from qkdrelay.service.logs import set_up_logging
from qkdrelay.service.process import prepare_process

class Object:
    def __del__(self):
        raise ValueError("in a finalizer")

def fail():
    raise ValueError("in a thread")

prepare_process()
set_up_logging("json", "info")
warnings.warn("a warning\\x1b[2J")
thread = threading.Thread(target=fail, name="broker")
thread.start()
thread.join()
Object()
"""


def test_what_python_would_say_on_stderr_is_logged():
    done = subprocess.run([sys.executable, "-c", OUT_OF_SIGHT], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    warning, thread, finalizer = map(json.loads, done.stdout.splitlines())
    assert "a warning\x1b[2J" in warning["message"]
    assert (thread["event"], thread["thread"]) == ("thread.failed", "broker")
    assert (finalizer["event"], finalizer["object"]) == ("object.failed", "function")
    for line, text in ((thread, "in a thread"), (finalizer, "in a finalizer")):
        assert line["exception"][0]["exc_value"] == text


ASKED_TO_END_BEFORE_IT_WAITS = """
import os, signal, threading
from qkdrelay.broker.rabbitmq.inbox import Inbox
from qkdrelay.service.process import prepare_process

stop, inbox, wait = prepare_process(), Inbox(1), threading.Condition.wait

def interrupted(condition, timeout=None):
    if not stop.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.is_set():
            pass
    return wait(condition, timeout)

threading.Condition.wait = interrupted
stop.wakes(inbox.wake)
inbox.take(1, 3600.0, (), 2)
"""


def test_a_wait_ends_with_the_process_also_if_that_is_asked_just_before_it():
    subprocess.run([sys.executable, "-c", ASKED_TO_END_BEFORE_IT_WAITS], check=True, timeout=60)


def test_who_is_asked_to_end_twice_does_nothing_more_for_it(monkeypatch):
    started = []
    monkeypatch.setattr(process._thread, "start_new_thread", lambda *what: started.append(what))
    stop = process.StopRequest()
    stop.set()
    stop.set()
    assert (len(started), stop.is_set()) == (1, True)
