#!/usr/bin/env bash
# The consumers of docs/consuming.md on real events: Python, Node and Rust are run (tests/it/consumers.rs), the syntax of
# Java and Go is looked at, and the AsyncAPI document is given to its own parser, the schemas and golden messages to ajv.
# What cannot be had is skipped, with the reason printed; with STRICT=1 only what needs a tool that is not installed here.
# Installs into a folder of its own and leaves nothing behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
work=$(mktemp -d "${TMPDIR:-/tmp}/gateway-consumers.XXXXXX")
trap 'deploy/broker.sh stop "$work/broker"; rm -rf "$work"' EXIT
skip() { echo "skipped: $*"; }
# The tool is there, and what it should bring is not.
lacks() {
  skip "$*"
  [ "${STRICT:-}" != 1 ] || exit 1
}
languages=(rust)

if ! command -v python3 >/dev/null; then
  skip "Python's consumer: there is no python3"
elif python3 -m venv "$work/venv" 2>"$work/log" && "$work/venv/bin/pip" install --quiet 'pika==1.4.4' 2>>"$work/log"; then
  export CONSUMER_PYTHON="$work/venv/bin/python $root/examples/consumer.py"
  languages+=(python)
else
  lacks "Python's consumer: no venv, or no pika: $(tail -n 1 "$work/log")"
fi

if command -v npm >/dev/null; then
  cp examples/consumer.mjs "$work/"
  # better-sqlite3 is compiled where no binary of it can be had.
  if timeout 900 npm install --prefix "$work" --no-audit --no-fund --silent amqplib@2.3.1 better-sqlite3@12.6.2 >"$work/log" 2>&1; then
    export CONSUMER_NODE="node $work/consumer.mjs"
    languages+=(node)
  else
    lacks "Node's consumer: amqplib or better-sqlite3 could not be installed: $(tail -n 1 "$work/log")"
  fi
  mkdir "$work/contract"
  if timeout 300 npm install --prefix "$work/contract" --no-audit --no-fund --silent \
    @asyncapi/parser@3.6.6 ajv@8.20.0 ajv-formats@3.0.1 >"$work/log" 2>&1; then
    cp tests/consumers/contract.mjs "$work/contract/"
    node "$work/contract/contract.mjs" "$root"
  else
    lacks "the AsyncAPI parser and ajv could not be installed: $(tail -n 1 "$work/log")"
  fi
else
  skip "everything with Node: there is no npm"
fi

if command -v javac >/dev/null; then
  java tests/consumers/Parse.java examples/OrderEvents.java
else
  skip "Java's syntax: there is no javac"
fi
if command -v gofmt >/dev/null; then
  gofmt -e -l examples/consumer.go
else
  skip "Go's syntax: there is no gofmt"
fi

# With what tests/run.sh has built already.
cargo build --locked --quiet --features otlp --example consumer
export CONSUMER_RUST="${CARGO_TARGET_DIR:-target}/debug/examples/consumer"
AMQP_URL=$(deploy/broker.sh start "$work/broker")
export AMQP_URL
# Side by side: they wait most of the time. A name that fits none would be no failure of cargo's.
cargo test --locked --features otlp --test it -- "${languages[@]/#/consumers::the_consumer_in_}" | tee "$work/log"
for language in "${languages[@]}"; do
  grep -q "^test consumers::the_consumer_in_${language}_.* ok$" "$work/log"
done
