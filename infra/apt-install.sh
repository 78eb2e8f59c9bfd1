#!/usr/bin/env bash
# Installs Debian packages, as root on Debian; elsewhere says what needs which.
#   usage: apt-install.sh WHO NEED PACKAGE...
#     WHO   who says so, as in "venv"
#     NEED  what there is not, or what needs the packages
set -euo pipefail

who=$1 need=$2
shift 2
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "$who: $need: install $*, or run this as root on Debian" >&2
  exit 1
fi
echo "$who: installing Debian's $*" >&2
{
  apt-get update -q || true
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"
} >&2
