# syntax=docker/dockerfile:1
# Sandboxes need a C library, a shell and Python, so the image is not distroless.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin sandpit \
    && install -D target/release/sandpit /out/sandpit

FROM debian:12-slim
# The versions are those of the release that the first line names.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/sandpit sandpit \
    && install -d -o sandpit -g sandpit /var/lib/sandpit
COPY --from=build /out/sandpit /usr/local/bin/sandpit
COPY LICENSE NOTICE /usr/share/doc/sandpit/
ENV SANDPIT_DATA_DIRECTORY=/var/lib/sandpit
VOLUME /var/lib/sandpit
EXPOSE 7780
USER 10001:10001
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=12 CMD ["sandpit", "probe"]
ENTRYPOINT ["sandpit"]
CMD ["up"]
