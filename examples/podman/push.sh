#!/bin/sh
# Logs in, pushes and pulls with podman. The local registry (`make serve`) has no TLS: registry=localhost:8787 needs
# tls=false. podman sends a layer as one request; larger layers need `registry-push` (docs/push.md).
set -eu

registry=${registry:-registry.example.com}
tls=${tls:-true}
username=${username:?the user name}

podman login --tls-verify="$tls" --username "$username" "$registry" # asks for the password
podman tag docker.io/library/alpine "$registry/team/app:1"
podman push --tls-verify="$tls" "$registry/team/app:1"
podman pull --tls-verify="$tls" "$registry/team/app:1"
