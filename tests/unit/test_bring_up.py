"""What `make up` gives back to a broker, and takes away from one that another deployment has used."""

import os
import shutil
import subprocess
import sys

import pytest

from support.stack import ROOT

# As compose: it starts nothing, and `rabbitmqctl` in it lists one user and one queue too many.
COMPOSE = r"""#!/usr/bin/env bash
[ "$1 $2 $3 $4 $5" = "exec -T rabbitmq rabbitmqctl --quiet" ] || exit 0
shift 5
echo "$*" >> "$CALLS"
case "$*" in
  list_users*) printf '%s\t[]\n' kme-1 kme-2 kme-3 kme-4 coordinator cli operator kme-9 ;;
  *list_queues*) printf '%s\n' link.kme-1.kme-2 $QUEUES dead-letters ;;
esac
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "infra/docker").mkdir(parents=True)
    for name in ("up.sh", "start.sh"):
        shutil.copy(ROOT / "infra/docker" / name, tmp_path / "infra/docker")
    for name, text in (("compose.sh", COMPOSE), ("wait-healthy.sh", '#!/bin/sh\nshift\n"$@"\n')):
        (tmp_path / "infra/docker" / name).write_text(text)
        (tmp_path / "infra/docker" / name).chmod(0o755)
    return tmp_path


LOADED = "import_definitions /etc/qkdrelay/definitions.json"
"""What was deleted from a broker that runs comes back."""


def changes(folder, *switches, queues="lab.leaks"):
    """What is changed at the broker by bringing a network up in ``folder``."""
    environment = {**os.environ, "CALLS": str(folder / "calls"), "QUEUES": queues}
    command = [folder / "infra/docker/up.sh", sys.executable, "diamond", *switches]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [call for call in (folder / "calls").read_text().splitlines() if "list" not in call]


def test_a_user_who_is_not_of_the_network_and_the_queue_of_the_lab_go(folder):
    assert changes(folder) == [LOADED, "delete_user kme-9", "--vhost qkdrelay delete_queue lab.leaks"]


def test_with_the_lab_its_queue_stays(folder):
    assert changes(folder, "--lab") == [LOADED, "delete_user kme-9"]


@pytest.mark.parametrize("queues", ["", "my.lab.leaks lab-leaks"])
def test_where_the_lab_never_was_nothing_is_deleted(folder, queues):
    assert changes(folder, queues=queues) == [LOADED, "delete_user kme-9"]
