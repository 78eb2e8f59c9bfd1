#!/usr/bin/env bash
# Makes sure that SPIN, the model checker, and the compiler that it needs are there: or, as root on Debian, installs them.
#   usage: ensure-spin.sh
set -euo pipefail

say() { echo "models: $*" >&2; }

packages=()
command -v spin >/dev/null || packages+=(spin)
# SPIN writes the search as a program in C.
{ command -v gcc && echo '#include <stdio.h>' | gcc -E -; } >/dev/null 2>&1 || packages+=(gcc libc6-dev)
[ ${#packages[@]} != 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  say "the models in tests/models need ${packages[*]}: install them, or run this as root on Debian"
  exit 1
fi
say "installing Debian's ${packages[*]}"
{
  apt-get update -q || true
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"
} >&2
