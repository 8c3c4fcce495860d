#!/bin/sh
# Builds what is shipped: the same source gives the same binary, wherever the source and the crates lie.
set -eu
cd "$(dirname "$0")/.."
RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$PWD=/source --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
export RUSTFLAGS
exec cargo build --locked --profile dist --package restore-worker --bin restore-worker
