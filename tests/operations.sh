#!/usr/bin/env bash
# What operators get, tried: image, chart, compose, systemd unit; and the tutorial's desk, tried as a new user would. Each check says what it did, or why it could not.
#
#   ./tests/operations.sh                  all of them
#   ./tests/operations.sh chart image_runs those whose name begins so
#
# The program is $GATEWAY, or what cargo builds, with what the image has. Tools are taken from the path: helm (3 or 4; a second
# one as helm3), trivy, podman and buildah (or $PODMAN and $BUILDAH, with their options), prometheus and promtool, systemd and
# systemd-analyze, strace, openssl, curl, a RabbitMQ (deploy/broker.sh), a Redis (deploy/redis.sh). What is a Python package is
# installed into a folder of its own under ${XDG_CACHE_HOME:-~/.cache}. What is missing is a skip, with its reason, never a
# success; OPERATIONS_STRICT=1 makes a skip a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d "${TMPDIR:-/tmp}/gateway-operations.XXXXXX")
failed=() skipped=() passed=()
checks=()

# Each part registers its checks: "check NAME" for a function of this name.
check() {
  checks+=("$1")
}

# Leaves a check, with a reason.
skip() {
  echo "   skip: $*"
  exit 77
}

say() {
  echo "   $*"
}

# need TOOL...: or skip.
need() {
  local tool
  for tool in "$@"; do
    command -v "${tool%% *}" >/dev/null || skip "there is no $tool here"
  done
}

# wait_until SECONDS COMMAND...: or fail.
wait_until() {
  local tries=$(($1 * 5))
  shift
  while ! "$@" >/dev/null 2>&1; do
    if ((tries-- <= 0)); then
      echo "waited in vain for: $*" >&2
      return 1
    fi
    sleep 0.2
  done
}

free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

# python_tools PACKAGE...: puts them, and PyYAML, on the path.
python_tools() {
  local venv="${XDG_CACHE_HOME:-$HOME/.cache}/alipay-notify-gateway-operations"
  need python3
  if [ ! -x "$venv/bin/python3" ]; then
    python3 -m venv "$venv" >/dev/null 2>&1 || skip "python3 cannot make a venv here"
  fi
  "$venv/bin/pip" install --quiet --disable-pip-version-check pyyaml "$@" >"$work/pip.log" 2>&1 ||
    skip "pip cannot install $*: $(tail -n 1 "$work/pip.log")"
  PATH="$venv/bin:$PATH"
}

# The program: $GATEWAY, else what cargo makes of this checkout, else what it made some time ago.
gateway() {
  local folder="${CARGO_TARGET_DIR:-target}" built
  if [ -n "${GATEWAY:-}" ]; then
    echo "$GATEWAY"
    return
  fi
  if command -v cargo >/dev/null; then
    cargo build --locked --quiet --features otlp >"$work/cargo.log" 2>&1 || { tail -n 20 "$work/cargo.log" >&2; return 1; }
    realpath "$folder/debug/alipay-notify-gateway"
    return
  fi
  built=$(ls -t "$folder"/{release,debug}/alipay-notify-gateway 2>/dev/null || true)
  if [ -n "$built" ]; then realpath "${built%%$'\n'*}"; fi
}

# A broker for all checks of this run, started when the first needs it.
broker() {
  (
    flock 9
    [ -s "$work/broker.uri" ] || deploy/broker.sh start "$work/broker" >"$work/broker.uri" 9>&-
  ) 9>"$work/broker.lock" || return 1
  cat "$work/broker.uri"
}

finish() {
  local endings=("$work"/ending.*) at
  # The last first, as with everything that stands on something else.
  for ((at = ${#endings[@]} - 1; at >= 0; at--)); do
    if [ -e "${endings[at]}" ]; then bash "${endings[at]}" >/dev/null 2>&1 || true; fi
  done
  deploy/broker.sh stop "$work/broker" || true
  rm -rf "$work"
}
trap finish EXIT

# at_end COMMAND...: run when everything is over, however it ends. Checks run in shells of their own, hence the files.
at_end() {
  local all
  all=$(compgen -G "$work/ending.*" | wc -l) || true # None is no failure.
  printf '%q ' "$@" >"$work/ending.$(printf '%04d' "$all")"
}

# end_at_end PID: if it is still the process that was started, which has our folder among its arguments.
end_at_end() {
  # shellcheck disable=SC2016
  at_end bash -c 'grep --quiet --text --fixed-strings "$1" "/proc/$0/cmdline" && kill "$0"' "$1" "$work"
}

for part in tests/operations/*.sh; do
  # shellcheck source=/dev/null
  . "$part"
done

is_wanted() {
  local name=$1 wanted
  shift
  [ $# = 0 ] && return 0
  for wanted in "$@"; do
    case $name in "$wanted"*) return 0 ;; esac
  done
  return 1
}

# A name with a typing error would be a success that tried nothing.
for wanted in "$@"; do
  begun=0
  for name in "${checks[@]}"; do
    if is_wanted "$name" "$wanted"; then begun=1; fi
  done
  if [ $begun = 0 ]; then
    echo "no check begins with '$wanted'; there are: ${checks[*]}" >&2
    exit 2
  fi
done

for name in "${checks[@]}"; do
  is_wanted "$name" "$@" || continue
  echo "== $name"
  status=0
  # Not in a condition: errexit would be off in it.
  set +e
  (set -euo pipefail; "$name")
  status=$?
  set -e
  case $status in
    0) passed+=("$name") ;;
    77) skipped+=("$name") ;;
    *) failed+=("$name"); echo "   FAILED ($status)" ;;
  esac
done

echo
echo "passed ${#passed[@]}, skipped ${#skipped[@]}: ${skipped[*]:-none}, failed ${#failed[@]}: ${failed[*]:-none}"
[ ${#failed[@]} = 0 ] || exit 1
[ -z "${OPERATIONS_STRICT:-}" ] || [ ${#skipped[@]} = 0 ]
