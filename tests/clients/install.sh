#!/usr/bin/env bash
# Installs the clients that `make clients` drives: Debian's dockerd 20.10 with its own client, skopeo, podman, buildah,
# containerd, and docker-registry to pull through. The others are built from source (go-tools.txt), containers/image with
# a C compiler: its cache of what lies where is SQLite.
# For a Debian 12 machine, as root. Does nothing when they are there.
set -euo pipefail

# Debian's own paths: another docker client may come first on the PATH, and the tests use these.
if [ -x /usr/bin/docker ] && [ -x /usr/sbin/dockerd ] && [ -x /usr/bin/skopeo ] && [ -x /usr/bin/podman ] &&
    [ -x /usr/bin/buildah ] && [ -x /usr/bin/ctr ] && [ -x /usr/bin/docker-registry ] && [ -x /usr/bin/gcc ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "tests/clients/install.sh: docker.io, skopeo, podman, buildah, containerd, docker-registry and gcc are not all installed, and installing them needs root" >&2
    exit 1
fi

# The docker.io package starts its daemon when it is installed; the tests start one of their own.
# policy-rc.d is Debian's way to say no. One that is there already is the machine's, and stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends docker.io skopeo podman buildah containerd docker-registry gcc libc6-dev
