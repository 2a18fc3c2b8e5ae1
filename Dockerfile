# Builds with: docker build --tag alipay-notify-gateway .
# A release names its bases by digest, too: --build-arg RUST_DIGEST=@sha256:… --build-arg RUNTIME_DIGEST=@sha256:…
ARG RUST_DIGEST=""
ARG RUNTIME_DIGEST=""
# What is in it beside the default: traces, which cost nothing that is noticed until a collector is configured.
ARG FEATURES="otlp"
# "yes" builds twice, as deploy/build.sh says: half an hour on two cores, and less CPU for each notification.
ARG PROFILED="no"

FROM rust:1-slim-bookworm${RUST_DIGEST} AS build
ARG FEATURES
ARG PROFILED
WORKDIR /src
# Nothing of this machine's paths or times in the binary. (Whether two machines make the same bytes of it was not compared.)
# Relocations in their short form, which takes 0.4 MB less and a glibc of 2.36: the one beside it below has it.
ENV CARGO_INCREMENTAL=0 \
    RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo -Clink-arg=-Wl,-z,pack-relative-relocs"
# What plays the world while it is counted, and llvm-profdata: the versions are the distribution's and the toolchain's.
# hadolint ignore=DL3008
RUN if [ "${PROFILED}" = yes ]; then \
      apt-get update \
      && apt-get install --yes --no-install-recommends rabbitmq-server redis-server \
      && rustup component add llvm-tools; \
    fi
# The dependencies alone, with nothing of ours to link: this layer is built again only when they change.
COPY Cargo.toml Cargo.lock ./
COPY .cargo ./.cargo
RUN mkdir --parents src benches \
    && echo 'fn main() {}' >src/main.rs \
    && cp src/main.rs benches/floor.rs \
    && touch src/lib.rs \
    && if [ "${PROFILED}" = yes ]; then cargo fetch --locked; \
    else cargo build --release --locked --features "${FEATURES}" --bin alipay-notify-gateway; fi
COPY src ./src
COPY benches ./benches
COPY deploy ./deploy
# Cargo goes by times, and the real files may be older than those above.
RUN touch src/main.rs src/lib.rs \
    && built=target/release/alipay-notify-gateway \
    && if [ "${PROFILED}" = yes ]; then \
      built="$(deploy/build.sh --features "${FEATURES}")"; \
    else \
      cargo build --release --locked --features "${FEATURES}" --bin alipay-notify-gateway; \
    fi \
    && mkdir --parents /out/data \
    && strip --strip-all --output-file=/out/alipay-notify-gateway "${built}"

FROM gcr.io/distroless/cc-debian12:nonroot${RUNTIME_DIGEST}
ARG RUNTIME_DIGEST
ARG VERSION="0.0.0-dev"
ARG REVISION=""
ARG CREATED=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="alipay-notify-gateway" \
      org.opencontainers.image.description="Verifies Alipay's asynchronous notifications, announces them in RabbitMQ, and says success only when the broker has confirmed." \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.vendor="The maintainers of alipay-notify-gateway" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.url="${SOURCE}" \
      org.opencontainers.image.documentation="${SOURCE}" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot" \
      org.opencontainers.image.base.digest="${RUNTIME_DIGEST}"
COPY --from=build /out/alipay-notify-gateway /usr/local/bin/alipay-notify-gateway
# Where the store is without a configuration file; with one, set store.path = "/data/gateway.db". Give it a volume.
COPY --from=build --chown=65532:65532 /out/data /data
WORKDIR /
# By number: a kubelet cannot prove that a name is not root.
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/usr/local/bin/alipay-notify-gateway", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/alipay-notify-gateway"]
CMD ["serve"]
