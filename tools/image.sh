#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# image.sh: build the container image with buildah (chroot isolation, no daemon), start it once read-only and non-root, ask for its health, stop it.
# IMAGE_OPT=-O0 builds sooner, for who only wants to see that it can be built and started.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "image.sh: needs root (buildah's chroot isolation)" >&2; exit 1; }
work=$PWD/build/image
mkdir -p "$work"
store="--root $work/storage --runroot $work/run --storage-driver vfs"
base=docker.io/library/debian:bookworm-slim
image=localhost/pared:dev

if ! buildah $store inspect --type image "$base" >/dev/null 2>&1; then
    echo "base image from Debian packages ..."
    [ -s "$work/base.tar" ] || mmdebstrap --quiet --variant=minbase --mode=root bookworm "$work/base.tar"
    c=$(buildah $store from scratch)
    buildah $store add -q "$c" "$work/base.tar" /
    buildah $store config --cmd /bin/bash "$c"
    buildah $store commit -q "$c" "$base"
    buildah $store rm "$c" >/dev/null
fi
echo "building $image ..."
buildah $store bud -q --build-arg OPT="${IMAGE_OPT:--O2}" --isolation chroot --pull-never --format docker -t "$image" . >"$work/build.log" 2>&1 ||
    { tail -n 30 "$work/build.log"; exit 1; }

echo "starting it once ..."
keys=$work/keys.txt
echo "image-test-key-0123456789abcdef0123456789" >"$keys"
chmod 644 "$keys"
name=pared-image-test-$$
run="podman $store --cgroup-manager cgroupfs"
cleanup() { $run rm -f -t 1 "$name" >/dev/null 2>&1 || true; }
trap cleanup EXIT
port=18473
if $run run -d --name "$name" --runtime runc --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 --network=host --read-only \
    --tmpfs /tmp --cap-drop=all --security-opt=no-new-privileges -v "$keys:/run/secrets/pared_keys:ro" \
    -e PARED_LISTEN=127.0.0.1:$port "$image" >/dev/null 2>"$work/run.log"; then
    how="podman, read-only root"
    for i in $(seq 50); do curl -fs "http://127.0.0.1:$port/healthz" >/dev/null 2>&1 && break; sleep 0.2; done
    curl -fsS "http://127.0.0.1:$port/healthz"; echo
    $run exec "$name" /usr/local/bin/pared healthcheck
    [ "$($run exec "$name" id -u)" = 65532 ] || { echo "does not run as 65532" >&2; exit 1; }
    $run stop -t 10 "$name" >/dev/null
    code=$($run inspect -f '{{.State.ExitCode}}' "$name")
    [ "$code" = 0 ] || { echo "stopped with exit status $code" >&2; $run logs "$name" | tail; exit 1; }
else # no runtime may start containers here: run it in buildah's chroot
    how="buildah chroot (podman: $(tail -n 1 "$work/run.log" | cut -c1-120))"
    c=$(buildah $store from --pull-never "$image")
    trap 'buildah $store rm "$c" >/dev/null' EXIT
    buildah $store run --isolation chroot -v "$keys:/run/secrets/pared_keys:ro" "$c" -- sh -c "
        PARED_LISTEN=127.0.0.1:$port /usr/local/bin/pared serve & p=\$!
        for i in \$(seq 50); do PARED_LISTEN=127.0.0.1:$port /usr/local/bin/pared healthcheck && break; sleep 0.2; done
        [ \$(id -u) = 65532 ] && kill -TERM \$p && wait \$p"
fi
bytes=$(buildah $store images --format '{{.Size}}' "$image" | tail -n 1)
echo "image: ok ($image, $bytes, started and stopped with $how)"
