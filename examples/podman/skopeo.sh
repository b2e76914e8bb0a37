#!/bin/sh
# Copies an image with all platforms from Docker Hub into the registry, and lists the tags. The local registry
# (`make serve`) has no TLS: registry=localhost:8787 needs tls=false.
set -eu

registry=${registry:-registry.example.com}
tls=${tls:-true}
username=${username:?the user name}

skopeo login --tls-verify="$tls" --username "$username" "$registry" # asks for the password
skopeo copy --all --dest-tls-verify="$tls" docker://docker.io/library/alpine "docker://$registry/team/app:1"
skopeo list-tags --tls-verify="$tls" "docker://$registry/team/app"
