#!/usr/bin/env bash
# The long form of the tests by attack: kills everything again and again under load, disturbs eight sites SITES times,
# attacks relays of random networks, fuzzes whatever reads an input. Prints the figures at the end; exit status 1 if a
# promise was broken.
# On two cores it takes about 1.5 s a kill, 2 s a disturbance of sites, 20 ms an attack and half a minute for each FUZZ;
# each part is ended, as failed, when it takes several times as long.
#   usage: with-images.sh chaos.sh PYTHON KILLS RELAYS SITES ATTACKS FUZZ [SEED]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$1 kills=$2 relays=$3 sites=$4 attacks=$5 fuzz=$6
seed=${7:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
figures=$(mktemp)
trap 'rm -f "$figures"' EXIT
export PYTHONPATH=tests QKDRELAY_RABBITMQ_IMAGE=${RABBITMQ_IMAGE:-} QKDRELAY_SEED=$seed
export QKDRELAY_ATTACKS=$attacks QKDRELAY_FUZZ=$fuzz
status=0

part() {
  local seconds=$1
  shift
  timeout "$seconds" "$python" "$@" | tee -a "$figures" || status=1
}
part $((600 + 4 * kills)) -m support.chaos --kills "$kills" --relays "$relays" --seed "$seed"
part $((900 + 8 * sites)) -m support.chaos_of_sites --times "$sites" --relays "$relays" --seed "$seed"
part $((600 + attacks / 10)) -m attack
part $((600 + 120 * fuzz)) -m pytest -q -k fuzz --hypothesis-seed="$seed" --timeout $((600 + 120 * fuzz)) \
  tests/property tests/unit

echo
echo "== figures"
cat "$figures"
[ $status = 0 ] && echo "every promise was kept" || echo "a promise was broken: see above" >&2
exit $status
