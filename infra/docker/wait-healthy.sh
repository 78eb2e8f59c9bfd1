#!/usr/bin/env bash
# Waits until every service of the compose file is healthy; after the deadline (seconds, default 180) says which is not.
# (`up --wait` would do, but docker-compose 1.29 does not have it.)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

engine=$(infra/docker/ensure-engine.sh)
eval "$engine"

deadline=$((SECONDS + ${1:-180}))
services=$(infra/docker/compose.sh config --services | wc -l)
state='{{index .Config.Labels "com.docker.compose.service"}} {{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}'

while :; do
  mapfile -t ids < <(infra/docker/compose.sh ps -q)
  states=
  [ "${#ids[@]}" = 0 ] || states=$(docker inspect --format "$state" "${ids[@]}" 2>/dev/null || true)
  healthy=$(grep -c ' running healthy$' <<<"$states" || true)
  [ "$healthy" -lt "$services" ] || { echo "all $services services are healthy" >&2; exit 0; }
  [ "$SECONDS" -lt "$deadline" ] || break
  sleep 1
done
echo "only $healthy of $services services are healthy; the others, and the end of their logs:" >&2
awk '!/ running healthy$/' <<<"$states" >&2
awk '!/ running healthy$/ { print $1 }' <<<"$states" | while read -r service; do
  infra/docker/compose.sh logs --tail 15 "$service" >&2
done
exit 1
