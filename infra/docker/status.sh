#!/usr/bin/env bash
# Prints the state of each service of a deployment and, where it is not healthy, why: what its health check said last, or
# why it did not start, and the end of its log. Tabs between the three; 400 characters of a reason at most.
#   usage: status.sh [SERVICE...]    those of the compose file unless named
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

engine=$(infra/docker/ensure-engine.sh --running)
eval "$engine"
project=$(infra/docker/setting.sh COMPOSE_PROJECT_NAME qkdrelay)
services=("$@")
if [ $# = 0 ]; then
  # Compose says what it cannot read, at length where that is all of .env.
  if ! listed=$(infra/docker/compose.sh config --services); then
    [ -e .env ] || echo "status: there is no .env here; \`make up\` makes one" >&2
    exit 1
  fi
  mapfile -t services <<<"$listed"
fi

# What services say is shown without what a terminal would obey, and in one line.
plain() { tr '\n\t' '  ' | LC_ALL=C tr -cd ' -~' | cut -c "1-$1" | sed 's/ *$//'; }
# A hint is nothing without the error above it.
last_line() {
  docker logs --tail 2 "$1" 2>&1 | sed 's/^{"timestamp": "[^"]*", "level": "[^"]*", /{/' |
    awk '{ before = last; last = $0 } END { print last ~ /^hint: / ? before " (" last ")" : last }' | plain 250
}

state='{{index .Config.Labels "com.docker.compose.service"}}|{{.ID}}|{{.State.Status}}|{{.State.ExitCode}}|'
state+='{{$said := .State.Error}}{{with .State.Health}}{{range .Log}}{{$said = .Output}}{{end}}{{.Status}}{{end}}|{{json $said}}'
mapfile -t ids < <(docker ps --all --quiet --no-trunc --filter "label=com.docker.compose.project=$project" \
  --filter label=com.docker.compose.oneoff=False)
found=
[ ${#ids[@]} = 0 ] || found=$(docker inspect --format "$state" "${ids[@]}" 2>/dev/null || true)

for service in "${services[@]}"; do
  IFS='|' read -r _ id status code health said < <(grep "^$service|" <<<"$found" || echo '||not created|||""')
  said=$(sed -E 's/^"|(\\n)*"$//g; s/\\[nrt]/ /g; s/\\u003c/</g; s/\\u003e/>/g; s/\\u0026/\&/g; s/\\"/"/g' <<<"$said" | plain 300)
  case $status in
    running) status=${health:-running} ;;
    exited | restarting) status="$status with status $code" said= ;;
  esac
  case $status in
    healthy | "not created" | created) ;;
    *)
      logged=$(last_line "$id") || logged= # it has just been replaced
      said+=${said:+${logged:+; }}${logged:+log: $logged}
      ;;
  esac
  [ "$status" != healthy ] || said=
  printf '%s\t%s\t%s\n' "$service" "$status" "$said"
done
