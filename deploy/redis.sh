#!/usr/bin/env bash
# Makes sure that a Redis is there, for the tests, on a machine that may have nothing but bash.
#
#   deploy/redis.sh start DIR [single|cluster|sentinel] [tls]   prints a URI of it; what was started is noted in DIR
#   deploy/redis.sh stop DIR                                    ends what is noted in DIR, and nothing else
#
# single    one node (the default)
# cluster   three masters without replicas
# sentinel  a master and a replica, watched by three sentinels that fail over within some seconds
# tls       speaks TLS alone, to each other too; DIR must have ca.pem, and redis.pem and redis.key for 127.0.0.1
#
# redis-server (or valkey-server) is looked for, or installed (as root, on Debian and Ubuntu, without starting the
# package's own service). The nodes are private: on free ports, in DIR, bound to 127.0.0.1, with an append-only file.
#
# Standard output has the URI and nothing else; what is being done is said on standard error.
set -euo pipefail

start() {
  mkdir -p "$1"
  dir=$(cd "$1" && pwd -P)
  server=$(find_server) || { install_server && server=$(find_server); } || {
    say "no redis-server, and no way to install one here"
    return 1
  }
  local scheme=redis
  if [ "$3" = tls ]; then
    scheme=rediss
    files=("tls-ca-cert-file $dir/ca.pem" "tls-cert-file $dir/redis.pem" "tls-key-file $dir/redis.key"
      'tls-auth-clients no' 'tls-replication yes' 'tls-cluster yes')
    asking=(--tls --cacert "$dir/ca.pem")
  fi
  # Bound: another can take a port between the looking and the listening, but hardly three times.
  local attempt
  for attempt in 1 2 3; do
    if "start_$2" "$scheme"; then return 0; fi
    say "it did not start (attempt $attempt of 3)"
    tail -n 5 "$dir"/node-*/log >&2 || true
    stop "$dir"
  done
  return 1
}

stop() {
  [ -d "$1" ] || return 0
  dir=$(cd "$1" && pwd -P)
  local pid_file
  for pid_file in "$dir"/node-*/pid; do
    end_process "$pid_file"
  done
  rm -rf "$dir"/node-*
}

start_single() {
  local port
  port=$(free_port)
  node "$port" && echo "$1://127.0.0.1:$port"
}

start_cluster() {
  local ports=() port
  for _ in 1 2 3; do
    port=$(free_port)
    # Its bus listens 10,000 above.
    ports+=("$port")
    node "$port" --cluster-enabled yes --cluster-config-file nodes.conf --cluster-node-timeout 2000 || return 1
  done
  say "a cluster of ${ports[*]}"
  ask --cluster create "${ports[@]/#/127.0.0.1:}" --cluster-yes >&2 || return 1
  wait_until 20 agree "${ports[@]}" || return 1
  echo "$1-cluster://127.0.0.1:${ports[0]},127.0.0.1:${ports[1]},127.0.0.1:${ports[2]}"
}

agree() {
  local port
  for port in "$@"; do
    ask -p "$port" cluster info | grep --quiet cluster_state:ok || return 1
  done
}

start_sentinel() {
  local master replica sentinels=() port
  master=$(free_port)
  node "$master" || return 1
  replica=$(free_port)
  node "$replica" --replicaof "127.0.0.1 $master" || return 1
  for _ in 1 2 3; do
    port=$(free_port)
    mkdir -p "$dir/node-$port"
    printf '%s\n' "$(port_of "$port")" ${files:+"${files[@]:0:5}"} 'bind 127.0.0.1' "dir $dir/node-$port" \
      "sentinel monitor gateway 127.0.0.1 $master 2" 'sentinel down-after-milliseconds gateway 1000' \
      'sentinel failover-timeout gateway 5000' >"$dir/node-$port/sentinel.conf"
    launch "$port" sentinel || return 1
    wait_until 10 answers "$port" || return 1
    sentinels+=("127.0.0.1:$port")
  done
  wait_until 20 knows_all "${sentinels[@]}" || return 1
  echo "$1-sentinel://$(IFS=, && echo "${sentinels[*]}")/gateway"
}

# Each sentinel knows the others and the replica: without them there is no fail-over.
knows_all() {
  local place
  for place in "$@"; do
    ask -p "${place##*:}" info sentinel | grep --quiet 'slaves=1,sentinels=3' || return 1
  done
}

# node PORT [OPTION...]
node() {
  local port=$1
  shift
  mkdir -p "$dir/node-$port"
  printf '%s\n' "$(port_of "$port")" ${files:+"${files[@]}"} >"$dir/node-$port/redis.conf"
  launch "$port" server "$@"
  wait_until 10 answers "$port"
}

port_of() {
  if [ -n "${files:-}" ]; then printf 'port 0\ntls-port %s' "$1"; else echo "port $1"; fi
}

launch() {
  local port=$1 kind=$2 home="$dir/node-$1"
  shift 2
  mkdir -p "$home"
  say "starting a private node on 127.0.0.1:$port"
  local command=("$server" "$home/redis.conf" --bind 127.0.0.1 --dir "$home" --appendonly yes --save '' --maxmemory-policy noeviction
    --enable-debug-command yes "$@")
  if [ "$kind" = sentinel ]; then command=("$server" "$home/sentinel.conf" --sentinel); fi
  # Nothing of the caller's, in a session of its own.
  setsid env -i "PATH=$PATH" "HOME=$home" LANG=C.UTF-8 "${command[@]}" >"$home/log" 2>&1 </dev/null &
  echo $! >"$home/pid"
}

answers() {
  [ "$(ask -p "$1" ping 2>/dev/null)" = PONG ]
}

ask() {
  "$(command -v redis-cli || command -v valkey-cli)" ${asking:+"${asking[@]}"} "$@"
}

find_server() {
  command -v redis-server || command -v valkey-server
}

install_server() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  say "no Redis is here: installing the distribution's redis-server, without starting its service."
  say "It is left behind; 'apt-get remove redis-server redis-tools' takes it away."
  (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
      trap 'rm -f $policy' EXIT
      printf '#!/bin/sh\nexit 101\n' >$policy
      chmod 755 $policy
    fi
    # RUNLEVEL is for what starts services without asking policy-rc.d.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    install=(apt-get install --yes --quiet --no-install-recommends -o DPkg::Lock::Timeout=300 redis-server)
    "${install[@]}" >&2 || { apt-get update --quiet >&2 && "${install[@]}" >&2; } || exit 1
    if [ -d /run/systemd/system ]; then systemctl disable --quiet redis-server >&2 || true; fi
  )
}

# Below the ports that the kernel hands out by itself, and where the bus of a cluster's node has one too.
free_port() {
  local port
  while port=$((20000 + RANDOM % 2000)); do
    if ! listens "$port" && ! listens $((port + 10000)); then
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

# Ends the process of a pid file, if it is still the one that was started: it works in our directory.
end_process() {
  [ -s "$1" ] || return 0
  local pid home
  pid=$(cat "$1") home=$(dirname "$1")
  if is_ours "$pid" "$home"; then
    # One that was stopped would not hear the first.
    kill -TERM "$pid" 2>/dev/null && kill -CONT "$pid" 2>/dev/null || true
    wait_until 5 has_ended "$pid" "$home" || kill -KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$1"
}

# Not by its environment: Redis writes the title of its process over it.
is_ours() {
  [ "$(readlink "/proc/$1/cwd")" = "$2" ]
}

has_ended() {
  ! is_ours "$@"
}

say() {
  echo "redis: $*" >&2
}

case "${1:-} ${2:-} ${3:-single} ${4:-plain}" in
"start "?*" single "* | "start "?*" cluster "* | "start "?*" sentinel "*) start "$2" "${3:-single}" "${4:-plain}" ;;
"stop "?*) stop "$2" ;;
*)
  sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
