#!/usr/bin/env bash
# Format, lints and all tests, against a real RabbitMQ that is found or started (deploy/broker.sh), and
# against a real Redis, one node and a cluster of three (deploy/redis.sh).
# Arguments go to the tests: ./tests/run.sh end_to_end
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d "${TMPDIR:-/tmp}/gateway-tests.XXXXXX")
building=
trap '[ -z "$building" ] || kill "$building" || true
  for part in redis cluster; do deploy/redis.sh stop "$work/$part"; done; deploy/broker.sh stop "$work"; rm -rf "$work"' EXIT

cargo fmt --check
cargo clippy --locked --all-targets --all-features -- -D warnings
cargo clippy --locked --lib --bins --no-default-features -- -D warnings
AMQP_URL=$(deploy/broker.sh start "$work")
REDIS_URL=$(deploy/redis.sh start "$work/redis")
REDIS_CLUSTER_URL=$(deploy/redis.sh start "$work/cluster" cluster)
export AMQP_URL REDIS_URL REDIS_CLUSTER_URL
# The simulation's build, which has a folder of its own, in the time that the tests leave.
if [ $# = 0 ]; then
  nice -n 19 cargo test --locked --quiet --profile simulation --test simulation --no-run &
  building=$!
fi
# The portable engine, in every unit test; then everything with the default one, and with what the image is built with.
cargo test --locked --quiet --no-default-features --lib
# One thread serves, as on a machine of two cores, and then two, as on larger ones: what is about the door, the store and the end. (What
# is about the broker takes a minute and a half, and is for the one; tests/torture.sh has brokers die, too.)
export GATEWAY_RUNTIME__THREADS=1
cargo test --locked --features otlp --test tidy --test model --test it --lib --bins "$@"
if [ $# = 0 ]; then
  GATEWAY_RUNTIME__THREADS=2 cargo test --locked --quiet --features otlp --test it -- \
    public_door:: forgeries:: tls_door:: store_faults:: shutdown:: end_to_end:: reload::
fi
unset GATEWAY_RUNTIME__THREADS
if [ $# = 0 ]; then
  # Real crashes, in short: at random moments, and faults on the way to the broker. Deaths at the named points are for
  # tests/torture.sh: on a busy machine one of them was not reached in its time.
  cargo test --locked --features otlp --test torture -- --skip outage --skip named_points
fi
cargo test --locked --features otlp --doc
# A million notifications through simulated worlds (docs/reliability.md, "Simulation"); not where one test is asked for.
if (($# == 0)); then
  wait "$building"
  building=
  SIMULATION_NOTIFICATIONS="${SIMULATION_NOTIFICATIONS:-1000000}" \
    cargo test --locked --profile simulation --test simulation
fi
# The consumers of docs/consuming.md, as far as what they need can be had.
if (($# == 0)); then
  tests/consumers.sh
fi
