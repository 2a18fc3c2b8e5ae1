# Makes sure that a RabbitMQ is there, for deploy/demo.sh and tests/run.sh. To be sourced:
#
#   . deploy/broker.sh
#   broker_start        sets AMQP_URL; says what it does; dies with a reason if there is no way
#   broker_stop         ends what broker_start began, and nothing else
#
# In this order: AMQP_URL; a broker that answers on localhost:5672; a container where a Docker engine runs; the
# distribution's rabbitmq-server, installed as root with its service start suppressed (the one thing that stays),
# as a private node on free ports with files of its own, ended by its own pid.
# Needs bash, and nothing else.

BROKER_DIR=""
BROKER_PID=""
BROKER_CONTAINER=""

broker_say() { printf '%s\n' "broker: $*" >&2; }

# Whether something on host $1 and port $2 speaks AMQP 0-9-1: it answers the protocol header with a method frame
# (type 1, channel 0), which is connection.start.
broker_answers() {
  local byte
  exec 9<>"/dev/tcp/$1/$2" || return 1
  printf 'AMQP\x00\x00\x09\x01' >&9
  IFS= read -r -t 3 -N 1 byte <&9
  exec 9>&- 9<&-
  [ "$byte" = $'\x01' ]
} 2>/dev/null

# A port that nobody listens on.
broker_free_port() {
  local port try
  for try in $(seq 1 200); do
    port=$((20000 + (RANDOM * 7 + try) % 20000))
    (exec 9<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { printf '%s' "$port"; return 0; }
  done
  return 1
}

broker_start() {
  if [ -n "${AMQP_URL:-}" ]; then
    broker_say "using AMQP_URL"
  elif broker_answers 127.0.0.1 5672; then
    AMQP_URL="amqp://guest:guest@127.0.0.1:5672/%2f"
    broker_say "using the one that answers on localhost:5672 (set AMQP_URL if guest may not log in there)"
  elif broker_start_container; then
    :
  elif broker_start_node; then
    :
  else
    broker_say "there is no RabbitMQ, no Docker engine, and no way to install one here."
    broker_say "set AMQP_URL, or run this as root on Debian or Ubuntu, or install rabbitmq-server."
    return 1
  fi
  export AMQP_URL
}

broker_start_container() {
  local port
  command -v docker >/dev/null 2>&1 && docker info >/dev/null 2>&1 || return 1
  port=$(broker_free_port) || return 1
  broker_say "starting a container (rabbitmq:3-alpine) on port $port"
  BROKER_CONTAINER=$(docker run -d --rm -p "127.0.0.1:$port:5672" rabbitmq:3-alpine) || { BROKER_CONTAINER=""; return 1; }
  broker_wait 127.0.0.1 "$port" 90 || { broker_say "the container does not answer"; broker_stop; return 1; }
  AMQP_URL="amqp://guest:guest@127.0.0.1:$port/%2f"
}

# The server's own scripts want to be root or rabbitmq; these are what they wrap.
broker_server() {
  local path
  for path in /usr/lib/rabbitmq/bin/rabbitmq-server "$(command -v rabbitmq-server 2>/dev/null)"; do
    [ -n "$path" ] && [ -x "$path" ] && { printf '%s' "$path"; return 0; }
  done
  return 1
}

broker_install() {
  command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ] || return 1
  broker_say "installing the distribution's rabbitmq-server (it stays; its service is not started)"
  # RUNLEVEL=1 keeps invoke-rc.d from starting the service.
  local install="apt-get install -y -qq --no-install-recommends rabbitmq-server"
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive $install >/dev/null 2>&1 && return 0
  apt-get update -qq >/dev/null 2>&1
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive $install >/dev/null
}

broker_start_node() {
  local server port dist epmd
  server=$(broker_server) || { broker_install && server=$(broker_server); } || return 1
  port=$(broker_free_port) && dist=$(broker_free_port) && epmd=$(broker_free_port) || return 1
  BROKER_DIR=$(mktemp -d "${TMPDIR:-/tmp}/gateway-broker.XXXXXX") || return 1
  mkdir -p "$BROKER_DIR/mnesia" "$BROKER_DIR/log" "$BROKER_DIR/home"
  cat >"$BROKER_DIR/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$port
disk_free_limit.absolute = 50MB
log.console = false
CONF
  : >"$BROKER_DIR/enabled_plugins"
  printf '[].' >"$BROKER_DIR/enabled_plugins"
  broker_say "starting a private node on port $port"
  # HOME holds the node's cookie; its own epmd keeps it apart from every other node of the machine.
  env -i PATH="$PATH" LANG=C.UTF-8 HOME="$BROKER_DIR/home" \
    ERL_EPMD_PORT="$epmd" ERL_EPMD_ADDRESS=127.0.0.1 RABBITMQ_CONF_ENV_FILE=/dev/null \
    RABBITMQ_NODENAME="gateway$port@localhost" RABBITMQ_NODE_PORT="$port" RABBITMQ_DIST_PORT="$dist" \
    RABBITMQ_MNESIA_BASE="$BROKER_DIR/mnesia" RABBITMQ_LOG_BASE="$BROKER_DIR/log" \
    RABBITMQ_CONFIG_FILE="$BROKER_DIR/rabbitmq.conf" RABBITMQ_GENERATED_CONFIG_DIR="$BROKER_DIR" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$BROKER_DIR/enabled_plugins" RABBITMQ_PID_FILE="$BROKER_DIR/pid" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}" \
    "$server" >"$BROKER_DIR/out" 2>&1 &
  BROKER_PID=$!
  if ! broker_wait 127.0.0.1 "$port" 60; then
    broker_say "the node did not come up:"
    tail -n 20 "$BROKER_DIR/out" >&2
    broker_stop
    return 1
  fi
  AMQP_URL="amqp://guest:guest@127.0.0.1:$port/%2f"
}

# Waits until host $1, port $2 answers, at most $3 seconds.
broker_wait() {
  local until=$((SECONDS + $3))
  while [ "$SECONDS" -lt "$until" ]; do
    broker_answers "$1" "$2" && return 0
    [ -n "$BROKER_PID" ] && ! kill -0 "$BROKER_PID" 2>/dev/null && return 1
    sleep 0.2
  done
  return 1
}

broker_stop() {
  local pid
  if [ -n "$BROKER_CONTAINER" ]; then
    docker kill "$BROKER_CONTAINER" >/dev/null 2>&1
    BROKER_CONTAINER=""
  fi
  if [ -n "$BROKER_PID" ]; then
    # The node itself; the script that started it ends with it. Its epmd has no other node and goes too.
    pid=$(cat "$BROKER_DIR/pid" 2>/dev/null)
    kill "${pid:-$BROKER_PID}" "$BROKER_PID" 2>/dev/null
    wait "$BROKER_PID" 2>/dev/null
    BROKER_PID=""
  fi
  if [ -n "$BROKER_DIR" ]; then
    broker_end_epmd
    rm -rf "$BROKER_DIR"
    BROKER_DIR=""
  fi
}

# Ends the epmd that our node started, which is known by our folder in its environment.
broker_end_epmd() {
  local process
  for process in /proc/[0-9]*; do
    [ -r "$process/environ" ] || continue
    if grep -qa "HOME=$BROKER_DIR/home" "$process/environ" 2>/dev/null; then
      kill "${process#/proc/}" 2>/dev/null
    fi
  done
}
