#!/usr/bin/env bash
# Starts the services of a deployment, or changes those that are to be changed; they become healthy later.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

infra/docker/compose.sh --ansi never up --detach --no-build --remove-orphans
# A broker that runs on has not loaded them anew: what was deleted from it since, a queue for example, comes back.
infra/docker/compose.sh exec -T rabbitmq rabbitmqctl --quiet import_definitions /etc/qkdrelay/definitions.json </dev/null
