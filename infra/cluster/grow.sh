#!/usr/bin/env bash
# Puts each queue onto all three nodes, once they are up: one made while a node was away is not there. Then looks whether
# each is, and fails with the names of those that are not.
#   usage: grow.sh [--check]    --check: only look
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

[ "${1:-}" = --check ] || infra/docker/compose.sh exec -T rabbitmq bash -euc '
  # A queue whose leader has just begun or moved refuses for a moment. To grow again does what is left.
  persist() {
    until printed=$("$@" 2>&1) && [[ ! $printed =~ [[:space:]]error ]]; do
      ((SECONDS < 90)) || { printf "%s\n" "$printed" >&2; exit 69; }
      sleep 1
    done
  }
  for node in rabbit@node-1 rabbit@node-2 rabbit@node-3; do persist rabbitmq-queues --quiet grow "$node" all; done
  persist rabbitmq-queues --quiet rebalance quorum
' </dev/null >/dev/null

# A queue of who just asks something (cli.) has no members, and ends with the connection.
queues=$(infra/docker/compose.sh exec -T rabbitmq \
  rabbitmqctl --quiet --vhost qkdrelay list_queues --no-table-headers name members </dev/null)
awk -F '\t' '
  $1 ~ /^cli\./ || $1 == "" { next }
  { all++; nodes = gsub(/@/, "@", $2) }
  nodes < 3 { short++; printf "cluster: the queue %s is on %d of 3 nodes: %s\n", $1, nodes, $2 }
  END {
    if (!all) print "cluster: there are no queues: are all three nodes up?"
    if (short) printf "cluster: %d of %d queues end with a node or two; infra/cluster/grow.sh puts them onto all\n", short, all
    exit !all || short > 0
  }' <<<"$queues" >&2
