#!/usr/bin/env bash
# Builds a base image from Debian packages, for sites without a container registry, where a mirror of Debian is all
# there is. It stands in for the official image: the same commands, users, variables and directories.
#   usage: build-base.sh python|rabbitmq [SUITE [IMAGE]]
#     SUITE  bookworm (Python 3.11, RabbitMQ 3.10; the default) or trixie (Python 3.13, RabbitMQ 4.0)
#     IMAGE  name of the image to build (qkdrelay/python:3.11-slim, qkdrelay/rabbitmq:3.10-management, ...)
set -euo pipefail

kind=${1:-} suite=${2:-bookworm}
case $kind-$suite in
  python-bookworm) tag=python:3.11-slim ;;
  python-trixie) tag=python:3.13-slim ;;
  rabbitmq-bookworm) tag=rabbitmq:3.10-management ;;
  rabbitmq-trixie) tag=rabbitmq:4.0-management ;;
  *) echo "usage: build-base.sh python|rabbitmq [bookworm|trixie [IMAGE]]" >&2; exit 2 ;;
esac
image=${3:-qkdrelay/$tag}

say() { echo "base image $image: $*" >&2; }
need_root() { [ "$(id -u)" = 0 ] || { say "$1 needs root; run this as root once"; exit 1; }; }

command -v apt-get >/dev/null || { say "only Debian's packages can be built from; this is no Debian"; exit 1; }
# apt serves one at a time, and several images may be built at once.
exec 9>"${TMPDIR:-/tmp}/qkdrelay-apt.lock"
flock 9
if ! command -v mmdebstrap >/dev/null; then
  "$(dirname "${BASH_SOURCE[0]}")/../apt-install.sh" "base image $image" "mmdebstrap is not there" mmdebstrap
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/ca"

# The mirrors this host uses, for the suite that was asked for.
targets() { apt-get indextargets --format "$1" 'Created-By: Packages' 'Origin: Debian' | sort -u; }
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
# shellcheck disable=SC2016 # the names in $() are apt's, not the shell's
{
  [ -n "$(targets '$(RELEASE)')" ] || { need_root "reading the package lists"; apt-get update -q >&2; }
  targets 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(REPO_URI) $(RELEASE) $(COMPONENT)' |
    sed "s/\b$release\b/$suite/g" >"$work/sources.list"
}
flock -u 9
[ -s "$work/sources.list" ] || { say "apt knows no Debian mirror on this host"; exit 1; }

# A proxy's certificate authority that this host trusts, the image has to trust too.
cp /usr/local/share/ca-certificates/*.crt "$work/ca/" 2>/dev/null || true

# shellcheck disable=SC2016 # $1 in a hook is the new root directory
options=(
  --quiet --variant=apt
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*'
  --dpkgopt='path-exclude=/usr/share/doc/*'
  --customize-hook="sync-in $work/ca /usr/local/share/ca-certificates"
  --customize-hook='chroot "$1" update-ca-certificates >/dev/null 2>&1'
)
if [ "$kind" = python ]; then
  packages=python3,python3-venv,python3-pip
  # shellcheck disable=SC2016
  options+=(--customize-hook='ln -s python3 "$1/usr/bin/python"')
  changes=(
    'ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_CERT=/etc/ssl/certs/ca-certificates.crt'
    'CMD ["python3"]'
  )
else
  packages=rabbitmq-server
  # A fixed number, the official image's: compose starts the broker as that user.
  echo 'rabbitmq:x:999:' >"$work/group"
  echo 'rabbitmq:x:999:999:RabbitMQ:/var/lib/rabbitmq:/usr/sbin/nologin' >"$work/passwd"
  printf 'loopback_users = none\nlog.console = true\nlog.file = false\n' >"$work/10-defaults.conf"
  echo '[rabbitmq_management,rabbitmq_prometheus].' >"$work/enabled_plugins"
  # The cookie is written before the server starts, so that an early `rabbitmqctl` cannot make another one.
  cat >"$work/docker-entrypoint.sh" <<'ENTRYPOINT'
#!/bin/sh
set -eu
cookie=/var/lib/rabbitmq/.erlang.cookie
if [ ! -s $cookie ] || [ -n "${RABBITMQ_ERLANG_COOKIE:-}" ]; then
  rm -f $cookie
  (umask 077; printf %s "${RABBITMQ_ERLANG_COOKIE:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' ')}" >$cookie)
fi
[ "$(id -u)" = 0 ] || exec "$@"
chown -R rabbitmq:rabbitmq /var/lib/rabbitmq
exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups "$@"
ENTRYPOINT
  # shellcheck disable=SC2016
  options+=(
    --essential-hook="cat '$work/group' >>\"\$1/etc/group\" && cat '$work/passwd' >>\"\$1/etc/passwd\""
    --customize-hook='mkdir -p "$1/etc/rabbitmq/conf.d"'
    --customize-hook="upload $work/10-defaults.conf /etc/rabbitmq/conf.d/10-defaults.conf"
    --customize-hook="upload $work/enabled_plugins /etc/rabbitmq/enabled_plugins"
    --customize-hook="upload $work/docker-entrypoint.sh /usr/local/bin/docker-entrypoint.sh"
    --customize-hook='chmod 755 "$1/usr/local/bin/docker-entrypoint.sh"'
    --customize-hook='rm -f "$1/var/lib/rabbitmq/.erlang.cookie"; chmod 1777 "$1/var/lib/rabbitmq" "$1/var/log/rabbitmq"'
  )
  changes=(
    'ENV LANG=C.UTF-8 HOME=/var/lib/rabbitmq'
    'ENV PATH=/usr/lib/rabbitmq/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
    'VOLUME /var/lib/rabbitmq'
    'EXPOSE 4369 5671 5672 15672 15692 25672'
    'ENTRYPOINT ["docker-entrypoint.sh"]'
    'CMD ["rabbitmq-server"]'
  )
fi

say "building from Debian $suite, a minute or so"
import=()
for change in "${changes[@]}"; do import+=(--change "$change"); done
mmdebstrap "${options[@]}" --include="$packages,ca-certificates" "$suite" "$work/root.tar" "$work/sources.list"
docker import "${import[@]}" "$work/root.tar" "$image" >/dev/null
