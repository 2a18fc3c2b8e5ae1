# The unit under a real systemd: one that is PID 1 of a container of namespaces, on a copy-on-write view of this machine, with
# this machine's network. Nothing of the machine itself is changed. Read by tests/operations.sh.
# shellcheck shell=bash disable=SC2154

check unit_runs_under_systemd
unit_runs_under_systemd() {
  need systemctl unshare nsenter curl
  [ -x /usr/lib/systemd/systemd ] || skip "there is no systemd here"
  [ "$(id -u)" = 0 ] || skip "namespaces with a systemd in them need root"
  local gateway folder="$work/systemd" http admin exchange="gateway-demo-systemd-$$"
  gateway=$(gateway)
  [ -n "$gateway" ] || skip "the program is not built: cargo build"
  mkdir -p "$folder/mount" "$folder/etc"
  broker >"$folder/etc/amqp-uri"
  http=$(free_port) admin=$(free_port)
  "$gateway" simulate keys "$folder/etc/keys" >/dev/null
  configure_gateway "$folder/etc" "$http" "$admin" "$exchange"
  install_unit "$folder" "$gateway"
  boot_systemd "$folder"
  # It is started when it has said so, and not before: then it listens.
  in_systemd systemctl start alipay-notify-gateway || { cat "$folder/console"; in_systemd systemctl status --no-pager alipay-notify-gateway || true; in_systemd cat /var/log/trial.log; return 1; }
  "$gateway" healthcheck --admin "http://127.0.0.1:$admin"
  is_unit Type notify
  is_unit ActiveState active
  local pid
  pid=$(unit_says MainPID)
  # Nobody in particular, who could not read the password's own file; no capability; a filter of system calls.
  [ "$(in_systemd stat -c %u "/proc/$pid")" != 0 ]
  [ "$(in_systemd stat -c %a /etc/alipay-notify-gateway/amqp-uri)" = 400 ]
  [ "$(in_systemd sed -nE 's/^CapEff:\s*//p' "/proc/$pid/status")" = 0000000000000000 ]
  [ "$(in_systemd sed -nE 's/^Seccomp:\s*//p' "/proc/$pid/status")" = 2 ]
  local story=("$gateway" simulate story --url "http://127.0.0.1:$http/alipay/notify" --amqp-file "$folder/etc/amqp-uri"
    --exchange "$exchange")
  "${story[@]}" --key "$folder/etc/keys/alipay-private.pem" >"$folder/story" || { cat "$folder/story"; return 1; }
  say "Type=notify, user $(in_systemd stat -c %U "/proc/$pid"), credentials, no capability: $(grep -c '^  trade ' "$folder/story") trades of a story announced"

  # A new key, and a reload: the same process believes it.
  "$gateway" simulate keys "$folder/next" >/dev/null
  in_systemd tee /etc/alipay-notify-gateway/keys/alipay-public.pem <"$folder/next/alipay-public.pem" >/dev/null
  in_systemd systemctl reload alipay-notify-gateway
  wait_until 20 grep_metric "$admin" 'alipay_gateway_policy_reloads_total{result="applied"} [1-9]'
  "${story[@]}" --key "$folder/next/alipay-private.pem" --delete-exchange >"$folder/story" || { cat "$folder/story"; return 1; }
  is_unit MainPID "$pid"
  # It dies: another is started. It hangs: the watchdog sees to that.
  in_systemd kill -9 "$pid"
  wait_until 30 is_started_again "$pid"
  pid=$(unit_says MainPID)
  in_systemd kill -STOP "$pid"
  wait_until 60 is_started_again "$pid"
  is_unit NRestarts 2
  # It is told to end: it ends well. A wrong configuration: it is left alone.
  in_systemd systemctl stop alipay-notify-gateway
  is_unit Result success
  is_unit ExecMainStatus 0
  in_systemd sh -c 'echo nonsense = 1 >>/etc/alipay-notify-gateway/gateway.toml'
  ! in_systemd systemctl start alipay-notify-gateway 2>/dev/null || { echo "a wrong configuration starts" >&2; return 1; }
  is_unit ExecMainStatus 78
  is_unit ActiveState failed
  is_unit NRestarts 0
  say "a key exchanged by reload; started again after a kill and by the watchdog; stopped with 0; 78 is not tried again"
}

# As docs/deployment.md has it, in files that the container's view of the machine gets on top.
install_unit() {
  local files="$1/files" unit
  install -D -m 0755 "$2" "$files/usr/bin/alipay-notify-gateway"
  install -D -m 0644 deploy/systemd/alipay-notify-gateway.service "$files/usr/lib/systemd/system/alipay-notify-gateway.service"
  install -D -m 0644 "$1/etc/gateway.toml" "$files/etc/alipay-notify-gateway/gateway.toml"
  install -D -m 0644 "$1/etc/keys/alipay-public.pem" "$files/etc/alipay-notify-gateway/keys/alipay-public.pem"
  install -D -m 0400 "$1/etc/amqp-uri" "$files/etc/alipay-notify-gateway/amqp-uri"
  # There is no journal, and half a minute is long.
  mkdir -p "$files/etc/systemd/system/alipay-notify-gateway.service.d" "$files/var/log"
  cat >"$files/etc/systemd/system/alipay-notify-gateway.service.d/trial.conf" <<'UNIT'
[Service]
StandardOutput=append:/var/log/trial.log
StandardError=append:/var/log/trial.log
WatchdogSec=10
UNIT
  # Nothing of this machine is started in it.
  echo '[Unit]' >"$files/etc/systemd/system/trial.target"
  for unit in sysinit.target network-online.target; do
    printf '[Unit]\nDefaultDependencies=no\n' >"$files/etc/systemd/system/$unit"
  done
}

boot_systemd() {
  local pid name="gateway-operations-$$"
  at_end bash tests/operations/systemd.sh leave_groups "$name"
  # Bound: it ends with the check, and after five minutes in any case.
  (enter_groups "$name" && exec timeout --signal KILL 300 unshare --mount --pid --fork --uts --ipc --cgroup --kill-child \
    bash tests/operations/systemd.sh boot "$1") >"$1/unshare" 2>&1 &
  pid=$!
  at_end bash -c 'kill -9 $(pgrep --parent "$0") "$0"' "$pid"
  wait_until 20 systemd_is_up "$pid" || { cat "$1/unshare" "$1/console"; skip "a systemd cannot be started in namespaces here"; }
  systemd_pid=$(pgrep --parent "$(pgrep --parent "$pid")")
}

# Control groups of its own, so that nothing is left in those of this machine.
enter_groups() {
  local hierarchy
  for hierarchy in $(hierarchies); do
    if mkdir "$hierarchy/$1" 2>/dev/null; then echo "$BASHPID" >"$hierarchy/$1/cgroup.procs" 2>/dev/null || true; fi
  done
}

leave_groups() {
  local hierarchy tries
  for hierarchy in $(hierarchies); do
    # Until the kernel has buried the last of its processes.
    for ((tries = 0; tries < 50; tries++)); do
      find "$hierarchy/$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [ -d "$hierarchy/$1" ] || break
      sleep 0.2
    done
  done
}

hierarchies() {
  awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts
}

systemd_is_up() {
  systemd_pid=$(pgrep --parent "$(pgrep --parent "$1")") && in_systemd systemctl is-active trial.target
}

in_systemd() {
  nsenter --target "$systemd_pid" --mount --pid --uts --ipc --cgroup "$@"
}

unit_says() {
  in_systemd systemctl show --property "$1" --value alipay-notify-gateway
}

is_unit() {
  local value
  value=$(unit_says "$1")
  [ "$value" = "$2" ] || { echo "the unit's $1 is $value, not $2" >&2; return 1; }
}

is_started_again() {
  local pid
  pid=$(unit_says MainPID)
  [ "$pid" != "$1" ] && [ "$pid" != 0 ] && is_unit ActiveState active
}

# Inside: a view of this machine's files, whose changes go into memory, and systemd in it.
boot() {
  local root="$1/mount/root" node
  mount --make-rprivate /
  mount -t tmpfs tmpfs "$1/mount"
  mkdir "$1"/mount/{upper,work,root}
  mount -t overlay overlay -o "lowerdir=/,upperdir=$1/mount/upper,workdir=$1/mount/work" "$root"
  cp --recursive --preserve=mode "$1/files/." "$root/"
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
  mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  : >"$1/console"
  for node in null zero full random urandom tty console; do
    : >"$root/dev/$node"
    mount --bind "$([ $node = console ] && echo "$1/console" || echo "/dev/$node")" "$root/dev/$node"
  done
  mkdir "$root"/dev/{shm,pts} "$root/old"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  cd "$root"
  pivot_root . old
  umount --lazy old
  # In a container systemd leaves this to whoever makes it; credentials come through it.
  mount --make-rshared /
  exec env -i container=operations PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/systemd/systemd --unit=trial.target
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  "$@"
fi
