"""Takes one rendering of the chart apart for the other checks, and looks at what no schema knows: what the chart promises.

look.py DIRECTORY MOUNTED: reads all.yaml; writes native.yaml (what Kubernetes itself defines), operators.json (the rest), config.yaml
(the worker's file, with the paths of mounted secrets led to files in DIRECTORY, each with the content of MOUNTED) and, where there are
alerts, rules.yaml.
"""

import json
import pathlib
import re
import sys

import yaml

OPERATORS = ("monitoring.coreos.com", "keda.sh")
MOUNTS = "/etc/restore-worker/"
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
wrong = []


def promise(holds, what):
    if not holds:
        wrong.append(what)


def of(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def pods(documents):
    for document in documents:
        if document["kind"] == "Deployment":
            yield document["spec"]["template"]
        elif document["kind"] == "Pod":
            yield document


def look_at_pod(pod):
    """The restricted profile of Kubernetes' Pod Security Standards, and a root that cannot be written."""
    spec, name = pod["spec"], pod["metadata"].get("name", "worker")
    promise(spec["securityContext"]["runAsNonRoot"] is True, f"{name}: runs as root")
    promise(spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, f"{name}: seccomp")
    promise(spec["automountServiceAccountToken"] is False, f"{name}: a token that nobody needs")
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        promise(key not in spec, f"{name}: {key}")
    for volume in spec.get("volumes", []):
        promise("hostPath" not in volume, f"{name}: hostPath")
    for container in spec.get("initContainers", []) + spec["containers"]:
        security = container["securityContext"]
        promise(security["allowPrivilegeEscalation"] is False, f"{name}: privilege escalation")
        promise(security["capabilities"] == {"drop": ["ALL"]}, f"{name}: capabilities")
        promise(security["readOnlyRootFilesystem"] is True, f"{name}: a root that can be written")
        promise(security["runAsNonRoot"] is True and security["privileged"] is False, f"{name}: privileges")
        promise({"cpu", "memory"} <= set(container["resources"]["requests"]), f"{name}: resource requests")


def look_at_operators(documents):
    """The operators' schemas let a misspelt optional key pass: what must be there is named here."""
    for document in documents:
        spec = document["spec"]
        endpoints = {"PodMonitor": "podMetricsEndpoints", "ServiceMonitor": "endpoints"}.get(document["kind"])
        if endpoints:
            promise([e["port"] for e in spec.get(endpoints, [])] == ["admin"], f"{document['kind']}: endpoints")
        if document["kind"] == "PrometheusRule":
            promise(len(spec.get("groups") or []) >= 1, "PrometheusRule: no groups")
        if document["kind"] == "TriggerAuthentication":
            promise(len(spec.get("secretTargetRef", [])) == 1, "TriggerAuthentication: no secret")
        if document["kind"] == "ScaledObject":
            known = {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "fallback", "advanced", "triggers"}
            promise(set(spec) == known, f"ScaledObject: {sorted(set(spec) ^ known)}")


def seconds(text):
    number, unit = re.fullmatch(r"(\d+) ?(\w+)", text).groups()
    return int(number) * UNITS[unit]


def look_at_deployment(deployment, config, scalers):
    pod = deployment["spec"]["template"]
    grace = seconds(config.get("shutdown", {}).get("grace", "60s"))
    promise(pod["spec"]["terminationGracePeriodSeconds"] > grace, "Kubernetes kills before the worker's own grace is over")
    promise("checksum/config" in pod["metadata"]["annotations"], "checksum/config")
    promise(("replicas" in deployment["spec"]) == (not scalers), "replicas fight with the autoscaler")
    worker = pod["spec"]["containers"][0]
    listen = config.get("admin", {}).get("listen", "0.0.0.0:9464")
    promise(listen.endswith(f":{worker['ports'][0]['containerPort']}"), "the admin port")
    probes = [worker[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    promise(probes == ["/livez", "/livez", "/readyz?verbose"], f"probes ask {probes}")
    mounted = {mount["name"] for mount in worker["volumeMounts"]}
    promise(mounted == {volume["name"] for volume in pod["spec"]["volumes"]}, "volumes and mounts")
    labels = deployment["spec"]["selector"]["matchLabels"]
    promise(labels.items() <= pod["metadata"]["labels"].items(), "the selector does not select")


def look_at_config(text, secrets):
    for secret in secrets:
        for value in secret.get("stringData", {}).values():
            promise(value not in text, "a secret in the ConfigMap")
    for path in re.findall(re.escape(MOUNTS) + r"[^\s\"']+", text):
        yield path.removeprefix(MOUNTS)


def main(directory, mounted):
    documents = [d for d in yaml.safe_load_all((directory / "all.yaml").read_text()) if d]
    operators = [d for d in documents if d["apiVersion"].split("/")[0] in OPERATORS]
    native = [d for d in documents if d not in operators]
    (directory / "native.yaml").write_text(yaml.safe_dump_all(native))
    (directory / "operators.json").write_text(json.dumps(operators))

    text = next(d["data"]["restore-worker.yaml"] for d in of(documents, "ConfigMap") if "restore-worker.yaml" in d["data"])
    for path in look_at_config(text, of(documents, "Secret")):
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text(mounted)
    (directory / "config.yaml").write_text(text.replace(MOUNTS, f"{directory}/"))
    for rule in of(documents, "PrometheusRule"):
        (directory / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))

    scalers = of(documents, "ScaledObject") + of(documents, "HorizontalPodAutoscaler")
    for pod in pods(documents):
        look_at_pod(pod)
    for deployment in of(documents, "Deployment"):
        look_at_deployment(deployment, yaml.safe_load(text), scalers)
    look_at_operators(operators)
    promise(len(scalers) <= 1, "more than one autoscaler")
    for budget in of(documents, "PodDisruptionBudget"):
        promise(budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", "an ill pod keeps its node from being drained")
    for document in documents:
        labels = document["metadata"]["labels"]
        for label in ("name", "instance", "component", "managed-by"):
            promise(f"app.kubernetes.io/{label}" in labels, f"{document['kind']}: label {label}")
        promise(document["metadata"]["namespace"] == "restore", f"{document['kind']}: namespace")
    for problem in wrong:
        print(problem)
    sys.exit(bool(wrong))


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text())
