#!/usr/bin/env bash
# Runs a command with the Docker engine that `make up` uses, wherever it listens: with-engine.sh docker volume ls
#   usage: with-engine.sh COMMAND [ARGUMENT...]
set -euo pipefail

engine=$("$(dirname "${BASH_SOURCE[0]}")/ensure-engine.sh")
eval "$engine"
exec "$@"
