#!/usr/bin/env bash
# Makes sure a Docker engine answers: the one there is, or, as root on Debian, one installed and started here.
# Prints "export DOCKER_HOST=..." for the caller to eval; what it does goes to stderr. Safe to repeat.
#   usage: ensure-engine.sh [--running]    --running: only the one there is; it installs and starts none
#   QKDRELAY_DOCKER_DATA  data directory of an engine started here   (/var/lib/docker)
#   QKDRELAY_DOCKER_RUN   its socket, pid file and log               (/run/docker-local)
set -euo pipefail

data=${QKDRELAY_DOCKER_DATA:-/var/lib/docker}
run=${QKDRELAY_DOCKER_RUN:-/run/docker-local}

say() { echo "engine: $*" >&2; }
answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

use_if_it_answers() {
  command -v docker >/dev/null || return 1
  answers || return 1
  # Libraries do not read docker's contexts, so the address is always spelt out.
  local host=${DOCKER_HOST:-}
  [ -n "$host" ] || host=$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null) || host=
  printf 'export DOCKER_HOST=%q\n' "${host:-unix:///var/run/docker.sock}"
  exit 0
}

use_if_it_answers || true
export DOCKER_HOST=unix://$run/docker.sock
use_if_it_answers || true

if [ "${1:-}" = --running ]; then
  say "no Docker engine answers"
  exit 1
fi
if [ "$(id -u)" != 0 ]; then
  say "no Docker engine answers; install docker.io, or join the group docker, or run this as root"
  exit 1
fi

mkdir -p "$run"
exec 9>"$run/lock"
flock 9 # one starter at a time
if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
  command -v apt-get >/dev/null || { say "no Docker engine and no apt-get to install one with"; exit 1; }
  say "installing Debian's docker.io"
  # A policy keeps the package from starting an engine of its own.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  {
    apt-get update -q || true
    packages=(docker.io)
    # Newer releases have the client in a package of its own.
    [ -z "$(apt-cache policy docker-cli)" ] || packages+=(docker-cli)
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"
  } >&2
fi
use_if_it_answers || true

if ! mountpoint -q /sys/fs/cgroup; then # a bare virtual machine
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
# Pid files left by a crash keep dockerd from starting; a zombie's command line is empty.
for file in "$run/pid" "$run/exec/containerd/containerd.pid"; do
  if [ -f "$file" ] && ! grep -qE 'dockerd|containerd' "/proc/$(cat "$file")/cmdline" 2>/dev/null; then
    rm -f "$file"
  fi
done
say "starting dockerd; its log is $run/dockerd.log"
setsid nohup dockerd --data-root "$data" --exec-root "$run/exec" --pidfile "$run/pid" -H "$DOCKER_HOST" \
  >"$run/dockerd.log" 2>&1 </dev/null 9>&- &
pid=$!
deadline=$((SECONDS + 60))
while [ "$SECONDS" -lt "$deadline" ] && kill -0 "$pid" 2>/dev/null; do
  use_if_it_answers || true
  sleep 0.2
done
say "dockerd did not start; the end of $run/dockerd.log:"
tail -20 "$run/dockerd.log" >&2
exit 1
