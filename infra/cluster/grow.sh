#!/usr/bin/env bash
# Puts each queue onto all three nodes, once they are up: one made while a node was away is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

infra/docker/compose.sh exec -T rabbitmq bash -euc '
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
