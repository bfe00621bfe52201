# syntax=docker/dockerfile:1
FROM debian AS build
RUN apt-get update && apt-get install -y --no-install-recommends cargo && rm -rf /var/lib/apt/lists/*
WORKDIR /app
RUN --mount=type=bind,source=src,target=src \
    --mount=type=bind,source=Cargo.toml,target=Cargo.toml \
    --mount=type=cache,target=/app/target/ \
    --mount=type=cache,target=/root/.cargo/registry/ \
    <<EOF
set -e
cargo build --manifest-path=Cargo.toml --target-dir=/app/target
cp target/debug/app /bin/app
EOF
FROM debian
RUN useradd --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --uid 10001 app
USER app
COPY --link --from=build /bin/app /bin/
ENTRYPOINT ["/bin/app"]
