# SPDX-License-Identifier: Apache-2.0
# Two stages: build with the compiler, run with the shared libraries only. Non-root, read-only root file system, one volume.
FROM debian:bookworm-slim AS build
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    build-essential pkg-config libmicrohttpd-dev libjansson-dev libuv1-dev libopenblas-dev liblapacke-dev libprotobuf-c-dev \
    protobuf-c-compiler protobuf-compiler libsqlite3-dev zlib1g-dev libzstd-dev libseccomp-dev libarchive-dev \
    libjpeg62-turbo-dev libpng-dev nettle-dev libgnutls28-dev
WORKDIR /src
COPY . .
ARG OPT=-O2
RUN make -j2 OPT_release=$OPT all && strip -o /pared build/pared

FROM debian:bookworm-slim
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    libmicrohttpd12 libjansson4 libuv1 libopenblas0-pthread liblapacke libprotobuf-c1 libsqlite3-0 zlib1g libzstd1 libseccomp2 \
    libarchive13 libjpeg62-turbo libpng16-16 libnettle8 libgnutls30 \
    && rm -rf /var/lib/apt/lists/* /var/cache/ldconfig /var/log/apt /var/log/dpkg.log \
    && mkdir /data && chown 65532:65532 /data
COPY --from=build /pared /usr/local/bin/pared
USER 65532:65532
VOLUME /data
ENV PARED_DATA=/data PARED_LISTEN=0.0.0.0:8080 PARED_API_KEY_FILE=/run/secrets/pared_keys
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s CMD ["/usr/local/bin/pared", "healthcheck"]
LABEL org.opencontainers.image.title="pared" org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["/usr/local/bin/pared"]
CMD ["serve"]
