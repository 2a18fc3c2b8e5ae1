#!/usr/bin/env bash
# The same notifications, judged by this gateway, by the official Node SDK and by python-alipay-sdk: a table of what each
# accepts. For development; needs python3 with venv, and Node.js with npm. The corpus is made anew, by a signer of its own.
#
#   tests/peers/run.sh [NOTIFICATIONS]          (default 600 authentic ones; seed 1)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
count=${1:-600}

work=$(mktemp -d "${TMPDIR:-/tmp}/gateway-peers.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "building" >&2
cargo build --release --locked --quiet
gateway="${CARGO_TARGET_DIR:-target}/release/alipay-notify-gateway"

echo "installing the peers" >&2
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check python-alipay-sdk==3.4.0 cryptography==50.0.2
npm install --prefix "$work" --silent --no-audit --no-fund alipay-sdk@4.14.0

echo "signing" >&2
"$work/venv/bin/python" tests/peers/corpus.py "$work" "$count"
cp tests/peers/theirs.mjs "$work/"

"$work/venv/bin/python" tests/peers/ours.py "$work" "$gateway" >"$work/ours.json"
"$work/venv/bin/python" tests/peers/theirs.py "$work" >"$work/python.json"
node "$work/theirs.mjs" "$work" V1 >"$work/node.json"
node "$work/theirs.mjs" "$work" V2 >"$work/node-v2.json"
"$work/venv/bin/python" tests/peers/table.py "$work"
