#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# deps.sh [build|test|image|bench|fuzz]: install what a target needs from Debian 12 packages, as root or through sudo. Nothing is done when all is there.
set -eu
build="build-essential pkg-config libmicrohttpd-dev libjansson-dev libuv1-dev libopenblas-dev liblapacke-dev libprotobuf-c-dev
 protobuf-c-compiler protobuf-compiler libsqlite3-dev zlib1g-dev libzstd-dev libseccomp-dev libarchive-dev libjpeg62-turbo-dev libpng-dev
 nettle-dev libgnutls28-dev ca-certificates curl jq"
test="libcmocka-dev libonnx-testdata python3 python3-venv chromium clang libclang-rt-14-dev cppcheck"
image="mmdebstrap buildah podman runc"
bench="nginx-light wrk"
fuzz="llvm-14"
# Node.js often comes from its makers; that package and Debian's npm refuse each other
command -v npm >/dev/null || test="$test nodejs npm"
case ${1:-build} in
build) want=$build ;;
test) want="$build $test" ;;
image) want=$image ;;
bench) want="$build $bench" ;;
fuzz) want="$build $test $fuzz" ;;
*) echo "deps.sh: '$1' is not one of build, test, image, bench, fuzz" >&2; exit 2 ;;
esac
missing=
for p in $want; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
