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
QUEUES = """#!/usr/bin/env bash
[ "$*" = "--quiet --vhost qkdrelay list_queues --no-table-headers name members" ] && cat "$CALLS.queues"
"""
SLEEP = "#!/bin/sh\n"
COMPOSE = '#!/usr/bin/env bash\n[ "$1 $2 $3" = "exec -T rabbitmq" ] || exit 1\nshift 3\nexec "$@"\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "infra/cluster").mkdir(parents=True)
    (tmp_path / "infra/docker").mkdir()
    shutil.copy(ROOT / "infra/cluster/grow.sh", tmp_path / "infra/cluster")
    for path, text in (
        ("infra/docker/compose.sh", COMPOSE),
        ("rabbitmq-queues", FAKE),
        ("rabbitmqctl", QUEUES),
        ("sleep", SLEEP),
    ):
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    return tmp_path


ALL = "[rabbit@node-1, rabbit@node-2, rabbit@node-3]"
SPREAD = f"link.kme-1.kme-2\t{ALL}\ncli.q.1\t\ndead-letters\t{ALL}\n"


def grow(folder, queues, *arguments):
    (folder / "calls.queues").write_text(queues)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls")}
    command = [folder / "infra/cluster/grow.sh", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_what_fails_for_a_moment_is_tried_again(folder):
    assert grow(folder, SPREAD) == (0, "", "")
    nodes = [1, 2, 2, 2, 3]
    calls = [*(f"--quiet grow rabbit@node-{node} all" for node in nodes), "--quiet rebalance quorum"]
    assert (folder / "calls").read_text().splitlines() == calls


def test_a_queue_that_is_not_on_all_nodes_is_named(folder):
    code, out, error = grow(folder, SPREAD + "results.kme-1\t[rabbit@node-2]\n", "--check")
    assert (code, out) == (1, "")
    assert error.splitlines() == [
        "cluster: the queue results.kme-1 is on 1 of 3 nodes: [rabbit@node-2]",
        "cluster: 1 of 3 queues end with a node or two; infra/cluster/grow.sh puts them onto all",
    ]
    assert not (folder / "calls").exists()


def test_to_look_changes_nothing_and_no_queue_is_not_all_of_them(folder):
    assert grow(folder, SPREAD, "--check") == (0, "", "")
    code, _, error = grow(folder, "", "--check")
    assert (code, error) == (1, "cluster: there are no queues: are all three nodes up?\n")
    assert not (folder / "calls").exists()
