#!/usr/bin/env bash
# Stops a deployment and removes its containers and networks, whatever compose file and topology they are of; with
# --volumes also its volumes, for good, and with them the keys that were delivered. Says what it removes.
# It starts no engine, and leaves alone what another folder has brought up under the same name.
#   usage: remove.sh [--volumes]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

say() { echo "$*" >&2; }
explicit=${COMPOSE_PROJECT_NAME:-}
project=$(infra/docker/setting.sh COMPOSE_PROJECT_NAME qkdrelay)
known() { [ -n "$explicit" ] || [ -e .env ] || [ -e deploy ]; }

if ! engine=$(infra/docker/ensure-engine.sh --running); then
  known || { say "nothing was brought up here"; exit 0; }
  say "nothing was removed: what the engine has of $project, volumes with keys among it, cannot be seen. Start it" \
    "(infra/docker/ensure-engine.sh) and do this again; or delete .env and deploy/ yourself"
  exit 1
fi
eval "$engine"

of_project=(--filter "label=com.docker.compose.project=$project")
ours=$(known && echo yes || true) others=
while read -r folder; do
  if [ "$folder" -ef . ]; then
    ours=yes
  elif [ -e "$folder/.env" ]; then
    others=$folder
  fi
done < <(docker ps --all "${of_project[@]}" --format '{{.Label "com.docker.compose.project.working_dir"}}' | sort -u)
mapfile -t volumes < <(docker volume ls "${of_project[@]}" --format '{{.Name}}')

if [ -z "$ours" ]; then
  say "nothing was brought up here"
  if [ "${1:-}" = --volumes ] && [ -z "$others" ] && [ ${#volumes[@]} != 0 ]; then
    say "there are volumes of $project, and it is not known of which folder; COMPOSE_PROJECT_NAME=$project make clean" \
      "deletes them: ${volumes[*]}"
  fi
  exit 0
fi
if [ -n "$others" ]; then
  say "$project is the deployment of $others: do it there, or give this one another COMPOSE_PROJECT_NAME in .env"
  exit 1
fi

# Brokers last, so that services give back what they have in hand.
containers() { docker ps --all "${of_project[@]}" --format '{{.Names}} {{.Label "com.docker.compose.service"}}' | awk "$1 { print \$1 }"; }
for which in '$2 !~ /^rabbitmq/' '$2 ~ /^rabbitmq/'; do
  mapfile -t names < <(containers "$which")
  [ ${#names[@]} != 0 ] || continue
  say "stopping and removing ${names[*]}"
  [ "${1:-}" = --volumes ] || docker stop "${names[@]}" >/dev/null
  docker rm --force --volumes "${names[@]}" >/dev/null
done
mapfile -t networks < <(docker network ls "${of_project[@]}" --format '{{.Name}}')
for network in "${networks[@]}"; do
  others=$(docker network inspect --format '{{range .Containers}}{{.Name}} {{end}}' "$network")
  if [ -n "$others" ]; then
    say "the network $network stays: other containers are on it: $others"
  else
    say "removing the network $network"
    docker network rm "$network" >/dev/null
  fi
done
if [ "${1:-}" = --volumes ] && [ ${#volumes[@]} != 0 ]; then
  say "deleting, for good, the volumes ${volumes[*]}"
  docker volume rm "${volumes[@]}" >/dev/null
fi
