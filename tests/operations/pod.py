#!/usr/bin/env python3
"""Makes of a rendered chart what `podman play kube` can run, and says on standard error what that changes.

    pod.py RENDERED >POD

A StatefulSet becomes the Pod of its template and the claims of its claim templates, under the names that Kubernetes would
give them. The pod has the host's network, to reach a broker on it. Probes are left out: podman would run curl inside of
the container, and there is none; whoever runs this asks /livez and /readyz himself.
"""

import sys

import yaml


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
    # podman 4.3 knows no accounts, and takes no number for a mode that is written in octal and read as decimal.
    spec.pop("serviceAccountName")
    for container in spec["containers"]:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            container.pop(probe)
    metadata = {"name": name, "labels": workload["spec"]["template"]["metadata"]["labels"]}
    kept.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    for document in kept:
        document["metadata"].pop("namespace", None)
    yaml.safe_dump_all(kept, sys.stdout)
    print("pod.py: StatefulSet to Pod, host network, no service account, no probes", file=sys.stderr)


if __name__ == "__main__":
    main()
