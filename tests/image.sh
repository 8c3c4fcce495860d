#!/usr/bin/env bash
# The image without a container engine: its root is laid out by the Dockerfile's own commands, and the binary is run in it as
# in Kubernetes: a read-only root, another user than root, no environment. What this machine cannot do is named and fails.
#
#   tests/image.sh [BINARY]      a binary that is there; without one, image/build.sh builds the shipped one (minutes)
set -uo pipefail
cd "$(dirname "$0")/.."
binary="${1:-}"
failed=0

if [ -z "$binary" ]; then
    image/build.sh || exit 1
    binary="${CARGO_TARGET_DIR:-target}/dist/restore-worker"
fi
root="$(mktemp -d)/root"
trap 'rm -rf "$(dirname "$root")"' EXIT
image/assemble.sh "$binary" "$root" || exit 1
chmod 755 "$(dirname "$root")"

complain() { echo "FAILED  $1"; failed=1; }
ok() { echo "ok      $1"; }

# What .dockerignore lets through is enough for cargo: manifests and every file that they name.
context="$(dirname "$root")/context"
sed -n 's/^!//p' .dockerignore | while read -r kept; do
    mkdir -p "$context/$(dirname "$kept")" && cp -r "$kept" "$context/$kept"
done
if said="$(cd "$context" && cargo metadata --locked --format-version 1 2>&1 >/dev/null)"; then
    ok "the build context is complete"
else
    complain "the build context: $said"
fi

# What is in the image.
others="$(cd "$root" && find . -type f | grep -vE '^\./(restore-worker|etc/nsswitch\.conf|etc/ssl/certs/ca-certificates\.crt|.*/(ld-linux[^/]*|lib(c|m|gcc_s))\.so\.[0-9]+)$')"
if [ -z "$others" ]; then ok "binary, C library, CA certificates, nothing else"; else complain "also in the image: $others"; fi
[ -s "$root/etc/ssl/certs/ca-certificates.crt" ] && ok "CA certificates" || complain "no CA certificates"

# Inside: its expected exit code, a text that it must say, the arguments; environment as NAME=VALUE before --.
# The mount is in a namespace of its own and goes with it.
inside() {
    unshare --mount --pid --fork sh -c '
        root="$1"; shift
        mount --bind "$root" "$root" && mkdir -p "$root/proc" && mount -t proc proc "$root/proc" &&
        mount -o remount,bind,ro "$root" "$root" || exit 200
        exec chroot --userspec=65532:65532 "$root" /restore-worker "$@"' sh "$root" "$@" 2>&1
}
runs() {
    local name="$1" code="$2" text="$3" said was
    shift 3
    local environment=(-i)
    while [ "$1" != -- ]; do environment+=("$1"); shift; done
    shift
    # `env` clears what unshare and chroot hand on; PATH is for them alone, the program reads none.
    said="$(env "${environment[@]}" PATH="$PATH" bash -c "$(declare -f inside); root='$root'; inside \"\$@\"" sh "$@")"
    was=$?
    if [ "$was" = "$code" ] && grep -qF -- "$text" <<<"$said"; then ok "$name"; else complain "$name: exit $was (expected $code, \"$text\"): $said"; fi
}

if ! unshare --mount --pid --fork true 2>/dev/null || [ "$(id -u)" != 0 ]; then
    complain "NOT RUN in its root: needs root and unshare"
    exit 1
fi
runs "says its version" 0 "restore-worker " -- --version
runs "says what is missing, in an empty environment" 78 "ledger.bucket: must be set" -- run
runs "reads a configuration from the environment" 0 "ledger.store = none" RESTORE_WORKER__LEDGER__STORE=none -- check --offline
runs "starts, writes nothing, waits for its broker, gives up" 69 "127.0.0.1" \
    RESTORE_WORKER__LEDGER__STORE=none RESTORE_WORKER__STARTUP__WAIT=1s RESTORE_WORKER__ADMIN__LISTEN=127.0.0.1:0 \
    RESTORE_WORKER__BROKER__URI=amqp://127.0.0.1:1 RESTORE_WORKER__IDENTITY__CLIENT_ID=x RESTORE_WORKER__IDENTITY__CLIENT_SECRET=x \
    RESTORE_WORKER__IDENTITY__TENANT_ID=a7809c93-0000-4000-8000-000000000001 AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x \
    AWS_REGION=eu-central-1 RESTORE_WORKER__STORAGE__ENDPOINT=http://127.0.0.1:1 RESTORE_WORKER__EXCHANGE__GRAPH=http://127.0.0.1:1/v1.0 \
    -- run
exit "$failed"
