#!/usr/bin/env bash
# Runs docker compose, in whichever of its two forms is there, with the engine that `make up` uses; as root on Debian it
# installs one if there is none. `exec` and `run` get a terminal only where there is one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

engine=$(infra/docker/ensure-engine.sh)
eval "$engine"

if [[ ${1:-} == @(exec|run) && " $* " != *" -T "* ]] && ! [[ -t 0 && -t 1 ]]; then
  set -- "$1" -T "${@:2}"
fi
if docker compose version >/dev/null 2>&1; then
  exec docker compose "$@"
fi
if ! command -v docker-compose >/dev/null; then
  infra/apt-install.sh compose "neither 'docker compose' nor docker-compose is there" docker-compose
fi
exec docker-compose "$@"
