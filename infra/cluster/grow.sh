#!/usr/bin/env bash
# Puts each queue onto all three nodes, once they are up: one made while a node was away is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

infra/docker/compose.sh exec -T rabbitmq bash -euc '
  for node in rabbit@node-1 rabbit@node-2 rabbit@node-3; do rabbitmq-queues --quiet grow "$node" all; done
  rabbitmq-queues --quiet rebalance quorum
' </dev/null >/dev/null
