#!/usr/bin/env python3
"""What a rendered chart has to be, whatever the values.

    shapes.py RENDERED VALUES_FILE SPLIT_DIR [RENDERED VALUES_FILE SPLIT_DIR…]

Asserts the shape, and splits it into SPLIT_DIR/core.yaml (kinds that Kubernetes itself has) and SPLIT_DIR/custom.yaml.
Needs PyYAML; where the models of custom resources are installed (cloudcoil), those are validated, too.
"""

import json
import pathlib
import re
import sys

import yaml

CHART = pathlib.Path(__file__).resolve().parents[2] / "helm"
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "name", "persistentVolumeClaim", "projected", "secret"}


def pods(documents):
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield document["kind"], document["spec"]["template"]["spec"]
        if document["kind"] == "Pod":
            yield "Pod", document["spec"]


def assert_restricted(what, pod):
    """The Pod Security Standard "restricted", as far as a manifest shows it."""
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] == 65532, what
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}, what
    assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False, what
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), what
    for container in pod["containers"] + pod.get("initContainers", []):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, what
        assert context["readOnlyRootFilesystem"] is True, what
        assert context["capabilities"] == {"drop": ["ALL"]}, what
        assert "memory" in container["resources"]["limits"] and "cpu" not in container["resources"]["limits"], what
        assert not any("hostPort" in port for port in container.get("ports", [])), what
        for mount in container.get("volumeMounts", []):
            assert "subPath" not in mount, f"{what}: a subPath is never exchanged"
    for volume in pod.get("volumes", []):
        assert set(volume) <= VOLUMES, f"{what}: {volume}"


def one(documents, kind):
    found = [document for document in documents if document["kind"] == kind]
    assert len(found) == 1, f"{len(found)} of {kind}"
    return found[0]


def assert_workload(documents, values):
    kinds = [document["kind"] for document in documents]
    redis = values.get("store", {}).get("engine") == "redis"
    scaled = any(values.get(name, {}).get("enabled") for name in ("autoscaling", "keda"))
    if redis:
        workload = one(documents, "Deployment")
        assert "StatefulSet" not in kinds
        assert workload["spec"].get("replicas") == (None if scaled else values.get("replicaCount", 1))
        assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        pod = workload["spec"]["template"]["spec"]
        spread = [constraint["topologyKey"] for constraint in pod["topologySpreadConstraints"]]
        assert spread == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"], spread
        assert one(documents, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    else:
        workload = one(documents, "StatefulSet")
        assert "Deployment" not in kinds and "PodDisruptionBudget" not in kinds
        assert workload["spec"]["replicas"] == 1
        assert [claim["metadata"]["name"] for claim in workload["spec"]["volumeClaimTemplates"]] == ["data"]
        headless = [document for document in documents if document["kind"] == "Service"]
        assert any(s["metadata"]["name"] == workload["spec"]["serviceName"] for s in headless)
    assert ("HorizontalPodAutoscaler" in kinds) == bool(values.get("autoscaling", {}).get("enabled"))
    assert ("ScaledObject" in kinds) == bool(values.get("keda", {}).get("enabled"))
    selector = workload["spec"]["selector"]["matchLabels"]
    assert set(selector) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}, selector
    template = workload["spec"]["template"]
    assert selector.items() <= template["metadata"]["labels"].items()
    container = template["spec"]["containers"][0]
    assert [port["name"] for port in container["ports"]] == ["http", "metrics"]
    for probe, path in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]:
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    claims = {"data"} if not redis else set()
    assert mounts == {volume["name"] for volume in template["spec"]["volumes"]} | claims, mounts
    assert template["spec"]["terminationGracePeriodSeconds"] >= 5 + 25 + 10
    return selector


def assert_services(documents, selector):
    services = {document["metadata"]["name"]: document["spec"] for document in documents if document["kind"] == "Service"}
    ports = sorted([port["name"] for port in service["ports"]] for service in services.values())
    assert ports == [["http"], ["metrics"]], "the admin port has a Service of its own"
    assert all(service["selector"] == selector for service in services.values())
    admin = next(name for name, service in services.items() if service["ports"][0]["name"] == "metrics")
    assert services[admin]["clusterIP"] == "None" and services[admin]["type"] == "ClusterIP"
    for document in documents:
        if document["kind"] in ("Ingress", "HTTPRoute"):
            assert admin not in json.dumps(document), "the admin port is on no Ingress"
    test = one(documents, "Pod")
    assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert not selector.items() <= test["metadata"]["labels"].items(), "no Service may send it payments"
    assert f"http://{admin}." in test["spec"]["containers"][0]["args"][-1]


def assert_egress(documents, values):
    """The collector may be reached if there is one, and only then."""
    endpoint = values.get("config", {}).get("traces", {}).get("otlp_endpoint")
    for policy in (document for document in documents if document["kind"] == "NetworkPolicy"):
        ports = [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]
        assert (4318 in ports) == bool(endpoint), ports


def assert_shared_files(documents):
    """Rules and dashboard are the files of deploy/, to the last value."""
    rules = [document for document in documents if document["kind"] == "PrometheusRule"]
    for rule in rules:
        shipped = yaml.safe_load((CHART.parent / "deploy/prometheus/alipay-notify-gateway.rules.yml").read_text())
        assert rule["spec"]["groups"] == shipped["groups"]
    for document in documents:
        dashboard = document["kind"] == "ConfigMap" and document["data"].get("alipay-notify-gateway.json")
        if dashboard:
            shipped = (CHART.parent / "deploy/grafana/alipay-notify-gateway.json").read_text()
            assert dashboard == shipped.strip(), "the dashboard differs from deploy/grafana"
            assert document["metadata"]["labels"]["grafana_dashboard"] == "1"
    for monitor in (document for document in documents if document["kind"] == "ServiceMonitor"):
        job = {"targetLabel": "job", "replacement": "alipay-notify-gateway"}
        assert job in monitor["spec"]["endpoints"][0]["relabelings"]


def assert_models(custom):
    try:
        from cloudcoil.models.keda import v1alpha1 as keda
        from cloudcoil.models.prometheus_operator import v1 as operator
    except ImportError:
        print("skip: custom resources have no models here (pip install cloudcoil-models-prometheus-operator …-keda)")
        return
    models = {"ServiceMonitor": operator.ServiceMonitor, "PrometheusRule": operator.PrometheusRule, "ScaledObject": keda.ScaledObject}
    for document in custom:
        if document["kind"] in models:
            models[document["kind"]].model_validate(document)
        else:
            print(f"not validated, for want of a model: {document['kind']}")


def judge(rendered, values, split):
    documents = [document for document in yaml.safe_load_all(rendered.read_text()) if document]
    values = yaml.safe_load(values.read_text())
    for what, pod in pods(documents):
        assert_restricted(what, pod)
    selector = assert_workload(documents, values)
    assert_services(documents, selector)
    assert_egress(documents, values)
    assert_shared_files(documents)
    assert all(document["metadata"]["namespace"] == "prod" for document in documents)
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(names) == len(set(names)), "a name twice"
    core = re.compile(r"^(v1|apps/v1|batch/v1|policy/v1|autoscaling/v\d|[a-z.]+\.k8s\.io/.*)$")
    custom = [d for d in documents if not core.match(d["apiVersion"]) or d["apiVersion"].startswith("gateway.")]
    split.mkdir(parents=True, exist_ok=True)
    (split / "core.yaml").write_text(yaml.safe_dump_all([d for d in documents if d not in custom]))
    (split / "custom.yaml").write_text(yaml.safe_dump_all(custom))
    assert_models(custom)


def main():
    # Many in one run: to load the models takes longer than all the rest.
    paths = map(pathlib.Path, sys.argv[1:])
    for rendered, values, split in zip(paths, paths, paths, strict=True):
        judge(rendered, values, split)


if __name__ == "__main__":
    main()
