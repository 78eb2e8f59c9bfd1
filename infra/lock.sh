#!/usr/bin/env bash
# Resolves the dependencies in pyproject.toml into the lock files, for all platforms, with hashes.
#   usage: lock.sh PYTHON
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v uv >/dev/null; then
  tools=$(mktemp -d)
  trap 'rm -rf "$tools"' EXIT
  "$1" -m venv "$tools"
  "$tools/bin/pip" install -q uv
  PATH=$tools/bin:$PATH
fi
compile() {
  uv pip compile --quiet --no-config --upgrade --universal --python-version 3.11 --generate-hashes \
    --custom-compile-command 'make lock' "$@"
}

# What builds the wheel is locked too: hatchling, and editables for an editable installation.
backend='hatchling>=1.27'
compile --group dev pyproject.toml - -o requirements-dev.lock <<<"$backend"$'\n'editables
compile --constraint requirements-dev.lock pyproject.toml -o requirements.lock
compile --constraint requirements-dev.lock --group bench pyproject.toml - -o requirements-bench.lock \
  <<<"$backend"$'\n'editables
compile --constraint requirements-dev.lock - -o infra/image/build.lock <<<"$backend"
