#!/usr/bin/env bash
# Makes sure that a RabbitMQ is there, for the demo and the tests, on a machine that may have nothing but bash.
#
#   deploy/broker.sh start DIR   prints an AMQP URI; what it had to start is noted in DIR
#   deploy/broker.sh stop DIR    ends what is noted in DIR, and nothing else
#   deploy/broker.sh ctl DIR …   rabbitmqctl, for the private node that was started for DIR (4 below)
#
# The first of these that holds:
#   1. AMQP_URL is set: it is used as it is.
#   2. A broker answers AMQP on localhost:5672 and lets guest in: it is used as it is.
#   3. A Docker engine runs: a container, on a free port.
#   4. rabbitmq-server is installed, or can be (as root, on Debian and Ubuntu): a private node, on free ports, under
#      its own name, cookie, epmd and directory, bound to 127.0.0.1. The package's own service is not started.
#
# Standard output has the URI and nothing else; what is being done is said on standard error.
set -euo pipefail

start() {
  mkdir -p "$1"
  dir=$(cd "$1" && pwd)
  if [ -n "${AMQP_URL:-}" ]; then
    say "using the broker of AMQP_URL"
    echo "$AMQP_URL"
  elif lets_guest_in 5672; then
    say "using the broker on localhost:5672"
    uri 5672
  elif start_container || start_node; then
    uri "$(cat "$dir/broker.port")"
  else
    stop "$dir"
    say "no RabbitMQ, and no way to start one here: set AMQP_URL, start a Docker engine, or install rabbitmq-server"
    return 1
  fi
}

stop() {
  [ -d "$1" ] || return 0
  dir=$(cd "$1" && pwd)
  if [ -s "$dir/broker.container" ]; then
    docker rm --force "$(cat "$dir/broker.container")" >/dev/null || true
  fi
  # The node before its epmd: it says goodbye to it.
  end_process "$dir/node.pid"
  end_process "$dir/epmd.pid"
  rm -rf "$dir/node" "$dir/broker.container" "$dir/broker.port"
}

ctl() {
  dir=$(cd "$1" && pwd)
  shift
  if ! [ -s "$dir/node.pid" ] || ! is_ours "$(cat "$dir/node.pid")"; then
    say "no node of ours runs for $dir"
    return 1
  fi
  local server epmd
  server=$(find_server)
  # The last word of its command line.
  epmd=$(tr '\0' '\n' <"/proc/$(cat "$dir/epmd.pid")/cmdline" | tail -n 1)
  env -i "PATH=$PATH:/usr/lib/erlang/bin" "HOME=$dir/node/home" LANG=C.UTF-8 "ERL_EPMD_PORT=$epmd" \
    ERL_EPMD_ADDRESS=127.0.0.1 "RABBITMQ_NODENAME=gateway-$(cat "$dir/broker.port")@localhost" \
    "$(dirname "$server")/rabbitmqctl" --quiet "$@"
}

start_container() {
  command -v docker >/dev/null && docker info >/dev/null 2>&1 || return 1
  say "starting RabbitMQ in a container ($IMAGE)"
  local port
  if docker run --detach --rm --publish 127.0.0.1::5672 "$IMAGE" >"$dir/broker.container" &&
    port=$(docker port "$(cat "$dir/broker.container")" 5672/tcp) && port=${port%%$'\n'*} && port=${port##*:} &&
    echo "$port" >"$dir/broker.port" && wait_for_guest "$port"; then
    return 0
  fi
  say "the container did not start"
  stop "$dir"
  return 1
}

start_node() {
  local server attempt
  server=$(find_server) || { install_server && server=$(find_server); } || return 1
  # Bound: another can take a port between the looking and the listening, but hardly three times.
  for attempt in 1 2 3; do
    if try_node "$server"; then return 0; fi
    say "the node did not start (attempt $attempt of 3):"
    tail -n 20 "$dir"/node/*.output >&2 || true
    stop "$dir"
  done
  return 1
}

# Debian's package puts a wrapper into the path that must be root or rabbitmq; the server behind it need not.
find_server() {
  local candidate
  for candidate in /usr/lib/rabbitmq/bin/rabbitmq-server "$(command -v rabbitmq-server || true)"; do
    if [ -x "$candidate" ]; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

install_server() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  say "no RabbitMQ is here: installing the distribution's rabbitmq-server, without starting its service."
  say "It is the one thing that is left behind; 'apt-get remove rabbitmq-server' takes it away."
  (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
      trap 'rm -f $policy' EXIT
      printf '#!/bin/sh\nexit 101\n' >$policy
      chmod 755 $policy
    elif ! denies $policy; then
      say "$policy, which is not ours, would let the service start: please install rabbitmq-server yourself"
      exit 1
    fi
    # RUNLEVEL is for what starts services without asking policy-rc.d.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    install=(apt-get install --yes --quiet --no-install-recommends -o DPkg::Lock::Timeout=300 rabbitmq-server)
    "${install[@]}" >&2 || { apt-get update --quiet >&2 && "${install[@]}" >&2; } || exit 1
    # Nor does the next boot start a broker that nobody asked for.
    if [ -d /run/systemd/system ]; then systemctl disable --quiet rabbitmq-server >&2 || true; fi
  )
}

denies() {
  local code=0
  "$1" rabbitmq-server start >/dev/null 2>&1 || code=$?
  [ $code = 101 ]
}

try_node() {
  local server=$1 node="$dir/node" port dist epmd files
  mkdir -p "$node/home" "$node/log"
  chmod 700 "$node"
  port=$(free_port) dist=$(free_port) epmd=$(free_port)
  head -c 30 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$node/home/.erlang.cookie"
  chmod 400 "$node/home/.erlang.cookie"
  echo '[].' >"$node/enabled_plugins"
  printf '%s\n' "listeners.tcp.1 = 127.0.0.1:$port" 'disk_free_limit.absolute = 50MB' >"$node/rabbitmq.conf"
  say "starting a private RabbitMQ node on 127.0.0.1:$port"
  # Erlang makes a table of that many entries at its start, and some containers allow a thousand million.
  files=$(ulimit -n)
  if [ "$files" = unlimited ] || [ "$files" -gt 65536 ]; then ulimit -n 65536; fi
  # Nothing of the caller's: no RABBITMQ_ or ERL_ variable, and a home, so a cookie, of its own. In a session of its
  # own, so that Ctrl-C at the demo does not take the broker away before the gateway has stopped.
  # And in its own folder, where Erlang leaves what it has to say when it dies.
  local alone=(setsid env --chdir="$node" -i "PATH=$PATH:/usr/lib/erlang/bin" "HOME=$node/home" LANG=C.UTF-8
    "ERL_EPMD_PORT=$epmd" ERL_EPMD_ADDRESS=127.0.0.1)
  "${alone[@]}" epmd -port "$epmd" >"$node/epmd.output" 2>&1 </dev/null &
  echo $! >"$dir/epmd.pid"
  # If it were not there yet, Erlang would start one that nobody ends.
  wait_until 10 listens "$epmd" || return 1
  # "Under systemd" means: do not fork, so that the pid is the node's own.
  "${alone[@]}" RUNNING_UNDER_SYSTEMD=true \
    RABBITMQ_CONF_ENV_FILE=/dev/null "RABBITMQ_CONFIG_FILE=$node/rabbitmq.conf" \
    "RABBITMQ_ADVANCED_CONFIG_FILE=$node/advanced.config" "RABBITMQ_GENERATED_CONFIG_DIR=$node/generated" \
    "RABBITMQ_ENABLED_PLUGINS_FILE=$node/enabled_plugins" "RABBITMQ_PID_FILE=$node/rabbit.pid" \
    "RABBITMQ_NODENAME=gateway-$port@localhost" "RABBITMQ_DIST_PORT=$dist" \
    "RABBITMQ_MNESIA_BASE=$node/mnesia" "RABBITMQ_LOG_BASE=$node/log" \
    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+sbwt none -kernel inet_dist_use_interface {127,0,0,1}" \
    "$server" >"$node/node.output" 2>&1 </dev/null &
  echo $! >"$dir/node.pid"
  echo "$port" >"$dir/broker.port"
  wait_for_guest "$port" "$dir/node.pid"
}

# Waits for a broker to come up; gives up at once when the process of the pid file has ended.
wait_for_guest() {
  local port=$1 pid_file=${2:-} tries
  # Bound: 180 s. A node needs 3 to 10, a container on a slow machine 30; on one with a load of 20 a node needs 100.
  for ((tries = 0; tries < 600; tries++)); do
    if lets_guest_in "$port"; then return 0; fi
    if [ -n "$pid_file" ] && ! kill -0 "$(cat "$pid_file")" 2>/dev/null; then return 1; fi
    sleep 0.3
  done
  return 1
}

# The first half of an AMQP handshake, by hand: Start, StartOk for guest/guest, and Tune if that was right.
lets_guest_in() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf 'AMQP\0\0\011\001' >&3
    [ "$(method)" = 000a000a ] || exit 1
    printf '\001\0\0\0\0\0\044\0\012\0\013\0\0\0\0\005PLAIN\0\0\0\014\0guest\0guest\005en_US\316' >&3
    [ "$(method)" = 000a001e ]
  ) 2>/dev/null
}

# Reads one frame from descriptor 3 and gives its class and method in hex.
method() {
  local head payload
  head=$(hex 7)
  [ "${#head}" = 14 ] || return 1
  payload=$(hex $((16#${head:6} + 1)))
  echo "${payload:0:8}"
}

# Bound: whatever listens there has 5 s to say what a broker says at once.
hex() {
  timeout 5 head -c "$1" <&3 | od -An -v -tx1 | tr -d ' \n'
}

# Below the ports that the kernel hands out by itself.
free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); do
    if ! listens "$port"; then
      echo "$port"
      return 0
    fi
  done
}

listens() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# wait_until SECONDS COMMAND...
wait_until() {
  local tries=$(($1 * 10))
  shift
  while ! "$@"; do
    if ((tries-- <= 0)); then return 1; fi
    sleep 0.1
  done
}

# Ends the process of a pid file, if it is still the one that was started: its environment names our directory.
end_process() {
  [ -s "$1" ] || return 0
  local pid
  pid=$(cat "$1")
  if is_ours "$pid"; then
    kill -TERM "$pid" 2>/dev/null || true
    wait_until 20 has_ended "$pid" || kill -KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$1"
}

is_ours() {
  grep --quiet --fixed-strings --null-data "HOME=$dir/node/home" "/proc/$1/environ" 2>/dev/null
}

has_ended() {
  ! is_ours "$1"
}

uri() {
  echo "amqp://guest:guest@127.0.0.1:$1/%2f"
}

say() {
  echo "broker: $*" >&2
}

IMAGE=rabbitmq:4

case "${1:-} ${2:-}" in
"start "?*) start "$2" ;;
"stop "?*) stop "$2" ;;
"ctl "?*) ctl "${@:2}" ;;
*)
  sed -n '2,17s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
