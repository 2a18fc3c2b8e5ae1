#!/usr/bin/env bash
# The main job, end to end: builds the gateway, makes sure that a RabbitMQ is there, lets `simulate` play Alipay,
# and shows the events out of the queue beside what Alipay was answered. Leaves nothing running (--keep does).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The demo has a configuration of its own: nothing of the caller's but AMQP_URL may change it.
# shellcheck disable=SC2046 # Names, a word each.
unset ALIPAY_APP_ID ALIPAY_PUBLIC_KEY RUST_LOG LOG_FORMAT $(compgen -v GATEWAY_)
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
  set +e # each of these, whatever becomes of the one before
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

echo "== building the release binary"
cargo build --release --locked --quiet
gateway="${CARGO_TARGET_DIR:-target}/release/alipay-notify-gateway"

echo "== making sure that a RabbitMQ is there"
amqp_url=$(deploy/broker.sh start "$work/broker")

http=$(free_port)
admin=$(free_port)
exchange="gateway-demo-$$-$RANDOM"

echo "== making the simulated Alipay's keys, and a configuration"
"$gateway" simulate keys "$work" >/dev/null
# The broker's URI may hold a password: a file of its own, that nobody else reads.
(umask 077; printf '%s' "$amqp_url" >"$work/amqp-uri")
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
unset AMQP_URL amqp_url
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
  --amqp-file "$work/amqp-uri" --exchange "$exchange" $delete | tee "$work/story"

trade=$(sed -n 's/^  trade //p' "$work/story" | head -n 1)
echo "== what the gateway keeps of the first trade"
"$gateway" trade "$trade" --admin "http://127.0.0.1:$admin" | sed 's/^/   /'

if [ "$keep" = yes ]; then
  disown "$gateway_pid"
  # Ends only what this run started, and takes its files away.
  cat >"$work/stop.sh" <<STOP
#!/usr/bin/env bash
"$(realpath "$gateway")" simulate clear --amqp-file "$work/amqp-uri" --exchange "$exchange"
grep -qa "$work/gateway.toml" "/proc/$gateway_pid/cmdline" 2>/dev/null && kill "$gateway_pid"
"$PWD/deploy/broker.sh" stop "$work/broker"
rm -rf "$work"
STOP
  chmod +x "$work/stop.sh"
  cat <<TEXT

Left running:
  notify URL   http://127.0.0.1:$http/alipay/notify
  metrics      http://127.0.0.1:$admin/metrics
  broker       the URI is in $work/amqp-uri, the exchange is $exchange
  files        $work (configuration, keys, store, gateway.log)
Go on, for example:
  $gateway simulate story --url http://127.0.0.1:$http/alipay/notify --key $work/alipay-private.pem --amqp-file $work/amqp-uri --exchange $exchange
Stop it, and take everything away:
  $work/stop.sh
TEXT
fi
