#!/usr/bin/env bash
# Runs a command with a Docker engine that answers and with the images there: base images and the project's own.
#   usage: with-images.sh [--oldest] COMMAND [ARGUMENT...]    --oldest: also the oldest RabbitMQ that is supported
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

engine=$(infra/docker/ensure-engine.sh)
eval "$engine"
options=()
[ "$1" != --oldest ] || { options+=("$1"); shift; }
images=$(infra/image/ensure-images.sh "${options[@]}")
eval "$images"
QKDRELAY_IMAGE=$(infra/docker/setting.sh QKDRELAY_IMAGE qkdrelay:local)
export QKDRELAY_IMAGE
infra/image/build-app.sh

# testcontainers: no reaper, which would be one more image to pull; containers are reached by their published ports.
export TESTCONTAINERS_RYUK_DISABLED=${TESTCONTAINERS_RYUK_DISABLED:-true}
export TESTCONTAINERS_CONNECTION_MODE=${TESTCONTAINERS_CONNECTION_MODE:-docker_host}
export TC_HOST=${TC_HOST:-127.0.0.1}
exec "$@"
