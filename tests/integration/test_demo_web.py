"""`coordinator demo --web` as it is typed: it says where the page is, serves it, and ends at Ctrl-C without a word."""

import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.http import get
from support.stack import command_here
from support.waiting import eventually

COORDINATOR = str(Path(sys.executable).parent / "coordinator")


@contextmanager
def demo(*arguments):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([COORDINATOR, "demo", "--web", *arguments], **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_page_until_it_is_told_to_end(number):
    with demo("--port", "0") as process:
        said = process.stdout.readline()
        port = int(re.fullmatch(r"The network is at http://127\.0\.0\.1:(\d+)/ +\(Ctrl-C ends it\)\n", said)[1])
        status, page = get(port, "/")
        assert (status, "<title>qkdrelay</title>" in page) == (200, True)
        eventually(lambda: get(port, "/plan?source=kme-1&target=kme-8")[0] == 200, what="the network to be known")
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.communicate() == ("", "")


def test_a_port_that_another_program_has_is_told_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with demo("--port", str(port)) as process:
            out, error = process.communicate(timeout=30)
        assert (process.returncode, out) == (2, "")
        assert error == f"error: --port: 127.0.0.1:{port} cannot be served: Address already in use\n"


@pytest.mark.parametrize("wrong", [("--port", "1"), ("--web", "--json"), ("--port", "70000"), ("--port", "x")])
def test_what_does_not_go_together_is_refused(wrong):
    answer = command_here("demo", *wrong)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err
