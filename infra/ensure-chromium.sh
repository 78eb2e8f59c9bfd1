#!/usr/bin/env bash
# Makes sure that Chromium, in which the page is tested, is there: or, as root on Debian, installs it.
#   usage: ensure-chromium.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v chromium >/dev/null ||
  infra/apt-install.sh page "the page is tested in a browser" chromium fonts-liberation
