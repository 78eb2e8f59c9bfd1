#!/usr/bin/env bash
# Makes the virtual environment: the locked dependencies, by hash, and this project, editable.
#   usage: venv.sh PYTHON DIRECTORY [LOCK FILE]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$1 venv=$2 lock=${3:-requirements-dev.lock}
say() { echo "venv: $*" >&2; }

command -v "$python" >/dev/null || python=python3
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  say "Python 3.11 or later is needed: install it, or name one with PYTHON=..."
  exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  infra/apt-install.sh venv "$python cannot make virtual environments" "$package"
fi

say "installing into $venv"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install --require-hashes -r "$lock"
# The build backend is among what was just installed, so nothing is fetched that no hash vouches for.
"${pip[@]}" install --no-build-isolation --no-deps --editable .
