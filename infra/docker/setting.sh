#!/usr/bin/env bash
# Prints a setting as compose takes it: the environment's, else that of .env, else DEFAULT. For names of images and of
# projects only; what is none is refused, as is a line that `coordinator provision` would refuse.
#   usage: setting.sh NAME [DEFAULT]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

name=$1 line='' plain='[A-Za-z0-9._/:@-]*'
if [ -n "${!name:-}" ]; then
  line=$name=${!name}
elif [ -f .env ]; then
  line=$(grep -E "^[[:space:]]*(export[[:space:]]+)?$name[[:space:]]*([=:]|$)" .env || true)
fi
if [[ $line =~ ^$name=($plain)$ || $line =~ ^$name=\"($plain)\"$ || $line =~ ^$name=\'($plain)\'$ ]]; then
  line=${BASH_REMATCH[1]}
elif [ -n "$line" ]; then
  echo ".env, or the environment: $name is not what it should be: once, $name=VALUE, of a-z, A-Z, 0-9 and ._/:@-" >&2
  exit 1
fi
echo "${line:-${2:-}}"
