# syntax=docker/dockerfile:1
# The worker's image: one binary, the C library that it is linked with, CA certificates. No shell, no root, nothing to write.
# `make image` builds it; tests/image.sh runs the same commands without a container engine.

FROM rust:1.95.0-slim-bookworm AS build
# For the allocator's own build; any version does, and a pinned one is soon gone from the archive.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /source
# The image's own toolchain; rust-toolchain.toml would have more fetched.
ENV RUSTUP_TOOLCHAIN=1.95.0
COPY . .
ARG RESTORE_WORKER_REVISION=unknown
RUN image/build.sh && image/assemble.sh target/dist/restore-worker /image

FROM scratch
COPY --from=build /image /
USER 65532:65532
EXPOSE 9464
ENTRYPOINT ["/restore-worker"]
CMD ["run"]
