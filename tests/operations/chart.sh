# The chart: rendered in every shape, linted, refused, validated, scanned. Read by tests/operations.sh.
# shellcheck shell=bash disable=SC2154

# Every Helm that is here.
helms() {
  local candidate
  for candidate in helm helm3; do
    if command -v "$candidate" >/dev/null; then echo "$candidate"; fi
  done
}

first_helm() {
  local all
  all=$(helms)
  echo "${all%%$'\n'*}"
}

need_helm() {
  [ -n "$(helms)" ] || skip "there is no helm here"
}

# render HELM VALUES_FILE ARGUMENTS...
render() {
  local helm=$1 values=$2
  shift 2
  "$helm" template r helm --namespace prod --values "$values" "$@" 2>"$work/helm.err" || {
    cat "$work/helm.err" >&2
    return 1
  }
}

check chart_readme
chart_readme() {
  need python3
  python3 tests/operations/chart_readme.py --check
  [ "$(sed -n 's/^appVersion: "\(.*\)"$/\1/p' helm/Chart.yaml)" = "$(sed -n '0,/^version = /s/^version = "\(.*\)"$/\1/p' Cargo.toml)" ] ||
    { echo "appVersion is not Cargo.toml's version" >&2; return 1; }
}

# What is seen without a Helm: every file that the chart needs, and the shared ones from where they are kept.
check chart_is_whole
chart_is_whole() {
  need python3
  local shared name
  for shared in prometheus/alipay-notify-gateway.rules.yml grafana/alipay-notify-gateway.json; do
    [ "helm/files/$(basename "$shared")" -ef "deploy/$shared" ] || { echo "helm/files has another $shared" >&2; return 1; }
  done
  for name in sqlite redis redis-hpa redis-keda everything; do
    [ -s "helm/ci/$name-values.yaml" ] || { echo "no helm/ci/$name-values.yaml" >&2; return 1; }
  done
  [ -s helm/LICENSE ]
  python3 - <<'PYTHON'
import json, pathlib, re
chart = pathlib.Path("helm")
schema = json.loads((chart / "values.schema.json").read_text())
# In every object that is the chart's own, what is not known is refused.
assert schema["additionalProperties"] is False
templates = "".join(path.read_text() for path in (chart / "templates").rglob("*") if path.is_file())
# A value that no template reads does nothing.
for name in schema["properties"]:
    assert name == "global" or re.search(rf"[.$]([Vv]alues)\.{name}\b", templates), f"no template reads .Values.{name}"
json.loads(pathlib.Path("deploy/grafana/alipay-notify-gateway.json").read_text())
json.loads(pathlib.Path("deploy/rabbitmq/definitions.json").read_text())
PYTHON
}

check chart_renders
chart_renders() {
  need_helm
  python_tools cloudcoil-models-prometheus-operator cloudcoil-models-keda
  local helm values name shapes=()
  for helm in $(helms); do
    "$helm" version --short | sed "s/^/   $helm /"
    for values in helm/ci/*-values.yaml; do
      name="$helm-$(basename "$values" -values.yaml)"
      mkdir -p "$work/rendered/$name"
      render "$helm" "$values" >"$work/rendered/$name/all.yaml"
      render "$helm" "$values" | cmp - "$work/rendered/$name/all.yaml"
      shapes+=("$work/rendered/$name/all.yaml" "$values" "$work/split/$name")
    done
    # replicaCount sets the replicas.
    render "$helm" helm/ci/redis-values.yaml --set replicaCount=7 | grep -q '^  replicas: 7$'
  done
  python3 tests/operations/shapes.py "${shapes[@]}"
}

# What a reload brings is not a reason to start the pods again; what only a start reads is.
check chart_restarts_pods_only_for_what_a_reload_does_not_bring
chart_restarts_pods_only_for_what_a_reload_does_not_bring() {
  need_helm
  local helm values=helm/ci/everything-values.yaml before
  helm=$(first_helm)
  before=$(render "$helm" "$values" | grep checksum/)
  local reloaded
  for reloaded in 'apps.2021000000000001.sellerIds={2088000000000099}' config.freshness.max_age=23h config.event.buyer=omit \
    'apps.2021000000000001.alipayPublicKeys={first.pem,next.pem}'; do
    [ "$(render "$helm" "$values" --set-string "$reloaded" | grep checksum/)" = "$before" ] ||
      { echo "$reloaded starts the pods again" >&2; return 1; }
  done
  local fixed
  for fixed in config.http.answer_timeout=3s config.amqp.lanes=2 amqp.uri=amqp://other; do
    [ "$(render "$helm" "$values" --set "$fixed" | grep checksum/)" != "$before" ] ||
      { echo "$fixed does not start the pods again" >&2; return 1; }
  done
}

check chart_lints
chart_lints() {
  need_helm
  local helm values
  for helm in $(helms); do
    for values in helm/ci/*-values.yaml; do
      "$helm" lint --strict helm --values "$values" >"$work/lint" 2>&1 || { cat "$work/lint"; return 1; }
    done
    "$helm" package helm --destination "$work/package-$helm" >/dev/null 2>&1
    # What is packaged has the rules and the dashboard themselves, and renders the same.
    "$helm" template r "$work/package-$helm"/*.tgz --namespace prod --values helm/ci/redis-hpa-values.yaml >"$work/from-package"
    render "$helm" helm/ci/redis-hpa-values.yaml | cmp - "$work/from-package"
  done
}

check chart_refuses
chart_refuses() {
  need_helm
  local helm count=0 values set_ expected
  for helm in $(helms); do
    while IFS='|' read -r values set_ expected; do
      [ -n "$values" ] || continue
      # shellcheck disable=SC2086
      if "$helm" template r helm --namespace prod --values "helm/ci/$values-values.yaml" $set_ >/dev/null 2>"$work/refusal"; then
        echo "not refused by $helm: $values $set_" >&2
        return 1
      fi
      grep -qF -- "$expected" "$work/refusal" || {
        echo "refused by $helm, but not for its reason ($expected): $values $set_" >&2
        cat "$work/refusal" >&2
        return 1
      }
      count=$((count + 1))
    done <<'VALUES'
sqlite|--set replicaCount=2|leave replicaCount at 1, or set store.engine=redis and store.redis.existingSecret
sqlite|--set replicaCount=2 --skip-schema-validation|Leave replicaCount at 1 and do not scale, or set store.engine=redis
sqlite|--set autoscaling.enabled=true|set store.engine=redis and store.redis.existingSecret to scale
sqlite|--set keda.enabled=true|set store.engine=redis and store.redis.existingSecret to scale
sqlite|--set replicaCount=zero|replicaCount
sqlite|--set replicaCount=-1|replicaCount
redis|--set replicaCount=1.5|replicaCount
sqlite|--set replicaCounts=1|replicaCounts
sqlite|--set store.engine=postgres|engine
redis|--set store.redis.existingSecret=|Set store.redis.existingSecret
redis-hpa|--set keda.enabled=true|one of the two must go
redis|--set store.redis.uri=http://redis|uri
sqlite|--set apps=null|Set apps."YOUR-APP-ID".alipayPublicKeys
sqlite|--set apps.2021000000000001.alipayPublicKeys=null|alipayPublicKeys
sqlite|--set apps.2021000000000001.alipayPublicKeys={../../etc/passwd}|alipayPublicKeys
sqlite|--set apps.2021000000000001.signType=MD5|signType
sqlite|--set apps.2021000000000001.signType=RSA,apps.2021000000000001.sellerIds=null|sellerIds
sqlite|--set apps.2021000000000001.environment=test|environment
sqlite|--set apps.not-an-app-id.environment=sandbox|not-an-app-id
sqlite|--set keys.existingSecret=|Set keys.existingSecret
everything|--set apps.2021000000000002.alipayPublicKeys={third.pem}|third.pem, which is not in keys.files
sqlite|--set amqp.existingSecret=|Set amqp.existingSecret
sqlite|--set amqp.uri=amqp://broker|one of the two must go
everything|--set amqp.uri=https://broker|uri
everything|--set adminToken.value=short|value
sqlite|--set config.http.answer_timeout=5|answer_timeout
sqlite|--set config.http.max_body=64|max_body
sqlite|--set config.http.listen=0.0.0.0:80|listen
sqlite|--set config.amqp.exchange=amq.topic|exchange
sqlite|--set config.amqp.ignore={payment.failed}|ignore
sqlite|--set config.event.buyer=show|buyer
sqlite|--set config.log.format=xml|format
sqlite|--set config.log.level=loud|level
sqlite|--set config.traces.otlp_endpoint=https://collector:4318|otlp_endpoint
sqlite|--set config.traces.ratio=1.5|ratio
sqlite|--set networkPolicy.otlpPorts={}|otlpPorts
sqlite|--set image.tag=a/b|tag
sqlite|--set image.digest=sha256:short|digest
sqlite|--set image.pullPolicy=Sometimes|pullPolicy
sqlite|--set service.type=ExternalName|type
sqlite|--set service.port=70000|port
sqlite|--set ingress.enabled=true|Set ingress.hosts
sqlite|--set ingress.enabled=yes|enabled
sqlite|--set httpRoute.enabled=true|httpRoute.parentRefs
sqlite|--set terminationGracePeriodSeconds=0|terminationGracePeriodSeconds
sqlite|--set terminationGracePeriodSeconds=34|It must be 35 or more
sqlite|--set config.shutdown.grace=1min|It must be 70 or more
sqlite|--set config.shutdown=null,terminationGracePeriodSeconds=29|It must be 30 or more
redis-hpa|--set autoscaling.maxReplicas=1|autoscaling.minReplicas is more than autoscaling.maxReplicas
redis-keda|--set keda.maxReplicas=1|keda.minReplicas is more than keda.maxReplicas
redis-keda|--set metrics.serviceMonitor.scrapeTimeout=1m|scrapeTimeout is longer than metrics.serviceMonitor.interval
redis-keda|--set metrics.serviceMonitor.enabled=false|Set metrics.serviceMonitor.enabled=true, or keda.query
sqlite|--set podDisruptionBudget.maxUnavailable=0|maxUnavailable
VALUES
  done
  say "$count refusals, each for its reason"
}

check chart_is_valid_for_kubernetes
chart_is_valid_for_kubernetes() {
  need_helm
  python_tools kubernetes-validate
  local version values name report shapes=()
  for version in 1.25 1.28 1.31 1.34 1.37; do
    for values in helm/ci/*-values.yaml; do
      name="$version-$(basename "$values" -values.yaml)"
      mkdir -p "$work/valid/$name"
      render "$(first_helm)" "$values" --kube-version "$version.0" >"$work/valid/$name/all.yaml"
      shapes+=("$work/valid/$name/all.yaml" "$values" "$work/valid/$name")
    done
  done
  python3 tests/operations/shapes.py "${shapes[@]}" >/dev/null
  for version in 1.25 1.28 1.31 1.34 1.37; do
    # It warns only, and exits 0, where it has no schema: so any word is a failure.
    report=$(kubernetes-validate --strict --quiet -k "$version" "$work/valid/$version"-*/core.yaml 2>&1) || { echo "$report"; return 1; }
    [ -z "$report" ] || { echo "$version: $report"; return 1; }
  done
  sed 's/replicas: 1$/replicaz: 1/' "$work/valid/1.34-sqlite/core.yaml" >"$work/bad.yaml"
  ! kubernetes-validate --strict --quiet -k 1.34 "$work/bad.yaml" >/dev/null 2>&1 ||
    { echo "the validator sees nothing" >&2; return 1; }
  say "valid for 1.25, 1.28, 1.31, 1.34 and 1.37"
}

check chart_is_secure
chart_is_secure() {
  need_helm
  need trivy
  [ -d "$work/rendered" ] || (chart_renders) >/dev/null
  local scan=(trivy config --skip-check-update --quiet --exit-code 3 --severity "MEDIUM,HIGH,CRITICAL")
  "${scan[@]}" "$work/rendered"
  # A scanner that finds nothing in a bad manifest proves nothing.
  mkdir -p "$work/insecure"
  sed 's/readOnlyRootFilesystem: true/readOnlyRootFilesystem: false/' "$work/rendered/$(first_helm)-sqlite/all.yaml" >"$work/insecure/all.yaml"
  ! "${scan[@]}" "$work/insecure" >/dev/null 2>&1 || { echo "the scanner sees nothing" >&2; return 1; }
}

# The gateway.toml of every shape is one that the program takes, and it has no key that the chart does not.
check chart_configures
chart_configures() {
  need_helm
  python_tools
  local gateway helm values name checked
  gateway=$(gateway)
  [ -n "$gateway" ] || skip "the program is not built: cargo build"
  helm=$(first_helm)
  for values in helm/ci/*-values.yaml; do
    name=$(basename "$values" -values.yaml)
    mkdir -p "$work/config/$name"
    render "$helm" "$values" >"$work/config/$name/all.yaml"
    # The files that the pod would have, next to the configuration.
    python3 - "$work/config/$name" <<'PYTHON'
import pathlib, sys, yaml
folder = pathlib.Path(sys.argv[1])
documents = [document for document in yaml.safe_load_all((folder / "all.yaml").read_text()) if document]
text = next(d["data"]["gateway.toml"] for d in documents if d["kind"] == "ConfigMap" and "gateway.toml" in d["data"])
(folder / "gateway.toml").write_text(text.replace("/etc/gateway/", f"{folder}/").replace("/data/", f"{folder}/"))
PYTHON
    mkdir -p "$work/config/$name"/{keys,amqp,amqp-tls,admin,redis}
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=operations -keyout "$work/config/$name/amqp-tls/tls.key" \
      -out "$work/config/$name/amqp-tls/tls.crt" 2>/dev/null
    cp "$work/config/$name/amqp-tls"/{tls,ca}.crt
    local key
    for key in alipay first next second; do
      "$gateway" simulate keys "$work/config/$name/made-$key" >/dev/null
      cp "$work/config/$name/made-$key/alipay-public.pem" "$work/config/$name/keys/$key.pem"
    done
    # As the values have it where the chart makes the Secret.
    if [ "$name" = everything ]; then echo amqps://broker; else echo amqp://broker; fi >"$work/config/$name/amqp/uri"
    echo redis://redis >"$work/config/$name/redis/uri"
    echo sixteen-characters-or-more >"$work/config/$name/admin/token"
    # A build without the feature otlp takes no collector; an empty one is none.
    # Not in a pipe: check exits 78 then, and with pipefail so does the pipe.
    checked=$("$gateway" check --config "$work/config/$name/gateway.toml" 2>&1) || true
    if [[ $checked == *'this build has no traces'* ]]; then
      say "$name: with traces that this build does not have"
      export GATEWAY_TRACES__OTLP_ENDPOINT=
    fi
    if "$gateway" check --config "$work/config/$name/gateway.toml" >"$work/checked" 2>&1; then
      say "$name: the program takes it"
    else
      cat "$work/checked"
      return 1
    fi
  done
}

check chart_notes
chart_notes() {
  need_helm
  local helm seen=0
  for helm in $(helms); do
    notes "$helm" redis-hpa >"$work/notes" || { say "$helm makes no notes without a cluster"; continue; }
    seen=$((seen + 1))
    grep -q 'https://pay.example.com/alipay/notify' "$work/notes"
    notes "$helm" everything >"$work/notes"
    grep -q 'https://YOUR-HOST/pay/notify' "$work/notes"
    grep -q 'WARNING: a secret was given as a value' "$work/notes"
  done
  [ $seen -gt 0 ] || skip "no helm here makes notes without a cluster"
}

notes() {
  "$1" install r helm --dry-run=client --namespace prod --values "helm/ci/$2-values.yaml" 2>/dev/null
}
