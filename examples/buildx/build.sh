#!/bin/sh
# Builds for two platforms, pushes the index, and keeps the build cache in the registry. BuildKit sends a blob as one
# request: layers above Cloudflare's request limit need `registry-push proxy` (docs/push.md).
set -eu

image=registry.example.com/team/app
tag=${1:?usage: build.sh TAG}

# The default builder of docker cannot export a cache to a registry.
docker buildx inspect registry-cache >/dev/null 2>&1 || docker buildx create --name registry-cache

docker buildx build . \
  --builder registry-cache \
  --platform linux/amd64,linux/arm64 \
  --cache-from "type=registry,ref=$image:buildcache" \
  --cache-to "type=registry,ref=$image:buildcache,mode=max,image-manifest=true,oci-mediatypes=true" \
  --tag "$image:$tag" \
  --push
