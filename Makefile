# The commands of this project. CI calls the same ones.
.DEFAULT_GOAL := help
CARGO ?= cargo
SANDBOX := $(CARGO) run --quiet --package restore-sandbox --bin restore-sandbox --

.PHONY: help contract demo sandbox test lint doc bench-lanes tools crash-test crash-test-short

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

contract: build      ## writes docs/contract anew: schemas, AsyncAPI document, RabbitMQ definitions
	for part in job-schema:job.schema result-schema:result.schema asyncapi:asyncapi topology:topology; do \
		env -i target/debug/restore-worker contract $${part%%:*} > docs/contract/$${part##*:}.json || exit 1; done

doc:                 ## the documentation of the code
	$(CARGO) doc --no-deps --workspace --open

bench-lanes:         ## hours of pacing in seconds, on a virtual clock
	$(CARGO) bench --bench lanes

test-brokers:        ## the delivery tests on RabbitMQ 3.10, 4.0 and 4.3 (root, debootstrap)
	tests/brokers.sh
