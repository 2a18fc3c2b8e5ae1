#!/usr/bin/env bash
# The alerts and the dashboard, as tests/operations.sh runs them: the rules by promtool, and both on a live Prometheus that
# watches a real gateway with a real broker. It can be run alone, too: tests/operations/alerts.sh [FOLDER]

rules_hold() {
  need promtool
  promtool check rules --lint=all --lint-fatal deploy/prometheus/alipay-notify-gateway.rules.yml
  # Slow ones are two weeks long: a minute and more.
  promtool test rules deploy/prometheus/tests/*.test.yml
}

# The alerts fire for real and end, with the commands of their sections of the runbook; the dashboard has no empty panel.
alerts_fire() {
  need promtool prometheus python3 curl openssl
  local program
  program=$(gateway)
  [ -n "$program" ] || skip "no gateway is built"
  python3 tests/operations/alerts_live.py --gateway "$program" --work "$work/alerts"
}

if [ "${BASH_SOURCE[0]}" != "$0" ]; then
  check rules_hold
  check alerts_fire
else
  set -euo pipefail
  cd "$(dirname "$0")/../.."
  need() { local tool; for tool in "$@"; do command -v "$tool" >/dev/null || { echo "there is no $tool here" >&2; exit 77; }; done; }
  skip() { echo "$*" >&2; exit 77; }
  gateway() { ls -t "${GATEWAY:-/none}" "${CARGO_TARGET_DIR:-target}"/{release,debug}/alipay-notify-gateway 2>/dev/null | head -n 1; }
  work=${1:-$(mktemp -d "${TMPDIR:-/tmp}/gateway-alerts.XXXXXX")}
  rules_hold
  alerts_fire
fi
