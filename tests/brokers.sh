#!/usr/bin/env bash
# The delivery tests on three generations of RabbitMQ: the distribution's own, 4.0 (Debian 13) and 4.3 (Debian unstable), each
# in a root of its own below the build directory. Needs root and debootstrap; what cannot run says so by name and fails.
#
#   tests/brokers.sh [filter...]       for example: tests/brokers.sh delivery ledger
#   SUITES=sid tests/brokers.sh ...    only that one; own: the distribution's
#   tests/brokers.sh -- command...     any command that starts a node, for example: tests/brokers.sh -- make bench-quota
set -uo pipefail
cd "$(dirname "$0")/.."
roots="${CARGO_TARGET_DIR:-target}/brokers"
mkdir -p "$roots"
roots="$(cd "$roots" && pwd)"
mounted=()
failed=()

finish() {
    # A node that is still ending may hold one; it is detached all the same.
    for place in "${mounted[@]}"; do umount --lazy "$place"; done
}
trap finish EXIT

mirror() {
    sed -n -E 's/^(deb|URIs:)[[:space:]]+(\[[^]]*\][[:space:]]+)?(https?:[^[:space:]]+).*/\3/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v security | head -n 1
}

# A root with this suite's RabbitMQ; fails with a reason.
root_of() {
    local suite="$1" root="$roots/$1"
    [ "$(id -u)" = 0 ] || { echo "needs root" >&2; return 1; }
    if [ ! -x "$root/usr/lib/rabbitmq/bin/rabbitmq-server" ]; then
        command -v debootstrap >/dev/null || apt-get -q -y --no-install-recommends install debootstrap >&2 || return 1
        rm -rf "$root"
        echo "preparing $suite (about a minute)" >&2
        debootstrap --variant=minbase --include=rabbitmq-server,ca-certificates "$suite" "$root" "$(mirror)" >"$roots/$suite.log" 2>&1 \
            || { tail -n 5 "$roots/$suite.log" >&2; return 1; }
        echo "127.0.0.1 localhost" >"$root/etc/hosts"
    fi
    mount --bind /tmp "$root/tmp" && mounted+=("$root/tmp") && mount -t proc proc "$root/proc" && mounted+=("$root/proc")
}

run() {
    local name="$1" root="$2"
    shift 2
    echo "== RabbitMQ: $name"
    if [ "$1" = -- ]; then
        shift
        RABBITMQ_ROOT="$root" "$@" || failed+=("$name")
    else
        RABBITMQ_ROOT="$root" cargo test --quiet --test it -- "$@" || failed+=("$name")
    fi
}

filters=("$@")
[ ${#filters[@]} -gt 0 ] || filters=(restore failure delivery ledger crash_loop fleet)
for suite in ${SUITES:-own trixie sid}; do
    if [ "$suite" = own ]; then
        run "the distribution's own" "" "${filters[@]}"
    elif root_of "$suite"; then
        version="$(chroot "$roots/$suite" dpkg-query -W -f '${Version}' rabbitmq-server)"
        run "$suite ($version)" "$roots/$suite" "${filters[@]}"
    else
        echo "== RabbitMQ: $suite cannot run on this machine" >&2
        failed+=("$suite")
    fi
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
