# Builds with: docker build --tag alipay-notify-gateway .
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src ./src
COPY benches ./benches
RUN cargo build --release --locked --bin alipay-notify-gateway \
    && mkdir --parents /out/data \
    && cp target/release/alipay-notify-gateway /out/

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/alipay-notify-gateway /usr/local/bin/alipay-notify-gateway
# Where the store is unless store.path says otherwise: give it a volume.
COPY --from=build --chown=65532:65532 /out/data /data
WORKDIR /
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/usr/local/bin/alipay-notify-gateway", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/alipay-notify-gateway"]
CMD ["serve"]
