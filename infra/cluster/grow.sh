#!/usr/bin/env bash
# Puts each queue onto all three nodes, once they are up: one made while a node was away is not there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

queues() { infra/docker/compose.sh exec -T rabbitmq rabbitmq-queues --quiet "$@" </dev/null >/dev/null; }
for node in rabbit@node-1 rabbit@node-2 rabbit@node-3; do queues grow "$node" all; done
queues rebalance quorum
