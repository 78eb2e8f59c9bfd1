#!/usr/bin/env bash
# Waits until every service of the compose file is healthy, and says on stderr how far they are: whenever that changes,
# and every 10 s why those wait that wait. Fails, with the end of their logs, after the deadline or once the process that
# starts them has ended without having started all.
# (`up --wait` would do, but docker-compose 1.29 does not have it.)
#   usage: wait-healthy.sh [SECONDS [PID]]    deadline (180), process that starts the services
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seconds=${1:-180} starter=${2:-}
log_lines=15 told_every_s=10
mapfile -t services < <(infra/docker/compose.sh config --services)

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
  local service
  while read -r service; do
    echo "--- the last lines of $service" >&2
    infra/docker/compose.sh logs --no-color --tail "$log_lines" "$service" 2>&1 |
      LC_ALL=C tr -cd '\n -~' | cut -c 1-400 >&2 || true
  done < <(awk -F '\t' '$2 != "healthy" && $2 != "not created" { print $1 }' <<<"$states")
  if grep -qE 'already (in use|allocated)' <<<"$states"; then
    say "another program has that port: QKDRELAY_AMQP_PORT=25672 QKDRELAY_MANAGEMENT_PORT=25673 make up takes others"
  fi
  exit 1
}

told='' told_at=$SECONDS
while :; do
  ended=$([ -z "$starter" ] || kill -0 "$starter" 2>/dev/null || echo yes)
  states=$(infra/docker/status.sh "${services[@]}")
  now=$(summary)
  if [ "$now" != "$told" ]; then
    say "$(printf '%3d s' "$SECONDS")  $now"
    told=$now
  fi
  [[ $now == *\;* ]] || { say "all ${#services[@]} services are healthy"; exit 0; }
  if [ "$SECONDS" -ge "$((told_at + told_every_s))" ]; then
    waiting
    told_at=$SECONDS
  fi
  if [ "$ended" = yes ] && grep -qP '\t(not created|created)\t' <<<"$states"; then
    fail "not all services were started; those that wait:"
  fi
  [ "$SECONDS" -lt "$seconds" ] || fail "after $seconds s, $now:"
  sleep 1
done
