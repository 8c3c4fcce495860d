#!/bin/sh
# Builds what is shipped: the same source gives the same binary, wherever the source and the crates lie.
set -eu
cd "$(dirname "$0")/.."
RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$PWD=/source --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
export RUSTFLAGS
# The allocator takes the building machine's page size for its own; arm64 kernels run with pages of up to 64 KiB.
case "$(uname -m)" in aarch64) export JEMALLOC_SYS_WITH_LG_PAGE=16 ;; esac
exec cargo build --locked --profile dist --package restore-worker --bin restore-worker
