#!/usr/bin/env bash
# Runs the benchmark: all of it, or the parts that are named.
#   usage: with-images.sh bench.sh PYTHON [PART...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

QKDRELAY_RABBITMQ_IMAGE=$RABBITMQ_IMAGE PYTHONPATH=tests:. exec "$1" -m bench "${@:2}"
