# Traces, told to a receiver that is not ours. Read by tests/operations.sh.
# shellcheck shell=bash disable=SC2154

check traces_arrive_at_a_receiver
traces_arrive_at_a_receiver() {
  python_tools oteltap
  local gateway folder="$work/traces" http admin otlp pid
  gateway=$(gateway)
  [ -n "$gateway" ] || skip "the program is not built: cargo build --features otlp"
  mkdir -p "$folder"
  "$gateway" simulate keys "$folder/keys" >/dev/null
  broker >"$folder/amqp-uri"
  http=$(free_port) admin=$(free_port) otlp=$(free_port)
  configure_gateway "$folder" "$http" "$admin" "gateway-demo-traces-$$"
  export GATEWAY_TRACES__OTLP_ENDPOINT="http://127.0.0.1:$otlp" GATEWAY_TRACES__RESOURCE="test.folder=$folder"
  if "$gateway" check --config "$folder/gateway.toml" 2>&1 | grep -q 'this build has no traces'; then
    skip "the program is built without the feature otlp: cargo build --features otlp"
  fi
  # Our folder among its arguments, so that it is known again at the end.
  oteltap --port "$otlp" --await-log "never: $folder" >"$folder/spans" 2>"$folder/receiver.log" &
  end_at_end $!
  "$gateway" serve --config "$folder/gateway.toml" >"$folder/log" 2>&1 &
  pid=$!
  end_at_end "$pid"
  wait_until 60 "$gateway" healthcheck --admin "http://127.0.0.1:$admin"
  wait_until 60 grep_metric "$admin" 'alipay_gateway_broker_up 1'
  "$gateway" simulate story --url "http://127.0.0.1:$http/alipay/notify" --key "$folder/keys/alipay-private.pem" \
    --amqp-file "$folder/amqp-uri" --exchange "gateway-demo-traces-$$" --delete-exchange >"$folder/story" ||
    { cat "$folder/story"; return 1; }
  kill -TERM "$pid"
  wait "$pid"
  wait_until 20 grep -q notification "$folder/spans"
  python3 - "$folder/spans" "gateway-demo-traces-$$" <<'PYTHON'
import json, sys

def find(node):
    """Whatever has the name of a span, wherever the receiver prints it."""
    if isinstance(node, dict):
        if "name" in node and ("span_id" in node or "spanId" in node):
            yield node
        for child in node.values():
            yield from find(child)
    elif isinstance(node, list):
        for child in node:
            yield from find(child)

text = open(sys.argv[1]).read()
spans = [span for line in text.splitlines() if line.startswith("{") for span in find(json.loads(line))]
names = [span["name"] for span in spans]
for name in ["notification", "admission", "claim", "record", f"publish {sys.argv[2]}:payment.succeeded"]:
    assert name in names, (name, sorted(set(names)))
ids = {span.get("span_id", span.get("spanId")) for span in spans}
children = [span for span in spans if span["name"] != "notification"]
orphans = [span["name"] for span in children if span.get("parent_span_id", span.get("parentSpanId")) not in ids]
assert not orphans, orphans
assert "buyer" not in text and "subject" not in text
print(f"   {len(spans)} spans, {names.count('notification')} notifications, each stage below its own")
PYTHON
}
