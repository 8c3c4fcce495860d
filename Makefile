# The commands of this project. CI calls the same ones.
.DEFAULT_GOAL := help
CARGO ?= cargo
SANDBOX := $(CARGO) run --quiet --package restore-sandbox --bin restore-sandbox --

.PHONY: bench help demo sandbox test lint doc bench-lanes bench-fleet bench-quota bench-blobs fuzz tools crash-test crash-test-short

help:                ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build:               ## the worker and the sandbox, for daily use
	$(CARGO) build --workspace --bins

demo: build          ## restores a few hundred items through the real binary, and checks each one
	$(SANDBOX) demo

sandbox: build       ## leaves RabbitMQ, S3 and Exchange running and prints what to export
	$(SANDBOX) serve

tools:               ## what the tests need and the toolchain does not bring
	$(SANDBOX) install

test: build tools    ## unit and integration tests; installs RabbitMQ if it is missing
	$(CARGO) test --workspace

ROUNDS ?= 20
SEED ?= 1
CRASH := $(CARGO) run --quiet --package restore-sandbox --bin crash-test --

crash-test: build tools ## workers killed, frozen, cut off while they restore (ROUNDS, SEED)
	$(CRASH) --rounds $(ROUNDS) --seed $(SEED)

crash-test-short: build tools ## the same for a minute or two, as in CI
	$(CRASH) --rounds 2 --seed $(SEED)

lint:                ## formatting, lints, documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --workspace --quiet

doc:                 ## the documentation of the code
	$(CARGO) doc --no-deps --workspace --open

bench:               ## the worker's cost and speed beside a bare loop on the same servers (ARGS: --repeat, --sizes, --rest)
	$(CARGO) build --release --workspace --bins
	$(CARGO) build --release --example floor
	target/release/bench $(ARGS)

bench-lanes:         ## hours of pacing in seconds, on a virtual clock
	$(CARGO) bench --bench lanes

bench-quota:         ## mailboxes at their quota, with windows scaled down (RabbitMQ 4: tests/brokers.sh -- make bench-quota)
	$(CARGO) build --release --workspace --bins
	target/release/bench-quota $(ARGS)

bench-fleet:         ## how evenly shards lie over a fleet, and what moves
	$(CARGO) bench --bench fleet

SECONDS ?= 600
FUZZ := framing item base64 decode job
fuzz:                ## hostile bytes for each reader of them (SECONDS, all at once)
	$(CARGO) build --release --example fuzz
	for target in $(FUZZ); do target/release/examples/fuzz $$target $(SECONDS) & pids="$$pids $$!"; done; for pid in $$pids; do wait $$pid || exit 1; done

bench-blobs:         ## the way of a blob through the worker: speed of each step, and memory of every form
	$(CARGO) build --release --example blobs
	target/release/examples/blobs speed
	for form in raw base64 gzip zstd bomb; do AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x target/release/examples/blobs memory $$form 16 150; done

test-brokers:        ## the delivery tests on RabbitMQ 3.10, 4.0 and 4.3 (root, debootstrap)
	tests/brokers.sh
