#!/usr/bin/env bash
# Makes sure the base images are there: the official ones if this machine has or can pull them, else ones of the
# same use built from Debian packages. Prints "export ..." for the caller to eval; what it does goes to stderr.
#   usage: ensure-images.sh [--oldest]    --oldest also gets the oldest RabbitMQ that is supported, for the tests
#   PYTHON_IMAGE, RABBITMQ_IMAGE          take these images instead (the environment's, or those of .env)
#   QKDRELAY_OFFLINE=1                    do not try to pull
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

contact_s=15 # a registry that has said nothing by then is taken as unreachable
pull_s=600

say() { echo "images: $*" >&2; }
present() { docker image inspect "$1" >/dev/null 2>&1; }

pull() {
  [ -z "${QKDRELAY_OFFLINE:-}" ] || return 1
  local log pid deadline
  log=$(mktemp)
  timeout "$pull_s" docker pull "$1" >"$log" 2>&1 &
  pid=$!
  deadline=$((SECONDS + contact_s))
  until grep -q 'Pulling from' "$log" || ! kill -0 "$pid" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; do
    sleep 0.1
  done
  grep -q 'Pulling from' "$log" || kill "$pid" 2>/dev/null || true
  rm -f "$log"
  wait "$pid" 2>/dev/null || return 1
  say "pulled $1"
}

# choose KIND SUITE OFFICIAL [WANTED]: prints the image to use.
choose() {
  local kind=$1 suite=$2 official=$3 wanted=${4:-} built
  case $kind-$suite in
    python-bookworm) built=qkdrelay/python:3.11-slim ;;
    rabbitmq-bookworm) built=qkdrelay/rabbitmq:3.10-management ;;
    rabbitmq-trixie) built=qkdrelay/rabbitmq:4.0-management ;;
  esac
  if [ -n "$wanted" ] && [ "$wanted" != "$built" ]; then
    present "$wanted" || pull "$wanted" || { say "$wanted is not here and cannot be pulled"; return 1; }
    echo "$wanted"
  elif [ "$wanted" != "$built" ] && present "$official"; then
    echo "$official"
  elif present "$built"; then
    echo "$built"
  elif [ "$wanted" != "$built" ] && pull "$official"; then
    echo "$official"
  else
    say "$official is not here and cannot be pulled; building $built from Debian packages instead"
    "$here/build-base.sh" "$kind" "$suite" "$built" || return 1
    echo "$built"
  fi
}

wanted_python=$("$here/../docker/setting.sh" PYTHON_IMAGE)
wanted_rabbitmq=$("$here/../docker/setting.sh" RABBITMQ_IMAGE)

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
choose python bookworm python:3.11-slim "$wanted_python" >"$results/python" &
python=$!
if [ "${1:-}" = --oldest ]; then
  choose rabbitmq bookworm rabbitmq:3.10-management >"$results/oldest" &
  oldest=$!
fi
choose rabbitmq trixie rabbitmq:4.2-management "$wanted_rabbitmq" >"$results/rabbitmq"
wait "$python"
printf 'export PYTHON_IMAGE=%q\n' "$(cat "$results/python")"
printf 'export RABBITMQ_IMAGE=%q\n' "$(cat "$results/rabbitmq")"
if [ -n "${oldest:-}" ]; then
  wait "$oldest"
  printf 'export RABBITMQ_OLDEST_IMAGE=%q\n' "$(cat "$results/oldest")"
fi
