#!/usr/bin/env bash
# Builds the program that a release ships: once with counters, which is sent simulated notifications before a RabbitMQ and a
# Redis of its own; and once more by what was counted (profile-guided optimisation). `cargo build --release` makes the same
# program of the same sources, and that spends more CPU on a notification (docs/performance.md).
#
#   deploy/build.sh [FLAGS OF CARGO BUILD]     prints where the program is; what was counted is beside it, gateway.profdata
#   deploy/build.sh --can                      says whether it can be built so, and does nothing
#
# PROFILE=FILE builds by an earlier run's gateway.profdata, and counts nothing: that is good for the same sources, flags and
# version of Rust alone. Needs the toolchain's own llvm-profdata (rustup component add llvm-tools), and to count, a RabbitMQ and a
# Redis that deploy/broker.sh and deploy/redis.sh find or install, with nothing on localhost:5672. What is being done is said on
# standard error.
set -euo pipefail
[ -z "${PROFILE:-}" ] || PROFILE=$(realpath "$PROFILE")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc --version --verbose | sed -n 's/^host: //p')
profdata="$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata"
if [ -z "${PROFILE:-}" ] && ! [ -x "$profdata" ]; then
  echo "there is no $profdata: rustup component add llvm-tools" >&2
  exit 1
fi
[ "${1:-}" != --can ] || exit 0
built="${CARGO_TARGET_DIR:-target}/profiled"
made="$built/$host/release/alipay-notify-gateway"
counting="$built/counting"
counted="$built/gateway.profdata"
flags=("$@")
# Nothing of the caller's may change what is counted.
# shellcheck disable=SC2046 # Names, a word each.
unset ALIPAY_APP_ID ALIPAY_PUBLIC_KEY AMQP_URL RUST_LOG LOG_FORMAT CARGO_ENCODED_RUSTFLAGS $(compgen -v GATEWAY_)
work=$(mktemp -d "${TMPDIR:-/tmp}/gateway-build.XXXXXX")
gateway_pid=""
finish() {
  set +e # each of these, whatever becomes of the one before
  if [ -n "$gateway_pid" ]; then
    kill "$gateway_pid" 2>/dev/null && wait "$gateway_pid"
  fi
  deploy/redis.sh stop "$work/redis"
  deploy/broker.sh stop "$work/broker"
  rm -rf "$work"
}
trap finish EXIT

build() { # with this flag of rustc; by naming the target, what only the build runs has it not
  # Without this folder's path, so that what was built before is replaced and not kept beside it.
  RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$PWD=. $1" cargo build --release --locked --quiet --bin alipay-notify-gateway \
    --target "$host" --target-dir "$built" ${flags[@]+"${flags[@]}"}
}

load() { # with this store, and its variable: what is rare in production is rare here
  local log="$work/$1.log" address=""
  : >"$log"
  env GATEWAY_STORE__ENGINE="$1" "$2" LLVM_PROFILE_FILE="$work/$1.profraw" \
    "$counting" serve --config "$work/gateway.toml" >"$log" 2>&1 &
  gateway_pid=$!
  for _ in $(seq 1 300); do
    address=$(sed -n 's/.*"message":"serving".*"http":"\([^"]*\)".*/\1/p' "$log")
    [ -n "$address" ] && grep -q '"connected to the broker"' "$log" && break
    kill -0 "$gateway_pid" || break
    sleep 0.1
  done
  "$counting" simulate send --url "http://$address/alipay/notify" --key "$work/alipay-private.pem" --concurrency 64 --presign \
    --count 24000 --shares payment=84,redelivery=8,refund=4,finish=2,forged=2 >&2 || { tail -n 5 "$log" >&2 && return 1; }
  kill "$gateway_pid"
  wait "$gateway_pid"
  gateway_pid=""
}

if [ -z "${PROFILE:-}" ]; then
  # What is missing is told before anything is built.
  amqp=$(deploy/broker.sh start "$work/broker")
  [ -e "$work/broker/broker.port" ] || { echo "a RabbitMQ of its own is needed, and one is on localhost:5672" >&2 && exit 1; }
  redis=$(deploy/redis.sh start "$work/redis")
  echo "building with counters" >&2
  build "-Cprofile-generate=$built/counts"
  mv "$made" "$counting"
  # What plays Alipay is counted nowhere.
  export LLVM_PROFILE_FILE=/dev/null
  "$counting" simulate keys "$work" >/dev/null
  cp benches/gateway.toml "$work/"
  export GATEWAY_AMQP__URI="$amqp"
  for engine in sqlite redis; do
    echo "counting with $engine" >&2
    store="GATEWAY_STORE__PATH=$work/gateway.db"
    [ "$engine" = sqlite ] || store="GATEWAY_STORE__URI=$redis"
    load "$engine" "$store"
  done
  # Not --sparse: what is known never to have run is compiled to be small, and what nothing is known of is not.
  "$profdata" merge --output="$counted" "$work/sqlite.profraw" "$work/redis.profraw"
elif ! [ "$PROFILE" -ef "$counted" ]; then
  mkdir -p "$built"
  cp "$PROFILE" "$counted"
fi
echo "building by what was counted" >&2
# Under a name that says what is in it: by its name alone cargo knows that crates of others have to be built again.
by="$(realpath "$built")/$(sha256sum <"$counted" | head -c 16).profdata"
cp "$counted" "$by"
build "-Cprofile-use=$by"
rm "$by"
cp --remove-destination "$made" "$built/"
realpath "$built/alipay-notify-gateway"
