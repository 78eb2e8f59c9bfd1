#!/usr/bin/env bash
# Runs the tests: all of them with the RabbitMQ that the compose file uses, then those of the broker's contract and of
# the cluster with the oldest one that is supported.
#   usage: with-images.sh --oldest test.sh PYTEST [ARGUMENT...]    arguments choose tests; then it is one run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pytest=$1
shift
# Without these the models' and the page's tests are skipped, and say so; with CI=true they must not be.
infra/ensure-spin.sh || [ "${CI:-}" != true ]
infra/ensure-chromium.sh || [ "${CI:-}" != true ]
# What a shell on a fresh machine allows, wherever the tests run: none may need more.
ulimit -Sn 1024 || true
report=$(mktemp)
trap 'rm -f "$report"' EXIT

run() {
  "$pytest" --junitxml="$report" "$@"
  # What a check from nothing skips, it has not checked.
  if [ "${CI:-}" = true ] && grep -q '<skipped ' "$report"; then
    echo "tests: some were skipped, which CI=true does not allow" >&2
    exit 1
  fi
}

echo "tests: with $RABBITMQ_IMAGE" >&2
QKDRELAY_RABBITMQ_IMAGE=$RABBITMQ_IMAGE run "$@"
[ $# = 0 ] || exit 0
echo "tests: the broker's contract and the cluster, with $RABBITMQ_OLDEST_IMAGE" >&2
QKDRELAY_RABBITMQ_IMAGE=$RABBITMQ_OLDEST_IMAGE run -m rabbitmq tests/contract tests/e2e/test_cluster.py
