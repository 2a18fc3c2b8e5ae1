# The image, and the chart's pod made of it. Read by tests/operations.sh.
# shellcheck shell=bash disable=SC2154

podman_() {
  ${PODMAN:-podman} "$@"
}

image=${OPERATIONS_IMAGE:-localhost/alipay-notify-gateway:operations}

need_image() {
  local base
  need "${PODMAN:-podman}" "${BUILDAH:-buildah}"
  # shellcheck disable=SC2013
  for base in $(sed -nE 's/^FROM ([^ $]+)\$\{[A-Z_]+\}.*/\1/p' Dockerfile); do
    podman_ image exists "$base" || podman_ pull --quiet "$base" >/dev/null 2>&1 ||
      skip "the base image $base is not here, and cannot be pulled"
  done
  # One that is given is taken as it is; else it is built once in a run, and quickly where nothing has changed.
  [ -n "${OPERATIONS_IMAGE:-}" ] || [ -e "$work/image.built" ] || build_image
}

build_image() {
  # In another place than this, so that nothing of this checkout but what is tracked is in it.
  mkdir -p "$work/sources"
  git ls-files -z .cargo Cargo.toml Cargo.lock Dockerfile .dockerignore src benches deploy | xargs -0 cp --parents -t "$work/sources"
  # shellcheck disable=SC2086
  ${BUILDAH:-buildah} bud --format docker --layers --tag "$image" --build-arg "VERSION=$(cargo_version)" \
    --build-arg "REVISION=$(git rev-parse HEAD)" "$work/sources" >"$work/build.log" 2>&1 || { tail -n 40 "$work/build.log"; return 1; }
  touch "$work/image.built"
}

cargo_version() {
  sed -n '0,/^version = /s/^version = "\(.*\)"$/\1/p' Cargo.toml
}

# Half an hour: the program of a release, which is not what the image of these checks has (its PROFILED is "no").
check release_is_built_by_what_was_counted
release_is_built_by_what_was_counted() {
  need cargo strip
  deploy/build.sh --can 2>"$work/can" || skip "$(cat "$work/can")"
  local built size
  built=$(RUSTFLAGS=-Clink-arg=-Wl,-z,pack-relative-relocs deploy/build.sh --features otlp 2>"$work/profiled.log") || { tail -n 20 "$work/profiled.log"; return 1; }
  "$built" --version | grep -q "$(cargo_version)"
  # The one that counts is not the one that ships.
  ! grep -q __llvm_profile_write_file "$built" || { echo "it counts" >&2; return 1; }
  [ "$(grep -c '^every answer was as promised' "$work/profiled.log")" = 2 ] || { echo "it was not counted with both stores" >&2; return 1; }
  strip --strip-all --output-file="$work/profiled" "$built"
  size=$(stat --format %s "$work/profiled")
  say "$size bytes, stripped"
  # What the base leaves of 40 MB (docs/deployment.md).
  [ "$size" -le 14500000 ] || { echo "more than the image has room for" >&2; return 1; }
}

# The image as operators run it: no writing, no capabilities, nobody in particular.
run_image() {
  podman_ run --rm --network host --no-healthcheck --read-only --cap-drop ALL --security-opt no-new-privileges "$@"
}

check image_is_built
image_is_built() {
  need_image
  local size user
  size=$(podman_ image inspect --format '{{.Size}}' "$image")
  user=$(podman_ image inspect --format '{{.Config.User}}' "$image")
  say "size $((size / 1000000)) MB: podman image inspect --format '{{.Size}}' $image"
  [ "$size" -lt 40000000 ] || { echo "40 MB or more" >&2; return 1; }
  [ "$user" = 65532:65532 ] || { echo "runs as $user" >&2; return 1; }
  podman_ image inspect --format '{{json .Config}}' "$image" >"$work/image.json"
  local label
  for label in title description licenses version revision source base.name; do
    grep -q "\"org.opencontainers.image.$label\"" "$work/image.json" || { echo "no label $label" >&2; return 1; }
  done
  grep -q '"StopSignal":"SIGTERM"' "$work/image.json"
  run_image "$image" --version | grep -q "$(cargo_version)"
  # There is no shell in it.
  ! run_image --entrypoint /bin/sh "$image" -c true >/dev/null 2>&1 || { echo "there is a shell in it" >&2; return 1; }
}

# exchange_secret MOUNT VERSION KEY: as a kubelet does it, by turning the link ..data in one step.
exchange_secret() {
  mkdir -p "$1/$2"
  install -m 0644 "$3" "$1/$2/alipay.pem"
  chmod 0755 "$1" "$1/$2"
  ln -s "$2" "$1/..data_tmp"
  mv --no-target-directory "$1/..data_tmp" "$1/..data"
  [ -L "$1/alipay.pem" ] || ln -s ..data/alipay.pem "$1/alipay.pem"
}

# tell_story FOLDER HTTP_PORT CONTAINER KEYS ARGUMENTS...: a story of payments, signed with those keys, and what came of it.
tell_story() {
  local folder=$1 http=$2 name=$3 keys=$4
  shift 4
  run_image --user 0:0 --volume "$folder:/etc/gateway:ro" "$image" simulate story --url "http://127.0.0.1:$http/alipay/notify" \
    --key "/etc/gateway/$keys/alipay-private.pem" --amqp-file /etc/gateway/amqp-uri --exchange "gateway-demo-$$" "$@" >"$folder/story" ||
    { cat "$folder/story"; podman_ logs "$name"; return 1; }
}

check image_runs_hardened
image_runs_hardened() {
  need_image
  local folder="$work/image" http admin name="gateway-operations-$$"
  mkdir -p "$folder/keys"
  broker >"$folder/amqp-uri"
  http=$(free_port) admin=$(free_port)
  run_image --user 0:0 --volume "$folder/keys:/keys" "$image" simulate keys /keys >/dev/null
  # What a Secret would be: readable by the gateway.
  chmod 0755 "$folder" "$folder/keys"
  configure_gateway "$folder" "$http" "$admin" "gateway-demo-$$"
  sed -i 's#^path = "gateway.db"#path = "/data/gateway.db"#; s#"keys/alipay-public.pem"#"secret/alipay.pem"#' "$folder/gateway.toml"
  exchange_secret "$folder/secret" ..2026_11_25_08_00_00.1 "$folder/keys/alipay-public.pem"
  chmod 0644 "$folder/amqp-uri" "$folder/gateway.toml"
  at_end ${PODMAN:-podman} rm --force --time 1 "$name"
  run_image --detach --name "$name" --volume "$folder:/etc/gateway:ro" --volume "$name:/data" "$image" serve --config /etc/gateway/gateway.toml >/dev/null
  # shellcheck disable=SC2086
  wait_until 60 ${PODMAN:-podman} exec "$name" /usr/local/bin/alipay-notify-gateway healthcheck --admin "http://127.0.0.1:$admin" ||
    { podman_ logs "$name"; return 1; }
  tell_story "$folder" "$http" "$name" keys
  # A kubelet exchanges the Secret: the new key is believed, by the same process, told by nobody.
  run_image --user 0:0 --volume "$folder:/keys" "$image" simulate keys /keys/next >/dev/null
  exchange_secret "$folder/secret" ..2026_11_25_09_00_00.2 "$folder/next/alipay-public.pem"
  wait_until 60 grep_metric "$admin" 'alipay_gateway_policy_reloads_total{result="applied"} 1'
  tell_story "$folder" "$http" "$name" next --delete-exchange
  say "a Secret was exchanged under it: the new key's story announced, without a restart"
  podman_ stop --time 40 "$name" >/dev/null 2>&1
  # It is taken away (--rm) by another process, after the stop has returned.
  # shellcheck disable=SC2086
  wait_until 30 ${PODMAN:-podman} volume rm "$name"
  say "read-only, without capabilities, as 65532: $(grep -c '^  trade ' "$folder/story") trades of a story announced"
}

# The chart, rendered, and its pod really run: with its ConfigMap, its Secrets and its volume.
check chart_pod_runs
chart_pod_runs() {
  need_image
  need_helm
  python_tools
  local folder="$work/pod" name="gateway-operations-$$" http admin helm
  helm=$(first_helm)
  mkdir -p "$folder/keys"
  broker >"$folder/amqp-uri"
  http=$(free_port) admin=$(free_port)
  run_image --user 0:0 --volume "$folder/keys:/keys" "$image" simulate keys /keys >/dev/null
  render "$helm" helm/ci/sqlite-values.yaml --set fullnameOverride="$name" \
    --set "image.registry=,image.repository=${image%:*},image.tag=${image##*:},image.pullPolicy=Never" \
    --set keys.existingSecret=,amqp.existingSecret= --set-file "keys.files.alipay\.pem=$folder/keys/alipay-public.pem" \
    --set-file "amqp.uri=$folder/amqp-uri" --set config.amqp.exchange="gateway-demo-pod-$$" \
    --set "extraEnv.GATEWAY_HTTP__LISTEN=127.0.0.1:$http,extraEnv.GATEWAY_ADMIN__LISTEN=127.0.0.1:$admin" >"$folder/all.yaml"
  local as=()
  # Where the older of the two versions is this one.
  if [ "$(printf '%s\n' 4.4 "$(podman_ version --format '{{.Client.Version}}')" | sort --version-sort | head -n 1)" != 4.4 ]; then
    as=(--secrets-as-config-maps)
  fi
  python3 tests/operations/pod.py "$folder/all.yaml" "${as[@]}" >"$folder/pod.yaml"
  at_end ${PODMAN:-podman} secret rm "$name-keys" "$name-amqp"
  at_end ${PODMAN:-podman} volume rm --force "data-$name-0" "$name" "$name-keys" "$name-amqp"
  at_end ${PODMAN:-podman} play kube --down "$folder/pod.yaml"
  podman_ play kube --network host "$folder/pod.yaml" >"$folder/played" 2>&1 || { cat "$folder/played"; return 1; }
  wait_until 60 curl --silent --fail --max-time 5 "http://127.0.0.1:$admin/livez" || { podman_ logs --tail 20 "$name-0-gateway"; return 1; }
  wait_until 60 grep_metric "$admin" 'alipay_gateway_broker_up 1'
  podman_ inspect --format '{{.HostConfig.ReadonlyRootfs}} {{.Config.User}}' "$name-0-gateway" | sed 's/^/   read-only, user: /'
  run_image --user 0:0 --volume "$folder:/etc/gateway:ro" "$image" simulate story --url "http://127.0.0.1:$http/alipay/notify" \
    --key /etc/gateway/keys/alipay-private.pem --amqp-file /etc/gateway/amqp-uri --exchange "gateway-demo-pod-$$" --delete-exchange >"$folder/story" ||
    { cat "$folder/story"; podman_ logs "$name-0-gateway"; return 1; }
  # The helm test's own command.
  run_image "$image" healthcheck --admin "http://127.0.0.1:$admin"
  podman_ stop --time 40 "$name-0-gateway" >/dev/null 2>&1
  [ "$(podman_ inspect --format '{{.State.ExitCode}}' "$name-0-gateway")" = 0 ]
  say "the rendered pod announced $(grep -c '^  trade ' "$folder/story") trades of a story, and ended with 0"
}
