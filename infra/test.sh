#!/usr/bin/env bash
# Runs the tests: all of them with the RabbitMQ that the compose file uses, then those of the broker's contract with
# the oldest one that is supported.
#   usage: with-images.sh --oldest test.sh PYTEST [ARGUMENT...]    arguments choose tests; then it is one run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pytest=$1
shift
echo "tests: with $RABBITMQ_IMAGE" >&2
QKDRELAY_RABBITMQ_IMAGE=$RABBITMQ_IMAGE "$pytest" "$@"
[ $# = 0 ] || exit 0
echo "tests: the broker's contract, with $RABBITMQ_OLDEST_IMAGE" >&2
QKDRELAY_RABBITMQ_IMAGE=$RABBITMQ_OLDEST_IMAGE "$pytest" -m rabbitmq tests/contract
