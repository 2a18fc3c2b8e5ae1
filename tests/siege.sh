#!/usr/bin/env bash
# The attacks on the public door (54 to 67), each with its figure: what the process held before, at its peak and after,
# what became of genuine traffic at a tenth of saturation before, during and after, and what was held off; on HTTP, and
# on a gateway that speaks TLS. The real binary and a real broker, loopback only, some fifteen minutes. Exits 1 where a
# promise is not kept (tests/siege/siege.py).
#
#   tests/siege.sh               everything
#   SHORT=1 tests/siege.sh       500 hoarders and two seconds for each: the same promises, about five minutes
#   ONLY=66 tests/siege.sh       what has this in its name (all of TLS has TLS)
#
# GATEWAY names a program that is built already. Needs Python 3 (standard library), openssl, and 12,000 open files.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ulimit -n "$(ulimit -Hn)"
if [ "$(ulimit -n)" != unlimited ] && [ "$(ulimit -n)" -lt 12000 ]; then
  echo "the siege needs 12,000 open files, and may have $(ulimit -n): ulimit -n" >&2
  exit 1
fi
python3 tests/siege/siege.py --names --only "${ONLY:-}"
seconds=5 hoarders=5000
[ -n "${SHORT:-}" ] && seconds=2 hoarders=500
work=$(mktemp -d "${TMPDIR:-/tmp}/gateway-siege.XXXXXX")
pid=""
stop() { [ -n "$pid" ] && kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; pid=""; }
finish() {
  stop
  deploy/broker.sh stop "$work/broker"
  rm -rf "$work"
}
trap finish EXIT

gateway=${GATEWAY:-}
if [ -z "$gateway" ]; then
  cargo build --release --locked --quiet
  gateway="${CARGO_TARGET_DIR:-target}/release/alipay-notify-gateway"
fi
amqp=$(deploy/broker.sh start "$work/broker")
unset AMQP_URL
"$gateway" simulate keys "$work" >/dev/null

free_port() { # that nobody listens on
  local port
  while port=$((20000 + RANDOM % 12000)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}
# A gateway of this name, with more keys of [http], at $http and $admin.
start() {
  http="127.0.0.1:$(free_port)" admin="127.0.0.1:$(free_port)"
  local exchange="gateway-siege-$1-$$-$RANDOM"
  cat >"$work/$1.toml" <<CONF
[http]
listen = "$http"
$2
[admin]
listen = "$admin"
[amqp]
uri = "$amqp"
exchange = "$exchange"
[[amqp.queues]]
name = "$exchange"
bind = ["#"]
[store]
path = "$1.db"
[[apps]]
app_id = "2021000000000001"
seller_ids = ["2088101117955611"]
alipay_public_keys = ["alipay-public.pem"]
CONF
  : >"$work/$1.log"
  "$gateway" serve --config "$work/$1.toml" >"$work/$1.log" 2>&1 &
  pid=$!
  until grep -q 'connected to the broker' "$work/$1.log"; do
    kill -0 "$pid" || { cat "$work/$1.log"; exit 1; }
    sleep 0.1
  done
}
besiege() {
  python3 tests/siege/siege.py --http "$http" --admin "$admin" --pid "$pid" --bodies "$work/bodies" --rate "$rate" \
    --seconds "$seconds" --connections "$hoarders" --only "${ONLY:-}" "$@" || failed=1
}

sign() { "$gateway" simulate send --key "$work/alipay-private.pem" --count "$1" --shares "$2" --bodies-out "$3" >/dev/null; }
echo "signing" >&2
sign 3000 payment=100 "$work/first"
start http ""
saturation=$("$gateway" simulate send --url "http://$http/alipay/notify" --key "$work/alipay-private.pem" \
  --bodies "$work/first" --presign --concurrency 64 --format json | sed 's/.*"per_second":\([0-9]*\).*/\1/')
rate=$((saturation / 10))
echo "saturation: $saturation/s with 64 connections" >&2
# Twenty-one attacks with a measure during and one after each, and one before all; the gateway with TLS has a store of its own.
sign $((rate * (seconds * 43 + 4) + 100)) payment=100 "$work/genuine"
sign 500 forged=100 "$work/forged"
cat "$work/genuine" "$work/forged" >"$work/bodies"
failed=0
besiege
stop
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=siege \
  -keyout "$work/tls.key" -out "$work/tls.crt" 2>/dev/null
start tls 'tls_certificate_file = "tls.crt"
tls_key_file = "tls.key"'
besiege --tls
if grep panicked "$work"/*.log; then
  exit 1
fi
exit "$failed"
