#!/usr/bin/env bash
# base-image.sh [TAG]: makes a Debian bookworm base image from Debian's packages, for machines that can pull no image.
#
# Needs root, debootstrap and a Docker daemon; takes about a minute and 200 MB. The host's certificate bundle goes along, so that
# pip inside a build trusts what the host trusts.
set -euo pipefail
tag=${1:-debian:bookworm-slim}
if docker image inspect "$tag" >/dev/null 2>&1; then
  echo "$tag is there"
  exit 0
fi
if ! command -v debootstrap >/dev/null; then
  ((EUID == 0)) || { echo "base-image.sh: debootstrap is missing (apt-get install debootstrap)" >&2; exit 1; }
  apt-get update -q
  apt-get install -y -q --no-install-recommends debootstrap
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase bookworm "$root" >/dev/null
change=()
if test -e /etc/ssl/certs/ca-certificates.crt; then
  install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/usr/local/share/ca-host/ca.crt"
  change=(--change "ENV PIP_CERT=/usr/local/share/ca-host/ca.crt")
fi
tar -C "$root" -c . | docker import "${change[@]}" - "$tag"
