#!/usr/bin/env bash
# What a notification costs with each store, and with how much in it: the gateway's CPU on SQLite and on Redis beside the
# floor (benches/floor.rs), in turn in one run, with the same signed bodies; its memory; what Redis itself takes. The records
# are of the same day as the notifications, and are put in by `store import` (of more than a million only the first thousand,
# because that takes an hour; the others are made of them where they are). Prints a line a round, the medians, and
# what a record takes.
#
#   benches/stores.sh                                       10,000 records
#   benches/stores.sh 0 10000 100000 1000000 10000000       a curve
#
# ROUNDS=3 COUNT=20000 CONNECTIONS=64; REDIS_OPTIONS="hash-max-listpack-value 256" for what else Redis is to be told. Its
# append-only file is on (synced each second) whenever something is measured. GATEWAY and FLOOR name programs that are built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

sizes=("${@:-10000}")
rounds=${ROUNDS:-3} count=${COUNT:-20000} connections=${CONNECTIONS:-64}

work=$(mktemp -d "${TMPDIR:-/tmp}/gateway-stores.XXXXXX")
pid=""
finish() {
  [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
  deploy/broker.sh stop "$work/broker"
  deploy/redis.sh stop "$work/redis"
  rm -rf "$work"
}
trap finish EXIT

say() { echo "stores: $*" >&2; }
free_port() { # that nobody listens on
  local port
  while port=$((20000 + RANDOM % 12000)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

source benches/programs.sh
build

amqp=$(env -u AMQP_URL deploy/broker.sh start "$work/broker")
redis=$(deploy/redis.sh start "$work/redis")
redis_pid=$(cat "$work"/redis/node-*/pid)
ask() { redis-cli -p "${redis##*:}" "$@"; }
read -ra options <<<"${REDIS_OPTIONS:-}"
[ ${#options[@]} = 0 ] || ask config set "${options[@]}" >/dev/null
"$gateway" simulate keys "$work" >/dev/null
grep -v -- '-----' "$work/alipay-public.pem" | base64 -d >"$work/alipay-public.der"
cp benches/gateway.toml "$work/"
export GATEWAY_AMQP__URI="$amqp"
exchange="gateway-bench"
on() { # ENGINE COMMAND...: with this store
  local engine=$1
  shift
  if [ "$engine" = redis ]; then
    GATEWAY_STORE__ENGINE=redis GATEWAY_STORE__URI="$redis" "$@"
  else
    GATEWAY_STORE__PATH="$work/gateway.db" "$@"
  fi
}

say "signing $((rounds * count)) notifications"
for round in $(seq "$rounds"); do
  "$gateway" simulate send --key "$work/alipay-private.pem" --count "$count" --bodies-out "$work/bodies-$round" >/dev/null
done
# SQLite's index is behind by 16,384 rows (`places.rs`): so many go before each measurement that it is written to meanwhile.
for round in $(seq "$rounds"); do
  "$gateway" simulate send --key "$work/alipay-private.pem" --count 18000 --bodies-out "$work/warm-$round" >/dev/null
done

# N records as `store export` writes them, in no order: `simulate` makes its trade numbers of the same parts.
records() {
  awk -v n="$1" -v date="$(TZ=Asia/Shanghai date +%Y%m%d)" -v at="$(date -u +%FT%TZ)" -v end="$(date -u -d '+35 days' +%FT%TZ)" '
    BEGIN {
      srand(1)
      printf "{\"format\":\"alipay-notify-gateway-store\",\"version\":1,\"at\":\"%s\"}\n", at
      digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b"
      for (i = 0; i < n; i++) {
        trade = sprintf("%s22001%02d%06d%07d", date, rand() * 100, rand() * 1000000, rand() * 10000000)
        printf "{\"subject\":\"%s\",\"id\":\"2021000000000001.%s.payment.succeeded\",\"state\":\"recorded\",", trade, trade
        printf "\"notify_id\":\"%s00222%06d%015d\",\"first_at\":\"%s\",\"at\":\"%s\",", date, rand() * 1000000, i, at, at
        printf "\"attempts\":1,\"event_type\":\"payment.succeeded\",\"digest\":\"%s%04x%04x\",", digest, rand() * 65536, rand() * 65536
        printf "\"expires_at\":\"%s\"}\n", end
      }
      printf "{\"entries\":%d}\n", n
    }'
}
multiply() { # N: as many, in both
  # A step that is no part of the whole spreads them over the day, in no order.
  sqlite3 "$work/gateway.db" >/dev/null <<SQL
PRAGMA journal_mode = off; PRAGMA synchronous = off; PRAGMA cache_size = -2000000;
INSERT INTO event (subject, id, state, digest, notify_id, type, first_at, at, attempts, expires_at)
SELECT trade, '2021000000000001.' || trade || '.payment.succeeded', 0, randomblob(32), notify_id, type, first_at, at, 1, expires_at
FROM (SELECT format('%s22001%015d', substr(subject, 1, 8), value * 618033988749 % 999999999989 * 1000) AS trade, notify_id, type,
  first_at, at, expires_at FROM generate_series(1, $1), (SELECT * FROM event LIMIT 1));
PRAGMA journal_mode = wal;
SQL
  local model chunk
  model=$(ask --scan --pattern '*:t:*' | sed -n 1p)
  for chunk in $(seq $(($1 / 50000))); do
    ask eval '
      math.randomseed(ARGV[1])
      local row = redis.call("HVALS", KEYS[1])[1]
      for _ = 1, 50000 do
        local trade = ARGV[2] .. string.format("22001%02d%06d%07d", math.random(0, 99), math.random(0, 999999), math.random(0, 9999999))
        local key = string.format("alipay:{%02x}:t:", math.random(0, 255)) .. trade
        redis.call("HSET", key, "2021000000000001." .. trade .. ".payment.succeeded", row)
        redis.call("PEXPIRE", key, 3024000000)
      end' 1 "$model" "$chunk" "$(date +%Y%m%d)" >/dev/null
  done
}
memory() { ask info memory | sed -n 's/^used_memory:\([0-9]*\).*/\1/p'; }
fill() { # with what is in the file, and nothing else
  rm -f "$work"/gateway.db*
  ask config set appendonly no >/dev/null
  ask flushall >/dev/null
  empty=$(memory)
  for engine in sqlite redis; do
    on "$engine" "$gateway" store import --config "$work/gateway.toml" "$work/records" >/dev/null
  done
  if [ "$size" -gt 1000000 ]; then
    multiply "$size"
    # SQLite's index is made by the first that opens the file.
    start sqlite
    stop
  fi
  used=$(memory)
  # It is written anew as a whole.
  ask config set appendonly yes >/dev/null
  while ask info persistence | grep -qE '^aof_rewrite_(in_progress|scheduled):1'; do sleep 0.5; done
}

# User and system time of a process, all its threads, in hundredths of a second.
cpu() { local stat; stat=$(cat "/proc/$1/stat"); set -- ${stat##*) }; echo $((${12} + ${13})); }
start() { # WHAT: sets pid and port
  port=$(free_port)
  local admin
  admin=$(free_port)
  if [ "$1" = floor ]; then
    "$floor" "127.0.0.1:$port" "$work/alipay-public.der" "$amqp" "$exchange" >"$work/floor.log" 2>&1 &
    pid=$!
    until (exec 9<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.1; done
    return
  fi
  export GATEWAY_HTTP__LISTEN="127.0.0.1:$port" GATEWAY_ADMIN__LISTEN="127.0.0.1:$admin"
  on "$1" exec "$gateway" serve --config "$work/gateway.toml" >"$work/$1.log" 2>&1 &
  pid=$!
  until "$gateway" healthcheck --admin "http://127.0.0.1:$admin" 2>/dev/null; do sleep 0.1; done
  until grep -q 'connected to the broker' "$work/$1.log"; do sleep 0.1; done
}
stop() {
  kill "$pid"
  wait "$pid" 2>/dev/null || true
  pid=""
}
send() { # BODIES
  "$gateway" simulate send --url "http://127.0.0.1:$port/alipay/notify" --key "$work/alipay-private.pem" --bodies "$work/$1" \
    --presign --concurrency "$connections" --format json
}
measure() { # WHAT ROUND: sets us (hundredths), redis_us, rate and mib
  local before redis_before summary
  start "$1"
  send "warm-$2" >/dev/null
  deploy/broker.sh ctl "$work/broker" purge_queue "$exchange" >/dev/null
  before=$(cpu "$pid") redis_before=$(cpu "$redis_pid")
  summary=$(send "bodies-$2") ||
    { say "not as promised: $summary"; tail -n 5 "$work/$1.log" >&2; exit 1; }
  us=$((($(cpu "$pid") - before) * 1000000 / count)) redis_us=$((($(cpu "$redis_pid") - redis_before) * 1000000 / count))
  rate=${summary#*\"per_second\":} rate=${rate%%[.,]*}
  mib=$(($(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$pid/status") / 1024))
  stop
  deploy/broker.sh ctl "$work/broker" purge_queue "$exchange" >/dev/null
}

hundredths() { printf '%d.%02d' $(($1 / 100)) $(($1 % 100)); }
median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }
# The exchange and the queue are the gateway's to make, and the floor's to find.
start sqlite
stop
row='%-9s %-7s %9s %9s %9s %8s %8s %10s %9s %9s %9s\n'
# shellcheck disable=SC2059
printf "$row" records round 'floor us' 'sqlite us' 'redis us' sqlite/f redis/f 'Redis us' 'sqlite/s' 'redis/s' MiB
for size in "${sizes[@]}"; do
  say "$size records"
  records $((size > 1000000 ? 1000 : size)) >"$work/records"
  sqlite_ratios=() redis_ratios=() theirs=()
  for round in $(seq "$rounds"); do
    # What a round adds is little beside a million.
    if [ "$round" = 1 ] || [ "$size" -le 100000 ]; then fill; fi
    if [ "$round" = 1 ]; then file=$(stat -c %s "$work/gateway.db") bytes=$((used - empty)); fi
    measure floor "$round"
    floor_us=$us
    measure sqlite "$round"
    sqlite_us=$us sqlite_rate=$rate sqlite_mib=$mib
    measure redis "$round"
    sqlite_ratios+=($((sqlite_us * 100 / floor_us))) redis_ratios+=($((us * 100 / floor_us))) theirs+=("$redis_us")
    # shellcheck disable=SC2059
    printf "$row" "$size" "$round" "$(hundredths "$floor_us")" "$(hundredths "$sqlite_us")" "$(hundredths "$us")" \
      "$(hundredths "${sqlite_ratios[-1]}")" "$(hundredths "${redis_ratios[-1]}")" "$(hundredths "$redis_us")" \
      "$sqlite_rate" "$rate" "$sqlite_mib/$mib"
  done
  # shellcheck disable=SC2059
  printf "$row" "$size" median '' '' '' "$(hundredths "$(median "${sqlite_ratios[@]}")")" \
    "$(hundredths "$(median "${redis_ratios[@]}")")" "$(hundredths "$(median "${theirs[@]}")")" '' '' ''
  [ "$size" = 0 ] || echo "a record: $((bytes / size)) bytes in Redis' memory, $((file / size)) in SQLite's file"
done
echo "$connections connections, $count notifications, $(uname -m), $(nproc) cores, Redis $(ask info server | sed -n 's/^redis_version:\([0-9.]*\).*/\1/p')"
