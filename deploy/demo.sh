#!/usr/bin/env bash
# The main job, end to end: builds the gateway, makes sure that a RabbitMQ is there, lets `simulate` play Alipay,
# and shows the events out of the queue beside what Alipay was answered. Leaves nothing running (--keep does).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. deploy/broker.sh

keep=no
case "${1:-}" in
  "") ;;
  --keep) keep=yes ;;
  *) echo "usage: deploy/demo.sh [--keep]" >&2; exit 2 ;;
esac

gateway_pid=""
work=$(mktemp -d "${TMPDIR:-/tmp}/gateway-demo.XXXXXX")
finish() {
  local status=$?
  if [ "$status" != 0 ] && [ -s "$work/gateway.log" ]; then
    echo "the gateway's last lines:" >&2
    tail -n 10 "$work/gateway.log" >&2
  fi
  if [ "$keep" = yes ] && [ "$status" = 0 ]; then
    return
  fi
  if [ -n "$gateway_pid" ]; then
    kill "$gateway_pid" 2>/dev/null && wait "$gateway_pid" 2>/dev/null
  fi
  broker_stop
  rm -rf "$work"
}
trap finish EXIT

echo "== building the release binary"
cargo build --release --locked --quiet
gateway="${CARGO_TARGET_DIR:-target}/release/alipay-notify-gateway"

echo "== making sure that a RabbitMQ is there"
broker_start

http=$(broker_free_port)
admin=$(broker_free_port)
exchange="gateway-demo-$$-$RANDOM"

echo "== making the simulated Alipay's keys, and a configuration"
"$gateway" simulate keys "$work" >/dev/null
# The broker's URI may hold a password: a file of its own, that nobody else reads.
(umask 077; printf '%s' "$AMQP_URL" >"$work/amqp-uri")
cat >"$work/gateway.toml" <<CONF
[http]
listen = "127.0.0.1:$http"
[admin]
listen = "127.0.0.1:$admin"
[amqp]
uri_file = "amqp-uri"
exchange = "$exchange"
[store]
path = "gateway.db"
[[apps]]
app_id = "2021000000000001"
environment = "sandbox"
seller_ids = ["2088101117955611"]
alipay_public_keys = ["alipay-public.pem"]
CONF
amqp_url=$AMQP_URL
unset AMQP_URL
"$gateway" check --config "$work/gateway.toml" --connect | sed 's/^/   /'

echo "== starting the gateway on 127.0.0.1:$http"
"$gateway" serve --config "$work/gateway.toml" >"$work/gateway.log" 2>&1 &
gateway_pid=$!
for _ in $(seq 1 100); do
  "$gateway" healthcheck --admin "http://127.0.0.1:$admin" 2>/dev/null && break
  kill -0 "$gateway_pid" || exit 1
  sleep 0.1
done

echo "== simulate plays Alipay"
delete=--delete-exchange
[ "$keep" = yes ] && delete=""
"$gateway" simulate story --url "http://127.0.0.1:$http/alipay/notify" --key "$work/alipay-private.pem" \
  --amqp "$amqp_url" --exchange "$exchange" $delete | tee "$work/story"

trade=$(sed -n 's/^  trade //p' "$work/story" | head -n 1)
echo "== what the gateway keeps of the first trade"
"$gateway" trade "$trade" --admin "http://127.0.0.1:$admin" | sed 's/^/   /'

if [ "$keep" = yes ]; then
  disown "$gateway_pid"
  [ -n "$BROKER_PID" ] && disown "$BROKER_PID" 2>/dev/null
  cat <<TEXT

Left running:
  notify URL   http://127.0.0.1:$http/alipay/notify
  metrics      http://127.0.0.1:$admin/metrics
  broker       the URI is in $work/amqp-uri, the exchange is $exchange
  files        $work (configuration, keys, store, gateway.log)
Go on, for example:
  $gateway simulate story --url http://127.0.0.1:$http/alipay/notify --key $work/alipay-private.pem --amqp "\$(cat $work/amqp-uri)" --exchange $exchange
Stop it:
  kill $gateway_pid${BROKER_DIR:+ \$(cat $BROKER_DIR/pid)}${BROKER_CONTAINER:+; docker kill $BROKER_CONTAINER}; rm -rf $work${BROKER_DIR:+ $BROKER_DIR}
TEXT
fi
