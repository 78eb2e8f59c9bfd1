#!/usr/bin/env bash
# Brings a network up and waits until it is healthy.
#   usage: with-images.sh up.sh PYTHON TOPOLOGY [--lab] [--tls] [--cluster] [--standby]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=$1
shift
"$python" -m qkdrelay_cli provision "$@" --out . >/dev/null
infra/docker/wait-healthy.sh 240 infra/docker/start.sh

[[ " $* " != *" --cluster "* ]] || infra/cluster/grow.sh

rabbitmqctl() { infra/docker/compose.sh exec -T rabbitmq rabbitmqctl --quiet "$@" </dev/null; }

# Loading definitions never removes a user, and one that left the network must not keep its access.
present=$(rabbitmqctl list_users --no-table-headers | cut -f 1 | sort)
wanted=$("$python" -c 'import json, sys; print(*(user["name"] for user in json.load(sys.stdin)["users"]), sep="\n")' \
  <deploy/definitions.json | sort)
comm -23 <(echo "$present") <(echo "$wanted") | while read -r user; do
  echo "removing the broker's user $user, who is not of this network" >&2
  rabbitmqctl delete_user "$user"
done

# Nor a queue: what KMEs leaked on purpose does not outlive the lab.
queues=$(rabbitmqctl --vhost qkdrelay list_queues --no-table-headers name)
if [[ " $* " != *" --lab "* ]] && grep -qxF lab.leaks <<<"$queues"; then
  echo "removing lab.leaks, the queue of the lab, which is off" >&2
  rabbitmqctl --vhost qkdrelay delete_queue lab.leaks
fi

read -r source target name < <("$python" -c 'import sys, tomllib
network = tomllib.load(sys.stdin.buffer)
print(network["kmes"][0], network["kmes"][-1], network["name"])' <deploy/topology.toml)
echo
echo "The network is up. Look at it:  http://127.0.0.1:$(infra/docker/setting.sh QKDRELAY_PAGE_PORT 8080)/"
echo "Try:  $(dirname "$python")/coordinator relay $source $target --keys 10"
[ "$name" = eight-kmes ] || echo "docker-compose.yml is now that of $name; \`make up\` alone goes back to the reference network."
