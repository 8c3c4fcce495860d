# The commands of this project. CI calls the same ones.
.DEFAULT_GOAL := help
CARGO ?= cargo
SANDBOX := $(CARGO) run --quiet --package restore-sandbox --bin restore-sandbox --

.PHONY: help contract build demo sandbox test lint doc bench bench-pure bench-lanes bench-fleet bench-quota bench-memory bench-blobs fuzz tools crash-test crash-test-short chart image test-image test-brokers

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
	charts/tools.sh

test: build tools    ## unit and integration tests; installs RabbitMQ if it is missing
	$(CARGO) test --workspace

chart: build         ## renders the chart and has helm, schemas, promtool and the worker judge it
	charts/tools.sh
	charts/check.sh

IMAGE ?= restore-worker
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
ENGINE ?= $(shell command -v docker || command -v podman)

image:               ## builds the container image $(IMAGE):$(VERSION) with docker or podman (ENGINE)
	@test -n "$(ENGINE)" || { echo "there is neither docker nor podman; ENGINE=… names another"; exit 1; }
	$(ENGINE) build --build-arg RESTORE_WORKER_REVISION="$$(git rev-parse --short HEAD)" --tag $(IMAGE):$(VERSION) .

test-image: build    ## the image's root without a container engine: read-only, without root, without environment
	tests/image.sh $${CARGO_TARGET_DIR:-target}/debug/restore-worker

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

contract: build      ## writes docs/contract anew: schemas, AsyncAPI document, RabbitMQ definitions
	for part in job-schema:job.schema result-schema:result.schema asyncapi:asyncapi topology:topology; do \
		env -i target/debug/restore-worker contract $${part%%:*} > docs/contract/$${part##*:}.json || exit 1; done

doc:                 ## the documentation of the code
	$(CARGO) doc --no-deps --workspace --open

bench:               ## the worker's cost and speed beside a bare loop on the same servers, as they are shipped (ARGS: --repeat, --sizes, --latency, --mode, --rest)
	$(CARGO) build --profile dist --workspace --bins
	$(CARGO) build --profile dist --example floor
	target/dist/bench $(ARGS)

bench-memory:        ## the worker's memory with sixteen items of 150 MB at once, in every stored form
	$(CARGO) build --release --workspace --bins
	target/release/bench-memory $(ARGS)

bench-pure:          ## the pure hot paths with Criterion: preflight, body, lanes, contract (ARGS: a name, --save-baseline, …)
	$(CARGO) bench --bench pure -- $(ARGS)

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
