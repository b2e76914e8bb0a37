#!/bin/sh
# Signs an image by its digest with a key, and verifies the signature. A tag can move between both; a digest cannot.
# Create the key pair once: cosign generate-key-pair
set -eu

image=${1:?usage: sign.sh registry.example.com/team/app@sha256:...}
case $image in
*@sha256:*) ;;
*)
  echo "name the image by its digest: $image" >&2
  exit 2
  ;;
esac

cosign sign --yes --key cosign.key "$image"
cosign verify --key cosign.pub "$image"
