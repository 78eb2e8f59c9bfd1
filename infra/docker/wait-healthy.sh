#!/usr/bin/env bash
# Waits until every service of the compose file is healthy, and says on stderr how far they are: whenever that changes,
# and every 10 s why those wait that wait. Fails, with the end of their logs, after the deadline, or as soon as the command
# that starts them has failed, which runs meanwhile.
# (`up --wait` would do, but docker-compose 1.29 does not have it.)
#   usage: wait-healthy.sh [SECONDS [COMMAND ARGUMENT...]]    deadline (180); what starts the services
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seconds=${1:-180}
log_lines=40 log_services=3 told_every_s=10
listed=$(infra/docker/compose.sh config --services) # which says why if it fails
mapfile -t services <<<"$listed"

say() { echo "up: $*" >&2; }
# Those that are there and not healthy, with the reason.
waiting() {
  awk -F '\t' '
    $2 != "healthy" && $2 != "not created" { printf "up:        %s, %s%s\n", $1, $2, ($3 == "" ? "" : ": " $3) }
  ' <<<"$states" >&2
}
# "3 of 10 healthy; starting: kme-1 kme-2; not created: kme-3"
summary() {
  awk -F '\t' '
    $2 == "healthy" { healthy++; next }
    !($2 in names) { order[++kinds] = $2 }
    { names[$2] = names[$2] " " $1 }
    END {
      printf "%d of %d healthy", healthy, NR
      for (i = 1; i <= kinds; i++) printf "; %s:%s", order[i], names[order[i]]
    }' <<<"$states"
}
fail() {
  say "$*"
  waiting
  local service unhealthy
  mapfile -t unhealthy < <(awk -F '\t' '$2 != "healthy" && $2 != "not created" { print $1 }' <<<"$states")
  for service in "${unhealthy[@]:0:log_services}"; do
    echo "--- the last lines of $service" >&2
    infra/docker/compose.sh logs --no-color --tail "$log_lines" "$service" 2>&1 |
      LC_ALL=C tr -cd '\n -~' | cut -c 1-400 >&2 || true
  done
  if grep -qE 'already (in use|allocated)' <<<"$states"; then
    say "another program has that port: QKDRELAY_AMQP_PORT=25672 QKDRELAY_MANAGEMENT_PORT=25673 QKDRELAY_PAGE_PORT=28080 QKDRELAY_ETSI014_PORT=28443" \
      "make up takes others"
  fi
  exit 1
}

starter=
if [ $# -gt 1 ]; then
  set -m # a group of processes of its own, which is ended as one
  "${@:2}" >&2 </dev/null &
  set +m
  starter=$!
  trap '[ -z "$starter" ] || kill -- "-$starter" 2>/dev/null || true' EXIT
fi
told='' told_at=$SECONDS failed=
while :; do
  # What is healthy while it runs may be what it is about to replace.
  if [ -n "$starter" ] && ! kill -0 "$starter" 2>/dev/null; then
    wait "$starter" || failed=yes
    starter=
  fi
  states=$(infra/docker/status.sh "${services[@]}")
  now=$(summary)
  if [ "$now" != "$told" ]; then
    say "$(printf '%3d s' "$SECONDS")  $now"
    told=$now
  fi
  [ -z "$failed" ] || fail "not all services could be started; $now:"
  if [[ $now != *\;* && -z $starter ]]; then
    say "all ${#services[@]} services are healthy"
    exit 0
  fi
  if [ "$SECONDS" -ge "$((told_at + told_every_s))" ]; then
    waiting
    told_at=$SECONDS
  fi
  [ "$SECONDS" -lt "$seconds" ] || fail "after $seconds s, $now:"
  sleep 1
done
