#!/usr/bin/env bash
# Makes sure that SPIN, the model checker, and the compiler that it needs are there: or, as root on Debian, installs them.
#   usage: ensure-spin.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=()
command -v spin >/dev/null || packages+=(spin)
# SPIN writes the search as a program in C.
{ command -v gcc && echo '#include <stdio.h>' | gcc -E -; } >/dev/null 2>&1 || packages+=(gcc libc6-dev)
[ ${#packages[@]} = 0 ] || infra/apt-install.sh models "the models in tests/models need SPIN and a C compiler" "${packages[@]}"
