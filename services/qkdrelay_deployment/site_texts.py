"""What a bundle has for people to read, and to run."""

from __future__ import annotations

from typing import Final

from qkdrelay.network.topology import Topology

_README: Final = """\
# Site {site} of the network {network}

What is here is this site's alone: {holds}, with their RabbitMQ and their secrets. Show `.env` and `deploy/` to nobody.

1. Copy this folder to the site's machine, which has Docker with compose, and the images (or `docker load` them).
2. Let others reach TCP port {port} of {host}: AMQP over TLS, for sites with a certificate of the network's authority.
   From here, allow connections to {others}.
3. `docker compose up -d` (or `docker-compose up -d`). Sites start in any order; what is awaited is in the logs.
4. `docker compose ps` shows all as healthy; `docker compose logs -f` what happens, and which sites are away.
5. After this folder was provisioned again: `docker compose up -d`, then `sh deploy/tidy.sh`.
{applications}{asking}"""
_ASKING: Final = """
`docker compose run --rm cli network` shows the network, `docker compose run --rm cli relay KME KME` relays keys{what}.
"""
_ALL_OF_IT: Final = ". The coordinator\nis here, and the page, at http://127.0.0.1:{page_port}/"
_ITS_OWN: Final = ": what\nbegins or ends here, as the coordinator answers this site"
_APPLICATIONS: Final = """
Applications find their keys by `deploy/saes.json`.
"""

_TIDY: Final = r"""#!/bin/sh
# Takes from this site's broker the users and queues that the network no longer has: loading definitions never does.
set -eu
cd "$(dirname "$0")/.."
if docker compose version >/dev/null 2>&1; then compose="docker compose"; else compose=docker-compose; fi
ctl() { $compose exec -T rabbitmq rabbitmqctl --quiet "$@" </dev/null; }
# The names of "users" and of "queues" in the definitions.
wanted() { sed -n "/^ \"$1\": \[/,/^ \]/ s/^ *\"name\": \"\(.*\)\".*/\1/p" deploy/definitions.json; }
users=$(wanted users)
queues=$(wanted queues)
if ! echo "$users" | grep -qx operator || ! echo "$queues" | grep -qx dead-letters; then
  echo "deploy/definitions.json cannot be read, or is not of this network: nothing is removed" >&2
  exit 1
fi
there=$(ctl list_users --no-table-headers)
echo "$there" | cut -f 1 | while read -r user; do
  echo "$users" | grep -qxF -e "$user" && continue
  echo "removing the user $user"
  ctl delete_user "$user"
done
there=$(ctl --vhost qkdrelay list_queues --no-table-headers name)
echo "$there" | grep -vE '^(cli|page)\.q\.' | while read -r queue; do
  echo "$queues" | grep -qxF -e "$queue" && continue
  echo "removing the queue $queue"
  ctl --vhost qkdrelay delete_queue "$queue"
done
"""


def readme(topology: Topology, site: str, page_port: str) -> str:
    """Return how a site is started, and what it needs; the page is at that port of this host."""
    here, has_coordinator = topology.sites[site], site == topology.coordinator
    holds = [*here.kmes, *(("the coordinator", "the page") if has_coordinator else ())]
    near = {topology.site_of[peer] for kme in here.kmes for peer in topology.neighbours[kme]} | {topology.coordinator}
    read_at = topology.sites if has_coordinator else [name for name in topology.sites if name in near]
    others = ", ".join(topology.sites[name].broker for name in read_at if name != site)
    return _README.format(
        site=site,
        network=topology.name,
        holds=", ".join(holds),
        port=here.port,
        host=here.host,
        others=others or "nobody",
        applications=_APPLICATIONS if topology.saes else "",
        asking=_ASKING.format(what=_ALL_OF_IT.format(page_port=page_port) if has_coordinator else _ITS_OWN),
    )


def tidy_script() -> str:
    """Return the script that takes from a broker what is no longer of its site."""
    return _TIDY
