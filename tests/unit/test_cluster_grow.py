"""Growing the cluster's queues goes on after one has refused for a moment, as one does that has just begun."""

import os
import shutil
import subprocess

import pytest

from support.stack import ROOT

# As `rabbitmq-queues grow`: it exits with 69 where a leader goes away meanwhile, or prints what it could not grow.
FAKE = r"""#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case $(wc -l < "$CALLS") in
  2) echo "Error: {:shutdown, {:gen_statem, :call, ...}}" >&2; exit 69 ;;
  3) printf 'vhost\tname\tsize\tresult\nqkdrelay\tlink.kme-1.error\t1\terror: timeout\n' ;;
  *) printf 'vhost\tname\tsize\tresult\nqkdrelay\tlink.kme-1.error\t2\tok\n' ;;
esac
"""
COMPOSE = '#!/usr/bin/env bash\n[ "$1 $2 $3" = "exec -T rabbitmq" ] || exit 1\nshift 3\nexec "$@"\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "infra/cluster").mkdir(parents=True)
    (tmp_path / "infra/docker").mkdir()
    shutil.copy(ROOT / "infra/cluster/grow.sh", tmp_path / "infra/cluster")
    for path, text in (("infra/docker/compose.sh", COMPOSE), ("rabbitmq-queues", FAKE)):
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    return tmp_path


def test_what_fails_for_a_moment_is_tried_again(folder):
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls")}
    done = subprocess.run(
        [folder / "infra/cluster/grow.sh"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    nodes = [1, 2, 2, 2, 3]
    calls = [*(f"--quiet grow rabbit@node-{node} all" for node in nodes), "--quiet rebalance quorum"]
    assert (folder / "calls").read_text().splitlines() == calls
