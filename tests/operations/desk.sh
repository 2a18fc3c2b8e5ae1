# The tutorial's desk: links beside those of the SDKs, the simulator in a browser, the tutorial's commands. Read by
# tests/operations.sh.
# shellcheck shell=bash disable=SC2154

check pay_links_are_those_of_the_sdks
pay_links_are_those_of_the_sdks() {
  need node npm python3
  local gateway folder="$work/sdk" key app=2021000000000001
  local cases=tests/operations/sdk/cases.json
  gateway=$(gateway)
  [ -n "$gateway" ] || skip "the program is not built"
  mkdir -p "$folder/official" "$folder/community"
  npm install --prefix "$folder" --silent --no-audit --no-fund alipay-sdk@4.14.0 >"$folder/npm.log" 2>&1 ||
    skip "npm cannot install alipay-sdk: $(tail -n 1 "$folder/npm.log")"
  # Both call their package `alipay`: a folder each.
  pip_into "$folder/official" alipay-sdk-python==3.7.1411
  pip_into "$folder/community" python-alipay-sdk==3.4.0
  "$gateway" keygen "$folder/keys" >/dev/null
  key=$folder/keys/app-private-pkcs1.pem
  cp tests/operations/sdk/node.mjs "$folder/"
  node "$folder/node.mjs" $cases "$key" $app >"$folder/node.json"
  PYTHONPATH=$folder/official python3 tests/operations/sdk/official.py $cases "$key" $app >"$folder/official.json"
  PYTHONPATH=$folder/community python3 tests/operations/sdk/community.py $cases "$key" $app >"$folder/community.json"
  python3 tests/operations/sdk/compare.py "$gateway" $cases "$key" $app "$folder"/{node,official,community}.json
}

check desk_in_a_browser
desk_in_a_browser() {
  need node npm
  local gateway folder="$work/desk" chromium http admin desk exchange="operations-desk-$$" link wrong
  chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || skip "there is no Chromium here"
  gateway=$(gateway)
  [ -n "$gateway" ] || skip "the program is not built"
  mkdir -p "$folder/pictures"
  npm install --prefix "$folder" --silent --no-audit --no-fund playwright-core@1.64.1 >"$folder/npm.log" 2>&1 ||
    skip "npm cannot install playwright-core: $(tail -n 1 "$folder/npm.log")"
  "$gateway" simulate keys "$folder/keys" >/dev/null
  "$gateway" keygen "$folder/merchant" >/dev/null
  broker >"$folder/amqp-uri"
  http=$(free_port) admin=$(free_port) desk=$(free_port)
  configure_gateway "$folder" "$http" "$admin" "$exchange"
  printf '[[amqp.queues]]\nname = "%s"\nbind = ["#"]\n' "$exchange" >>"$folder/gateway.toml"
  (umask 077 && echo operations-desk-token >"$folder/admin.token")
  GATEWAY_ADMIN__TOKEN_FILE="$folder/admin.token" "$gateway" serve --config "$folder/gateway.toml" >"$folder/log" 2>&1 &
  end_at_end $!
  "$gateway" simulate serve --listen "127.0.0.1:$desk" --key "$folder/keys/alipay-private.pem" \
    --merchant-key "$folder/merchant/app-public-to-paste.txt" --time-scale 60 >"$folder/desk.log" &
  end_at_end $!
  wait_until 60 "$gateway" healthcheck --admin "http://127.0.0.1:$admin"
  "$gateway" events tap --admin "http://127.0.0.1:$admin" --token-file "$folder/admin.token" --format json --count 3 --for 5m \
    >"$folder/events" 2>"$folder/tap.log" &
  local tap=$!
  end_at_end $tap
  wait_until 60 grep_metric "$admin" 'alipay_gateway_broker_up 1'
  wait_until 60 grep -q watching "$folder/tap.log"
  wait_until 60 grep -q 'simulated Alipay' "$folder/desk.log"
  link=$("$gateway" pay-link --simulator "http://127.0.0.1:$desk" --app-id 2021000000000001 --amount 88.88 \
    --key "$folder/merchant/app-private-pkcs1.pem" --subject '一杯咖啡 <b>& 蛋糕</b>' \
    --notify-url "http://127.0.0.1:$http/alipay/notify" --return-url 'https://shop.example.com/thanks' 2>/dev/null)
  wrong=${link/88.88/0.01}
  cp tests/operations/browser.mjs "$folder/"
  node "$folder/browser.mjs" "$chromium" "$link" "$wrong" "$folder/pictures"
  wait $tap
  [ "$(grep -c '"payment.succeeded"' "$folder/events")" = 1 ]
  [ "$(grep -c '"payment.refunded"' "$folder/events")" = 2 ]
  if [ -n "${PICTURES:-}" ]; then cp "$folder"/pictures/*.png "$PICTURES"; fi
}

# pip_into FOLDER PACKAGE: or skip.
pip_into() {
  python3 -m pip install --quiet --disable-pip-version-check --target "$1" "$2" >"$1.log" 2>&1 ||
    skip "pip cannot install $2: $(tail -n 1 "$1.log")"
}

check tutorial_in_english
tutorial_in_english() {
  follow_tutorial docs/tutorial.md
}

check tutorial_in_chinese
tutorial_in_chinese() {
  follow_tutorial docs/tutorial.zh-CN.md
}

# Whoever follows it while something else has the gateway's port is told so, and does not wait for ever.
check tutorial_ends_where_a_port_is_taken
tutorial_ends_where_a_port_is_taken() {
  need python3 curl
  local port taker status=0
  port=$(free_port)
  python3 -c 'import socket, sys, time; s = socket.create_server(("127.0.0.1", int(sys.argv[1]))); time.sleep(600)' "$port" "$work" &
  taker=$!
  end_at_end $taker
  wait_until 20 listens "$port"
  shell_of_tutorial docs/tutorial.md "$work/taken" "$port" "$(free_port)" "$(free_port)" || status=$?
  if [ $status = 0 ] || [ $status = 124 ]; then
    echo "it ended with $status" >&2
    return 1
  fi
  grep -q 'Address already in use' "$work/taken/said" || { cat "$work/taken/said" "$work/taken/complaints" >&2; return 1; }
  say "it ended with $status, and the gateway's own words"
}

listens() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1")
}

# shell_of_tutorial PAGE FOLDER PORT PORT PORT: follows a tutorial: every block, one after the other, in one shell, in what looks
# like a clone. Only the ports are others, `cargo build` is the program that is there already, and what stands in the place of a
# browser is a shell of its own. What was said is in FOLDER/said and FOLDER/complaints.
shell_of_tutorial() {
  local page=$1 clone=$2 gateway
  shift 2
  gateway=$(gateway)
  [ -n "$gateway" ] || skip "the program is not built"
  mkdir -p "$clone/target/release" "$clone/bin"
  ln -s "$PWD/deploy" "$clone/deploy"
  ln -s "$(realpath "$gateway")" "$clone/target/release/alipay-notify-gateway"
  printf '#!/bin/sh\n[ "$*" = "build --release --locked" ]\n' >"$clone/bin/cargo"
  chmod +x "$clone/bin/cargo"
  # Whatever happens, the broker that the tutorial starts is ended.
  at_end "$PWD/deploy/broker.sh" stop "$clone/tutorial/broker"
  python3 tests/operations/tutorial.py "$page" "$@" >"$clone/commands"
  (
    cd "$clone" || exit
    # The tutorial's names are not for anybody's broker: it starts one, or takes the one that is there for it.
    unset AMQP_URL
    if [ -n "${TUTORIAL_AMQP_URL:-}" ]; then export AMQP_URL=$TUTORIAL_AMQP_URL; fi
    # shellcheck disable=SC2016
    PATH="$clone/bin:$PATH" timeout 600 bash -euo pipefail \
      -c 'trap '\''kill $(jobs -p) 2>/dev/null || true'\'' EXIT; . ./commands' >said 2>complaints
  )
}

# Follows a tutorial to the letter.
follow_tutorial() {
  need python3 curl
  local page=$1 clone
  clone="$work/$(basename "$page")"
  shell_of_tutorial "$page" "$clone" "$(free_port)" "$(free_port)" "$(free_port)" ||
    { tail -n 20 "$clone/said" "$clone/complaints" "$clone"/tutorial/*.log >&2; return 1; }
  # What the page says that one sees.
  for line in 'payment.succeeded *TUTORIAL-1  88.88 CNY' '^recorded ' \
    '1 played: everything was as promised' '^https://openapi-sandbox.dl.alipaydev.com/gateway.do?'; do
    grep -q "$line" "$clone/said" || { echo "nothing says: $line" >&2; cat "$clone/said" >&2; return 1; }
  done
  [ ! -e "$clone/tutorial" ]
  say "$(grep -c . "$clone/commands") lines of commands followed"
}
