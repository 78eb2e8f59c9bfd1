"""The command `kme run` serves its applications, also while there is no broker; and ends when it is told to."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from qkdrelay.network.directory import Directory, Sae, directory_text
from support.ports import free_port
from support.saes import Authority, sae_at
from support.waiting import eventually

SAES = {sae: Sae(sae, kme) for sae, kme in (("sae-1", "kme-1"), ("sae-2", "kme-1"), ("sae-8", "kme-8"))}


@pytest.fixture
def kme(tmp_path):
    authority, port, nobody = Authority(tmp_path / "authority"), free_port(), free_port()
    for sae in ("sae-1", "sae-2"):
        authority.issue(sae, names=[sae])
    authority.server(tmp_path / "saes")
    directory = tmp_path / "saes" / "saes.toml"
    directory.write_text(directory_text(Directory(SAES)))
    settings = {
        "KME": "kme-1",
        "BROKER": f"127.0.0.1:{nobody}",
        "BROKER_PASSWORD": "secret",
        "STORE": str(tmp_path / "kme.sqlite"),
        "CONTROL_KEY": "0f" * 32,
        "LINKS": json.dumps({"kme-2": {"secret": "0f" * 32}}),
        "SAES": str(directory),
        "ETSI014": f"127.0.0.1:{port}",
        "ETSI014_TLS": str(tmp_path / "saes"),
        "WAIT_S": "0.2",
    }
    environment = {**os.environ, **{f"QKDRELAY_{name}": value for name, value in settings.items()}}
    command = [str(Path(sys.executable).parent / "kme"), "run"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        eventually(lambda: serves(port) or process.poll() is not None)
        yield process, authority, port, directory
    finally:
        process.kill()
        process.wait()


def serves(port):
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_kme_with_applications_has_loaded_what_long_shares_need_before_anybody_waits_for_them(kme):
    process, *_ = kme
    assert "/numpy/" in Path(f"/proc/{process.pid}/maps").read_text()


def test_a_kme_without_a_broker_serves_what_it_can_and_says_what_it_cannot(kme):
    process, authority, port, directory = kme
    with sae_at(port, authority.context("sae-1")) as master, sae_at(port, authority.context("sae-2")) as slave:
        status, _, taken = master.post("sae-2", "enc_keys", {"number": 3})
        assert status == 200
        asked = {"key_IDs": [{"key_ID": key["key_ID"]} for key in taken["keys"]]}
        status, _, fetched = slave.post("sae-1", "dec_keys", asked)
        assert (status, [key["key"] for key in fetched["keys"]]) == (200, [key["key"] for key in taken["keys"]])
        status, headers, _ = master.get("sae-8", "enc_keys")
        assert (status, "Retry-After" in headers) == (503, True)
        assert master.get("sae-8", "status")[2]["stored_key_count"] == 0
        directory.write_text(directory_text(Directory({name: sae for name, sae in SAES.items() if name != "sae-1"})))
        eventually(lambda: master.get("sae-2", "status")[0] == 401)
        assert slave.get("sae-8", "status")[0] == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
