#!/usr/bin/env bash
# Never lost, at length: the program killed a thousand times and at every crash point, with a real broker; faults on the
# way to the broker; a broker that is blocked for ten minutes, and stopped; several replicas over one Redis; then the
# simulation, the model and every order of confirms. Prints one table of figures, with seeds and commit, and fails if anything was lost or repeated where it
# must not be. docs/reliability.md says what each figure means.
#
#   tests/torture.sh short      some minutes (default)
#   tests/torture.sh long       about three hours
#   tests/torture.sh long kills faults …    only these parts: kills points faults outage replicas simulation model orders
#
# A seed of a part is in its log and in the table: TORTURE_SEED=N makes the same plan again; what the machine does
# meanwhile it cannot repeat. KEEP=DIR keeps the logs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

length=${1:-short}
shift || true
all=(kills points faults outage replicas simulation model orders)
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=("${all[@]}")
for part in "${parts[@]}"; do
  # One with a typing error, or none, would be a success that tried nothing.
  if [[ -z $part || " ${all[*]} " != *" $part "* ]]; then
    echo "'$part' is no part; there are: ${all[*]}" >&2
    exit 2
  fi
done
case "$length" in
short)
  kills=20 every=1500 rounds=1 faults=8 blocked=30 outages=1
  export SIMULATION_NOTIFICATIONS=1000000 ORDERS_STRIDE=101
  count=5000 rounds_of_replicas=12 failovers=1
  ;;
long)
  kills=1000 every=2400 rounds=20 faults=200 blocked=600 outages=10
  export SIMULATION_NOTIFICATIONS=10000000 ORDERS_STRIDE=1
  count=100000 rounds_of_replicas=120 failovers=20
  ;;
*)
  sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac

work=$(mktemp -d "${TMPDIR:-/tmp}/gateway-torture.XXXXXX")
finish() {
  deploy/broker.sh stop "$work/broker"
  deploy/redis.sh stop "$work/redis"
  [ -z "${KEEP:-}" ] || { mkdir -p "$KEEP" && cp "$work"/*.log "$work/figures" "$KEEP/" 2>/dev/null || true; }
  rm -rf "$work"
}
trap finish EXIT
broken=()
export TORTURE_FIGURES="$work/figures"
: >"$TORTURE_FIGURES"

# A broker of our own, because it is blocked and stopped; whatever AMQP_URL says is left alone.
broker=$(env -u AMQP_URL deploy/broker.sh start "$work/broker")
export AMQP_URL="$broker" TORTURE_BROKER="$work/broker"
targets=${CARGO_TARGET_DIR:-target}

wanted() { [[ " ${parts[*]} " == *" $1 "* ]]; }
say() { echo "torture: $*" >&2; }
run() { # NAME COMMAND...
  local name=$1
  shift
  say "$name: $*"
  if "$@" >"$work/$name.log" 2>&1; then
    say "$name: as promised"
  else
    broken+=("$name")
    tail -n 40 "$work/$name.log" >&2
  fi
}
torture() { # NAME FILTER OPTION...: the harness; the program is what TORTURE_PROGRAM says
  run "$1" cargo test --locked --test torture "$2" -- --nocapture --test-threads 1 "${@:3}"
}

if wanted kills || wanted faults || wanted outage || wanted points || wanted replicas; then
  say "building what is shipped, and the same with crash points"
  cargo build --locked --release --quiet --features failpoints
  cp "$targets/release/alipay-notify-gateway" "$work/with-failpoints"
  cargo build --locked --release --quiet
  cp "$targets/release/alipay-notify-gateway" "$work/shipped"
  export TORTURE_PROGRAM="$work/shipped" TORTURE_FAILPOINTS="$work/with-failpoints"
  if grep --quiet confirmed_unrecorded "$work/shipped" || ! grep --quiet confirmed_unrecorded "$work/with-failpoints"; then
    say "the program that is shipped knows crash points, or the other one does not"
    broken+=(shipped)
  fi
fi

if wanted kills; then
  TORTURE_KILLS=$kills TORTURE_KILL_EVERY_MS=$every torture kills kills::
fi
if wanted faults; then
  TORTURE_FAULTS=$faults torture faults broker_faults::
fi
if wanted outage; then
  if [ -s "$work/broker/node.pid" ]; then
    TORTURE_BLOCKED_SECONDS=$blocked TORTURE_OUTAGES=$outages torture outage outage:: --ignored
  else
    say "outage: left out, because the broker is not a private node that can be blocked and stopped"
  fi
fi
if wanted points; then
  TORTURE_ROUNDS=$rounds torture points named_points:: --ignored
fi
# Tests of their own: what each counts is in its log, and its last lines are shown.
if wanted replicas; then
  REDIS_URL=$(deploy/redis.sh start "$work/redis")
  export REDIS_URL
  export REPLICAS_NOTIFICATIONS="${REPLICAS_NOTIFICATIONS:-$count}"
  export REPLICAS_ROUNDS="${REPLICAS_ROUNDS:-$rounds_of_replicas}" REPLICAS_FAILOVERS="${REPLICAS_FAILOVERS:-$failovers}"
  run replicas cargo test --locked --test it replicas:: -- --nocapture --test-threads 1
fi
if wanted simulation && [ -d tests/simulation ]; then
  run simulation cargo test --locked --profile simulation --test simulation -- --nocapture
fi
if wanted model && [ -d tests/model ]; then
  run model cargo test --locked --release --test model -- --nocapture --include-ignored
fi
if wanted orders && [ -e tests/it/scripted_orders.rs ]; then
  run orders cargo test --locked --test it scripted_orders -- --nocapture
  run cluster cargo test --locked --test it a_cluster -- --ignored --nocapture
fi

echo "commit $(git describe --always --dirty), $(date -u +%Y-%m-%dT%H:%MZ), $length, $(uname -m), $(nproc) cores, $(
  [ -s "$work/broker/node.pid" ] && deploy/broker.sh ctl "$work/broker" version || echo unknown
) RabbitMQ"
echo
echo '| run | what | |'
echo '|---|---|---|'
awk -F '\t' '{ printf "| %s | %s | %s |\n", ($1 == last ? "" : $1), $2, $3; last = $1 }' "$TORTURE_FIGURES"
for name in replicas simulation model orders; do
  if [ -s "$work/$name.log" ]; then
    printf '\n%s:\n' "$name"
    grep -vE '^(warning|test |running|    |$)|Compiling|Finished|Running' "$work/$name.log" | tail -n 40
  fi
done
if [ ${#broken[@]} -gt 0 ]; then
  echo
  echo "NOT as promised: ${broken[*]}"
  exit 1
fi
