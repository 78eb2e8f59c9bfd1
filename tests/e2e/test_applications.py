"""Keys for applications on the real stack, brought up and asked as the README shows, with KMEs killed in between.

SAEs come and go while it runs; nothing is started anew for them.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from qkdrelay.service.dotenv_file import read
from support import stack
from support.deployment import Deployment, brought_up
from support.saes import Sae, sae_at
from support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(400)]

REFUSED = (ssl.SSLError, ConnectionError, http.client.HTTPException)
LIVE_WITHIN_S = 20.0
"""In which whoever was added is served, and whoever was struck off is not."""


class Applications:
    """The SAEs of a deployment, reached as deploy/saes.json says."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    def where(self, sae: str) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.deployment.folder / "deploy/saes.json").read_text())[sae]
        return found

    def connected(self, sae: str, *, shows: Path | None = None) -> Any:
        """An SAE with a connection of its own; ``shows`` is a folder with another certificate."""
        where, root = self.where(sae), self.deployment.folder
        context = ssl.create_default_context(cafile=root / where["ca"])
        cert, key = (shows / "cert.pem", shows / "key.pem") if shows else (root / where["cert"], root / where["key"])
        context.load_cert_chain(cert, key)
        return sae_at(int(where["url"].rpartition(":")[2]), context)

    def asked(self, sae: str, other: str, what: str, query: str = "", **connection: Any) -> tuple[int, Any]:
        """Ask over a new connection; status and answer. Status 0: not let in."""
        try:
            with self.connected(sae, **connection) as here:
                status, _, answer = here.get(other, what, query)
        except REFUSED as error:
            return 0, str(error)
        return status, answer

    def take(self, master: str, slave: str, number: int = 1) -> dict[str, str]:
        """Take keys once there are any: bytes by id."""

        def taken() -> Any:
            status, answer = self.asked(master, slave, "enc_keys", f"?number={number}")
            return status == 200 and answer

        keys = eventually(taken, timeout_s=60, what=f"keys of {master} with {slave}")["keys"]
        assert len(keys) == number
        return {key["key_ID"]: key["key"] for key in keys}

    def fetch(self, slave: str, master: str, key_id: str) -> str:
        """Fetch a key once its KME answers."""

        def fetched() -> Any:
            status, answer = self.asked(slave, master, "dec_keys", f"?key_ID={key_id}")
            assert status in (0, 200, 503), answer
            return status == 200 and answer

        (key,) = eventually(fetched, timeout_s=60, what=f"{slave} to fetch {key_id}")["keys"]
        assert key["key_ID"] == key_id
        return str(key["key"])


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with brought_up(tmp_path_factory.mktemp("deployment"), "eight-kmes") as running:
        yield running


@pytest.fixture
def applications(deployment: Deployment) -> Applications:
    return Applications(deployment)


def shown_in_the_readme() -> list[str]:
    """The command lines with curl, each as one would type it."""
    text = (stack.ROOT / "README.md").read_text().replace("\\\n", " ")
    return re.findall(r"^\$ (.*\bcurl .*)$", text, re.MULTILINE)


def typed(deployment: Deployment, line: str) -> Any:
    """Run a line in a shell; the ports are those that this deployment has been given instead of the usual ones."""
    first = int(read(deployment.folder / ".env")["QKDRELAY_ETSI014_PORT"])
    here = re.sub(r"(?<=127\.0\.0\.1:)84(\d\d)", lambda port: str(first + int(port[1]) - 43), line)
    done = deployment.run("bash", "-c", here)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_curls_of_the_readme_print_a_key_and_fetch_the_same(deployment: Deployment) -> None:
    take, fetch = shown_in_the_readme()
    (taken,) = typed(deployment, take)["keys"]
    shown = re.search(r"key_ID=([0-9a-f-]{36})", fetch)
    assert shown
    (fetched,) = typed(deployment, fetch.replace(shown[1], taken["key_ID"]))["keys"]
    assert (fetched["key_ID"], fetched["key"]) == (taken["key_ID"], taken["key"])
    assert taken["key_extension"]["qkdrelay_compromised"] == 1
    assert taken["key_extension"]["qkdrelay_route"] == "relayed"


def kill(deployment: Deployment, kme: str) -> None:
    """Kill a KME's container, and start it again at once."""
    container = containers(deployment)[kme]
    container.kill("KILL")
    container.start()


def containers(deployment: Deployment) -> dict[str, Any]:
    import docker  # noqa: PLC0415

    label = f"com.docker.compose.project={deployment.environment['COMPOSE_PROJECT_NAME']}"
    found = docker.from_env().containers.list(filters={"label": label})
    return {container.labels["com.docker.compose.service"]: container for container in found}


@pytest.mark.parametrize("killed", ["kme-1", "kme-8"])
def test_what_the_master_has_the_slave_can_fetch_though_either_kme_is_killed_in_between(
    applications: Applications, killed: str
) -> None:
    before = applications.take("sae-1", "sae-8", 3)
    kill(applications.deployment, killed)
    assert {key_id: applications.fetch("sae-8", "sae-1", key_id) for key_id in before} == before
    after = applications.take("sae-1", "sae-8", 3)
    assert {key_id: applications.fetch("sae-8", "sae-1", key_id) for key_id in after} == after
    assert not before.keys() & after.keys()
    assert len({*before.values(), *after.values()}) == 6
    for key_id in before:
        status, answer = applications.asked("sae-8", "sae-1", "dec_keys", f"?key_ID={key_id}")
        assert (status, answer["message"]) == (400, "one or more keys specified are not found on KME")


@contextmanager
def undisturbed(applications: Applications) -> Iterator[None]:
    """Nothing is started anew meanwhile, and who is there goes on."""

    def running() -> dict[str, tuple[str, str]]:
        found = containers(applications.deployment).items()
        return {name: (container.id, container.attrs["State"]["StartedAt"]) for name, container in found}

    before = running()
    assert len(before) == 11
    yield
    assert running() == before
    taken = applications.take("sae-1", "sae-8")
    assert {key_id: applications.fetch("sae-8", "sae-1", key_id) for key_id in taken} == taken


def test_an_sae_is_added_has_keys_and_is_struck_off_while_the_network_runs(
    applications: Applications, tmp_path: Path
) -> None:
    deployment = applications.deployment
    with undisturbed(applications), ExitStack() as kept:
        old = kept.enter_context(applications.connected("sae-1"))
        assert old.get("sae-8", "status")[0] == 200
        socket = old.connection.sock
        added = deployment.coordinator("saes", "add", "sae-5", "kme-5", "--pair", "sae-1", "--stock", "4")
        assert added.code == 0, added.err
        eventually(
            lambda: applications.asked("sae-5", "sae-1", "status")[0] == 200, timeout_s=LIVE_WITHIN_S, what="sae-5"
        )
        assert old.get("sae-8", "status")[0] == 200
        assert old.connection.sock is socket, "who was there keeps the connection"
        for master, slave in (("sae-5", "sae-1"), ("sae-1", "sae-5"), ("sae-8", "sae-5")):
            taken = applications.take(master, slave, 2)
            assert {key_id: applications.fetch(slave, master, key_id) for key_id in taken} == taken

        left = applications.take("sae-1", "sae-5")
        shutil.copytree(deployment.folder / "deploy/saes/sae-5", tmp_path / "stolen")
        open_one = kept.enter_context(applications.connected("sae-5"))
        assert open_one.get("sae-1", "status")[0] == 200
        where = applications.where("sae-5")
        assert deployment.coordinator("saes", "remove", "sae-5").code == 0
        assert not (deployment.folder / "deploy/saes/sae-5").exists()

        eventually(lambda: _out(open_one), timeout_s=LIVE_WITHIN_S, what="sae-5 to be out on its open connection")
        eventually(
            lambda: applications.asked("sae-1", "sae-5", "enc_keys")[0] == 400,
            timeout_s=LIVE_WITHIN_S,
            what="nobody to have keys with sae-5 any more",
        )
        assert "sae-5" not in json.loads((deployment.folder / "deploy/saes.json").read_text())
        # Its KME looks at certificates and at the directory in turns of their own.
        eventually(
            lambda: _has_struck_one_off(deployment, "kme-5"), timeout_s=LIVE_WITHIN_S, what="kme-5 to go by that"
        )

        again = deployment.coordinator("saes", "add", "sae-5", "kme-5")
        assert again.code == 0, again.err
        assert applications.where("sae-5") == where
        eventually(
            lambda: applications.asked("sae-5", "sae-1", "status")[0] == 200, timeout_s=LIVE_WITHIN_S, what="sae-5"
        )
        assert applications.asked("sae-5", "sae-1", "status", shows=tmp_path / "stolen")[0] == 0
        (key_id,) = left
        assert applications.asked("sae-5", "sae-1", "dec_keys", f"?key_ID={key_id}")[0] == 400, "another's key"
        assert deployment.coordinator("saes", "remove", "sae-5").code == 0


def _has_struck_one_off(deployment: Deployment, kme: str) -> bool:
    lines = deployment.compose("logs", "--no-color", kme).out.splitlines()
    said = [json.loads(line[line.index("{") :]) for line in lines if "directory.taken_over" in line]
    return any(line["struck_off"] == 1 for line in said)


def _out(sae: Sae) -> bool:
    """Whether it is answered no more, but that it may not."""
    try:
        return sae.get("sae-1", "status")[0] == 401
    except REFUSED:
        return True


def test_certificates_are_renewed_while_the_network_runs(applications: Applications, tmp_path: Path) -> None:
    deployment = applications.deployment
    with undisturbed(applications):
        shutil.copytree(deployment.folder / "deploy/saes/sae-8", tmp_path / "stolen")
        assert deployment.coordinator("saes", "renew", "sae-8").code == 0
        (deployment.folder / "deploy/kmes/kme-8/saes/cert.pem").unlink()
        assert deployment.coordinator("certs", "eight-kmes", "--out", ".").code == 0
        eventually(
            lambda: applications.asked("sae-8", "sae-1", "status", shows=tmp_path / "stolen")[0] == 0,
            timeout_s=LIVE_WITHIN_S,
            what="the certificate that sae-8 had to be revoked",
        )
        assert applications.asked("sae-8", "sae-1", "status")[0] == 200


def test_bringing_it_up_again_changes_nothing(applications: Applications) -> None:
    deployment = applications.deployment
    files = ("deploy/saes.json", "deploy/coordinator/saes/saes.toml", "deploy/saes/sae-1/cert.pem", ".env")
    before = [(deployment.folder / name).read_bytes() for name in files]
    with undisturbed(applications):
        deployment.up("eight-kmes")
    assert [(deployment.folder / name).read_bytes() for name in files] == before


def test_no_key_is_in_any_log(applications: Applications) -> None:
    taken = applications.take("sae-1", "sae-8", 2)
    for key_id in taken:
        applications.fetch("sae-8", "sae-1", key_id)
    logs = applications.deployment.compose("logs", "--no-color").out
    assert not [key for key in taken.values() if key in logs]
    secret = (applications.deployment.folder / "deploy/saes/sae-1/key.pem").read_text().splitlines()[1]
    assert secret not in logs
