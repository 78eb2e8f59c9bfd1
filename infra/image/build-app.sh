#!/usr/bin/env bash
# Builds the project's image, with whichever builder there is. With wheels in wheelhouse/ it needs no network
# (`make wheelhouse` puts them there).
#   PYTHON_IMAGE    base image                 (python:3.11-slim)
#   QKDRELAY_IMAGE  name of the image to build (qkdrelay:local)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

image=${QKDRELAY_IMAGE:-qkdrelay:local}
arguments=(--build-arg "PYTHON_IMAGE=${PYTHON_IMAGE:-python:3.11-slim}")
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
  [ -z "${!name:-}" ] || arguments+=(--build-arg "$name")
done
# The client without its buildx plugin has the legacy builder only, and asks to be told so.
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "image: building $image (the first time a minute or so)" >&2
docker build -q -t "$image" "${arguments[@]}" -f infra/image/Dockerfile . >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
