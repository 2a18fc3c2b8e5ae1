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

# pip_into FOLDER PACKAGE: or skip.
pip_into() {
  python3 -m pip install --quiet --disable-pip-version-check --target "$1" "$2" >"$1.log" 2>&1 ||
    skip "pip cannot install $2: $(tail -n 1 "$1.log")"
}
