#!/usr/bin/env bash
# What a notification costs, side by side in one run: the gateway against the floor (benches/floor.rs), with SQLite and with
# Redis, with many records, on one connection; duplicates and forgeries against what is new; memory; how long a start takes;
# and what programs with the usual SDKs spend (benches/peers). Prints a table with the bars; exits 1 if one is not kept.
#
#   benches/run.sh                    everything, and the chart docs/performance.svg with SVG=docs/performance.svg
#   benches/run.sh new cheap          some of: new million redis single cheap memory start peers latency size
#   benches/run.sh 3 20000            the first alone, three pairs of 20,000 notifications; exits by BAR, 2.0
#   OTHER=… benches/run.sh turns      a gateway that was built before, in the same way (PROFILE), and this one in turn
#   benches/run.sh apps               with 1 to 1,000 apps
#   benches/run.sh soak               MINUTES=30 at half of what it can take (RATE=), for what grows
#   benches/run.sh instructions       by callgrind, which no neighbour disturbs: part of .ci/run. Needs valgrind. CONNECTIONS=1 for
#                                     fewer than 64, of which there is no bar
#
# PAIRS=5 COUNT=20000; TEN_MILLION=1 has a start with ten million records instead of one. GATEWAY and FLOOR name programs
# that are built; without GATEWAY it is built as a release is (deploy/build.sh), half an hour, where there is llvm-profdata, and
# else by cargo alone. Needs Python 3, and a RabbitMQ node of its own: the distribution's package, and no other broker on 5672. The peers
# need its venv, pip and Node.js with npm, and are left out where there are none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} = -* ]]; then
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' benches/run.sh
  exit
fi
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
  PAIRS=$1 COUNT=${2:-20000}
  [ $# -le 2 ] || { echo "benches/run.sh PAIRS COUNT takes no part" >&2 && exit 1; }
  set -- ratio
fi
told=(--pairs "${PAIRS:-5}" --count "${COUNT:-20000}" ${SVG:+--svg "$SVG"} ${TEN_MILLION:+--ten-million} "$@")
# Before anything is built.
python3 benches/suite.py --judge "${told[@]}"
work=$(mktemp -d "${TMPDIR:-/tmp}/gateway-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
source benches/programs.sh
if [ "$*" = instructions ] && [ -z "$gateway" ]; then
  # As the simulation's test builds it, so that .ci/run has it by then.
  cargo test --profile simulation --locked --quiet --test simulation --no-run
  gateway="${CARGO_TARGET_DIR:-target}/simulation/alipay-notify-gateway" floor=none
fi
build
for program in "$gateway" "$floor"; do
  [ "$program" = none ] || [ -x "$program" ] || { echo "$program is no program" >&2 && exit 1; }
done

peers="$work/peers" have=""
mkdir "$peers"
case " ${*:-peers} " in *" peers "*)
  echo "installing the peers" >&2
  cp benches/peers/node.mjs "$peers/"
  if npm install --prefix "$peers" --silent --no-audit --no-fund alipay-sdk@4.14.0 fastify@5 amqplib@0.10 >"$work/npm.log" 2>&1; then
    have="node"
    echo "Node.js $(node --version)" >&2
  else
    echo "without Node.js: $(tail -n 1 "$work/npm.log")" >&2
  fi
  if { python3 -m venv "$peers/venv" &&
    "$peers/venv/bin/pip" install --quiet --disable-pip-version-check python-alipay-sdk==3.4.0 fastapi==0.165.0 'uvicorn[standard]==0.54.0' \
    uvloop==0.23.0 httptools==0.9.0 aio-pika==10.2.1; } >"$work/pip.log" 2>&1; then
    have="$have python"
    python3 --version >&2
  else
    echo "without Python's: $(tail -n 1 "$work/pip.log")" >&2
  fi
  ;;
esac

python3 benches/suite.py --work "$work" --gateway "$gateway" --floor "$floor" --peers "$peers" --have "$have" "${told[@]}"
