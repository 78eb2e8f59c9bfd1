"""What `make up`, `make status`, `make down` and `make clean` say and do, with an engine that is only played."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.stack import ROOT
from support.waiting import eventually

# As docker: what there is, it has from files; what it is told to change, it writes down.
DOCKER = r"""#!/usr/bin/env bash
echo "$*" >> "$FAKE/calls"
case $1 in
  ps) if [[ "$*" == *working_dir* ]]; then cat "$FAKE/folders"; else cat "$FAKE/containers"; fi ;;
  inspect) at=$(grep -c ^inspect "$FAKE/calls"); [ -f "$FAKE/inspect.$at" ] || at=last; cat "$FAKE/inspect.$at" ;;
  logs) cat "$FAKE/log" ;;
  volume | network) [ "$2" != ls ] || cat "$FAKE/$1s"; [ "$2" != inspect ] || cat "$FAKE/on-network" ;;
esac 2>/dev/null
true
"""
ENGINE = '#!/bin/sh\n[ -z "$NO_ENGINE" ] || { echo "engine: no Docker engine answers" >&2; exit 1; }\n'
COMPOSE = '#!/bin/sh\n[ "$1" = config ] && printf "%s\\n" rabbitmq kme-1 kme-2 || echo "compose $*"\n'
SLEEP = '#!/bin/sh\n[ "$1" = 1 ] && set 0.05\nexec /bin/sleep "$1"\n'
"""Nobody here needs the second between two looks."""
FILES = {
    "bin/docker": DOCKER,
    "bin/sleep": SLEEP,
    "infra/docker/ensure-engine.sh": ENGINE,
    "infra/docker/compose.sh": COMPOSE,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "infra/docker", tmp_path / "infra/docker")
    (tmp_path / "bin").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(folder: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "FAKE": str(folder), **environment}
    command = [folder / "infra/docker" / script, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def inspected(folder: Path, number: int | str, **services: tuple[str, str, str]) -> None:
    """Let docker's answer of that number be: by service the state, the health, what was said last."""
    lines = [
        f"{name}|id-{name}|{state}|2|{health}|{json.dumps(said)}" for name, (state, health, said) in services.items()
    ]
    (folder / f"inspect.{number}").write_text("\n".join(lines))
    (folder / "containers").write_text("ids\n")


HEALTHY = ("running", "healthy", "ready\n")
ALL = {"rabbitmq": HEALTHY, "kme-1": HEALTHY, "kme-2": HEALTHY}


def test_the_state_of_each_service_is_shown_with_the_reason_in_one_harmless_line(folder: Path) -> None:
    inspected(folder, "last", rabbitmq=HEALTHY, **{"kme-1": ("running", "unhealthy", 'no "broker"\x1b[2J\n <&>\n')})
    (folder / "log").write_text('{"timestamp": "T", "level": "warning", "event": "broker.unreachable\u202e", "a": 1}\n')
    said = run(folder, "status.sh").stdout
    assert said == (
        "rabbitmq\thealthy\t\n"
        'kme-1\tunhealthy\tno "broker"\\u001b[2J  <&>; log: {"event": "broker.unreachable", "a": 1}\n'
        "kme-2\tnot created\t\n"
    )


def test_the_reason_of_one_that_does_not_start_is_its_error_with_the_hint_and_bounded(folder: Path) -> None:
    inspected(
        folder, "last", **{"kme-1": ("restarting", "", ""), "kme-2": ("created", "", "port is taken " + "x" * 9_000)}
    )
    (folder / "log").write_text("error: no store\nhint: make one\n")
    lines = run(folder, "status.sh").stdout.splitlines()
    assert lines[1] == "kme-1\trestarting with status 2\tlog: error: no store (hint: make one)"
    assert lines[2].startswith("kme-2\tcreated\tport is taken xxx")
    assert len(lines[2]) < 400


@pytest.mark.parametrize("script", ["status.sh", "wait-healthy.sh"])
def test_a_compose_file_that_compose_refuses_ends_it_with_what_compose_says_and_no_more(
    folder: Path, script: str
) -> None:
    (folder / "infra/docker/compose.sh").write_text("#!/bin/sh\necho 'ports: not a number' >&2; exit 1\n")
    (folder / ".env").write_text("")
    done = run(folder, script)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "ports: not a number\n")


def test_a_container_that_goes_while_it_is_looked_at_does_not_end_the_wait(folder: Path) -> None:
    docker = folder / "bin/docker"
    docker.write_text(DOCKER.replace('cat "$FAKE/log"', 'echo "No such container"; exit 1'))
    inspected(folder, 1, **{**ALL, "kme-2": ("running", "starting", "")})
    inspected(folder, "last", **ALL)
    done = run(folder, "wait-healthy.sh")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "up: all 3 services are healthy")


def test_without_an_env_the_status_says_what_makes_one(folder: Path) -> None:
    (folder / "infra/docker/compose.sh").write_text("#!/bin/sh\nexit 1\n")
    done = run(folder, "status.sh")
    assert done.returncode == 1
    assert done.stderr == "status: there is no .env here; `make up` makes one\n"


def test_waiting_says_how_far_they_are_whenever_that_changes_and_ends_when_all_are_healthy(folder: Path) -> None:
    inspected(folder, 1, rabbitmq=("running", "starting", ""))
    inspected(folder, 2, rabbitmq=("running", "starting", ""))
    inspected(folder, 3, **{**ALL, "kme-2": ("running", "starting", "")})
    inspected(folder, "last", **ALL)
    (folder / "log").write_text("")
    done = run(folder, "wait-healthy.sh")
    assert done.returncode == 0
    assert [line[line.index("s  ") + 3 :] for line in done.stderr.splitlines() if "s  " in line] == [
        "0 of 3 healthy; starting: rabbitmq; not created: kme-1 kme-2",
        "2 of 3 healthy; starting: kme-2",
        "3 of 3 healthy",
    ]


def test_after_the_deadline_the_reason_and_the_last_lines_are_shown(folder: Path) -> None:
    inspected(folder, "last", **{**ALL, "kme-2": ("running", "unhealthy", "not connected to the broker\n")})
    (folder / "log").write_text("why\n")
    done = run(folder, "wait-healthy.sh", "0")
    assert done.returncode == 1
    assert "up: after 0 s, 2 of 3 healthy; unhealthy: kme-2:\n" in done.stderr
    assert "kme-2, unhealthy: not connected to the broker; log: why\n" in done.stderr
    assert "--- the last lines of kme-2\ncompose logs --no-color --tail 40 kme-2\n" in done.stderr
    assert "the last lines of kme-1" not in done.stderr


def test_once_compose_has_failed_there_is_nothing_to_wait_for(folder: Path) -> None:
    inspected(folder, "last", rabbitmq=("created", "", "listen tcp4 127.0.0.1:5672: bind: address already in use"))
    done = run(folder, "wait-healthy.sh", "50", "sh", "-c", "echo of compose; exit 3")
    assert (done.returncode, done.stdout) == (1, "")
    assert "of compose\n" in done.stderr
    assert (
        "not all services could be started; 0 of 3 healthy; created: rabbitmq; not created: kme-1 kme-2:" in done.stderr
    )
    assert "rabbitmq, created: listen tcp4 127.0.0.1:5672: bind: address already in use" in done.stderr
    assert "QKDRELAY_AMQP_PORT=25672" in done.stderr


def test_while_compose_runs_what_is_healthy_may_be_what_it_replaces(folder: Path) -> None:
    inspected(folder, "last", **ALL)
    assert run(folder, "wait-healthy.sh", "1", "sh", "-c", 'sleep 600 & echo $! >"$FAKE/pid"; wait').returncode == 1
    child = Path("/proc", (folder / "pid").read_text().strip(), "cmdline")
    eventually(lambda: not child.exists() or not child.read_bytes(), what="it to be ended with what it started")
    assert run(folder, "wait-healthy.sh", "50", "true").returncode == 0


# --- down and clean ---------------------------------------------------------------------------------


def deployed(folder: Path, *, of: Path | None = None) -> None:
    """Let there be containers of a deployment, and volumes of an earlier topology beside its own."""
    (folder / "containers").write_text("q_rabbitmq_1 rabbitmq\nq_kme-1_1 kme-1\nq-kme-9-1 kme-9\n")
    (folder / "folders").write_text(f"{of or folder}\n")
    (folder / "volumes").write_text("qkdrelay_rabbitmq\nqkdrelay_kme-1\nqkdrelay_paris\n")
    (folder / "networks").write_text("qkdrelay_default\n")


def changes(folder: Path) -> list[str]:
    """What docker was told to do."""
    calls = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    return [call for call in calls if not call.startswith(("ps ", "volume ls", "network ls", "network inspect"))]


REMOVED = [
    *("rm --force --volumes q_kme-1_1 q-kme-9-1", "rm --force --volumes q_rabbitmq_1"),
    *("network rm qkdrelay_default", "volume rm qkdrelay_rabbitmq qkdrelay_kme-1 qkdrelay_paris"),
]


def test_clean_removes_and_names_all_of_the_project_without_dotenv_or_compose_file(folder: Path) -> None:
    deployed(folder)
    done = run(folder, "remove.sh", "--volumes")
    assert (done.returncode, changes(folder)) == (0, REMOVED)
    for name in ("q_rabbitmq_1", "q-kme-9-1", "qkdrelay_default", "qkdrelay_paris"):
        assert name in done.stderr


def test_down_stops_the_brokers_last_and_keeps_all_volumes(folder: Path) -> None:
    deployed(folder)
    assert run(folder, "remove.sh").returncode == 0
    assert changes(folder) == [
        *("stop q_kme-1_1 q-kme-9-1", REMOVED[0], "stop q_rabbitmq_1", REMOVED[1], REMOVED[2]),
    ]


def test_a_network_that_others_use_stays_and_they_are_named(folder: Path) -> None:
    deployed(folder)
    (folder / "on-network").write_text("prometheus ")
    done = run(folder, "remove.sh", "--volumes")
    assert (done.returncode, changes(folder)) == (0, [call for call in REMOVED if "network" not in call])
    assert "qkdrelay_default stays: other containers are on it: prometheus" in done.stderr


def test_what_another_folder_brought_up_is_left_alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / ".env").touch()
    deployed(folder, of=other)
    assert run(folder, "remove.sh", "--volumes").stderr == "nothing was brought up here\n"
    (folder / ".env").touch()
    done = run(folder, "remove.sh", "--volumes")
    assert (done.returncode, changes(folder)) == (1, [])
    assert f"qkdrelay is the deployment of {other}" in done.stderr


def test_volumes_of_nobody_knows_whom_are_named_and_deleted_when_the_project_is_named(folder: Path) -> None:
    for name, text in (("containers", ""), ("folders", ""), ("networks", ""), ("volumes", "qkdrelay_kme-1\n")):
        (folder / name).write_text(text)
    done = run(folder, "remove.sh", "--volumes")
    assert (done.returncode, changes(folder)) == (0, [])
    assert "COMPOSE_PROJECT_NAME=qkdrelay make clean deletes them: qkdrelay_kme-1" in done.stderr
    assert run(folder, "remove.sh", "--volumes", COMPOSE_PROJECT_NAME="qkdrelay").returncode == 0
    assert changes(folder) == ["volume rm qkdrelay_kme-1"]


def test_the_project_is_the_one_that_dotenv_names(folder: Path) -> None:
    deployed(folder)
    (folder / ".env").write_text("COMPOSE_PROJECT_NAME=mine\n")
    run(folder, "remove.sh")
    assert "label=com.docker.compose.project=mine" in (folder / "calls").read_text()


@pytest.mark.parametrize("arguments", [(), ("--volumes",)])
def test_without_an_engine_nothing_is_removed_and_it_is_said(folder: Path, arguments: tuple[str, ...]) -> None:
    assert run(folder, "remove.sh", *arguments, NO_ENGINE="1").returncode == 0
    (folder / ".env").touch()
    done = run(folder, "remove.sh", *arguments, NO_ENGINE="1")
    assert (done.returncode, changes(folder)) == (1, [])
    assert "no Docker engine answers\nnothing was removed" in done.stderr
