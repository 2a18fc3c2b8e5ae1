#!/usr/bin/env python3
"""Makes of a rendered chart what `podman play kube` can run, and says on standard error what that changes.

    pod.py RENDERED [--secrets-as-config-maps] >POD

A StatefulSet becomes the Pod of its template and the claims of its claim templates, under the names that Kubernetes would
give them. The pod has the host's network, to reach a broker on it, and so names no ports. Probes are left out: podman
would run curl inside of the container, and there is none; whoever runs this asks /livez and /readyz himself. Podman before
4.4 mounts a Secret's base64 as it is: for those, Secrets become ConfigMaps with the same files in the same places.
"""

import base64
import sys

import yaml


def make_config_maps(documents, volumes):
    for document in documents:
        if document["kind"] == "Secret":
            document["kind"] = "ConfigMap"
            document.pop("type")
            document["data"] = {name: base64.b64decode(value).decode() for name, value in document["data"].items()}
    for volume in volumes:
        secret = volume.pop("secret", None)
        if secret:
            volume["configMap"] = {"name": secret.pop("secretName"), **secret}
    print("pod.py: Secrets to ConfigMaps", file=sys.stderr)


def main():
    documents = [document for document in yaml.safe_load_all(open(sys.argv[1])) if document]
    kept = [document for document in documents if document["kind"] in ("ConfigMap", "Secret")]
    workload = next(document for document in documents if document["kind"] == "StatefulSet")
    name = workload["metadata"]["name"] + "-0"
    spec = workload["spec"]["template"]["spec"]
    for claim in workload["spec"]["volumeClaimTemplates"]:
        claim_name = f"{claim['metadata']['name']}-{name}"
        claim["metadata"] = {"name": claim_name}
        spec["volumes"].append({"name": "data", "persistentVolumeClaim": {"claimName": claim_name}})
        kept.append(claim)
    spec["hostNetwork"] = True
    spec.pop("serviceAccountName")
    if "--secrets-as-config-maps" in sys.argv:
        make_config_maps(kept, spec["volumes"])
    for container in spec["containers"]:
        for name_of in ("startupProbe", "livenessProbe", "readinessProbe", "ports"):
            container.pop(name_of)
    metadata = {"name": name, "labels": workload["spec"]["template"]["metadata"]["labels"]}
    kept.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    for document in kept:
        document["metadata"].pop("namespace", None)
    yaml.safe_dump_all(kept, sys.stdout)
    print("pod.py: StatefulSet to Pod, host network, no service account, no probes, no ports", file=sys.stderr)


if __name__ == "__main__":
    main()
