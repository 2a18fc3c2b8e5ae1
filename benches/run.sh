#!/usr/bin/env bash
# What a notification costs the gateway in CPU, against the floor (benches/floor.rs), in turn in one run: the median
# of several pairs. Store with 10 thousand records, confirms, metrics and the audit log on, 64 connections, spread
# trade numbers. Prints a table; fails if the ratio is above the bar.
#
#   benches/run.sh [PAIRS] [NOTIFICATIONS]          (default 5 pairs of 20,000)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pairs=${1:-5}
count=${2:-20000}
connections=${CONNECTIONS:-64}
bar=${BAR:-2.0}
records=10000

work=$(mktemp -d "${TMPDIR:-/tmp}/gateway-bench.XXXXXX")
pid=""
finish() {
  [ -n "$pid" ] && kill "$pid" 2>/dev/null
  deploy/broker.sh stop "$work/broker"
  rm -rf "$work"
}

free_port() { # that nobody listens on
  local port
  while port=$((20000 + RANDOM % 12000)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}
trap finish EXIT

echo "building" >&2
cargo build --release --locked --quiet
floor=$(cargo build --release --locked --quiet --bench floor --message-format=json |
  sed -n 's/.*"executable":"\([^"]*floor-[^"]*\)".*/\1/p' | tail -n 1)
gateway="${CARGO_TARGET_DIR:-target}/release/alipay-notify-gateway"

amqp=$(deploy/broker.sh start "$work/broker")
unset AMQP_URL
"$gateway" simulate keys "$work" >/dev/null
# The floor takes PKCS#1 or SPKI as DER, which is the PEM without its armour.
grep -v -- '-----' "$work/alipay-public.pem" | base64 -d >"$work/alipay-public.der"
exchange="gateway-bench-$$-$RANDOM"
cat >"$work/gateway.toml" <<CONF
[http]
listen = "127.0.0.1:0"
[amqp]
uri = "$amqp"
exchange = "$exchange"
[[amqp.queues]]
name = "$exchange"
bind = ["#"]
[store]
path = "gateway.db"
[[apps]]
app_id = "2021000000000001"
seller_ids = ["2088101117955611"]
alipay_public_keys = ["alipay-public.pem"]
CONF

echo "signing $((records + count)) notifications" >&2
sign() { "$gateway" simulate send --key "$work/alipay-private.pem" --count "$1" --bodies-out "$2" >/dev/null; }
sign "$records" "$work/records" & sign "$count" "$work/bodies" & wait

# User and system time of a process, all its threads, in hundredths of a second.
cpu() { local stat; stat=$(cat "/proc/$1/stat"); set -- ${stat##*) }; echo $((${12} + ${13})); }
resident() { sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$1/status"; }
send() { # PORT BODIES
  "$gateway" simulate send --url "http://127.0.0.1:$1/alipay/notify" --key "$work/alipay-private.pem" \
    --bodies "$2" --presign --concurrency "$connections" --format json
}
start_gateway() { # sets pid and port
  port=$(free_port)
  admin=$(free_port)
  GATEWAY_HTTP__LISTEN="127.0.0.1:$port" GATEWAY_ADMIN__LISTEN="127.0.0.1:$admin" \
    "$gateway" serve --config "$work/gateway.toml" >"$work/gateway.log" 2>&1 &
  pid=$!
  until "$gateway" healthcheck --admin "http://127.0.0.1:$admin" 2>/dev/null; do sleep 0.1; done
  # A batch that does not count, so that connections and caches are warm.
  until grep -q 'connected to the broker' "$work/gateway.log"; do sleep 0.1; done
}
start_floor() {
  port=$(free_port)
  "$floor" "127.0.0.1:$port" "$work/alipay-public.der" "$amqp" "$exchange" >"$work/floor.log" 2>&1 &
  pid=$!
  until (exec 9<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.1; done
}
stop() { kill "$pid"; wait "$pid" 2>/dev/null || true; pid=""; }
measure() { # NAME: runs the bodies against pid on port; prints "microseconds per_second rss_kib"
  local before after summary
  before=$(cpu "$pid")
  summary=$(send "$port" "$work/bodies") || { echo "not as promised: $summary" >&2; tail -n 5 "$work/$1.log" >&2; exit 1; }
  after=$(cpu "$pid")
  local rate=${summary#*\"per_second\":}
  echo "$(((after - before) * 10000 * 100 / count)) ${rate%%[.,]*} $(resident "$pid")"
}

echo "a store with $records records" >&2
start_gateway
send "$port" "$work/records" >/dev/null
stop
cp "$work/gateway.db" "$work/records.db"

printf '%-5s %16s %16s %7s %10s %10s %12s\n' pair "gateway us" "floor us" ratio "gateway/s" "floor/s" "gateway MiB"
ratios=""
for pair in $(seq 1 "$pairs"); do
  rm -f "$work"/gateway.db*
  cp "$work/records.db" "$work/gateway.db"
  start_gateway
  read -r g_cpu g_rate g_rss < <(measure gateway)
  stop
  start_floor
  read -r f_cpu f_rate _ < <(measure floor)
  stop
  ratio=$((g_cpu * 1000 / f_cpu))
  ratios="$ratios $ratio"
  printf '%-5s %13d.%02d %13d.%02d %5d.%02d %10s %10s %12s\n' "$pair" $((g_cpu / 100)) $((g_cpu % 100)) \
    $((f_cpu / 100)) $((f_cpu % 100)) $((ratio / 1000)) $((ratio % 1000 / 10)) "$g_rate" "$f_rate" $((g_rss / 1024))
done
median=$(printf '%s\n' $ratios | sort -n | sed -n "$(((pairs + 1) / 2))p")
printf 'median ratio %d.%02d (bar %s), %s connections, %s notifications, %s, %s cores\n' $((median / 1000)) \
  $((median % 1000 / 10)) "$bar" "$connections" "$count" "$(uname -m)" "$(nproc)"
allowed=$(printf '%s' "$bar" | sed 's/\.//; s/$/00/')
[ "$median" -le "$allowed" ]
