#!/bin/sh
# Make a base image from Debian's own packages, for machines that reach a Debian mirror but no image registry.
#
#   debian_base.sh IMAGE [SUITE] [MIRROR]      needs root, debootstrap, and an engine: see engine.sh
#
# It trusts the certificate authorities that this machine was told to trust: a company's proxy may need that.
set -eu
. "$(dirname "$0")/engine.sh"

image=$1 suite=${2:-bookworm} mirror=${3:-http://deb.debian.org/debian}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$folder" "$mirror" >"$folder.log" 2>&1 ||
    { tail -n 20 "$folder.log" >&2; exit 1; }
rm -f "$folder.log"
rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
for file in /usr/local/share/ca-certificates/*.crt; do
    [ -e "$file" ] && cp "$file" "$folder/usr/local/share/ca-certificates/"
done
chroot "$folder" update-ca-certificates >/dev/null 2>&1
# pip has authorities of its own.
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$folder/etc/pip.conf"

case $engine in
buildah)
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$folder/" / >/dev/null
    buildah commit --quiet --rm "$container" "$image" >/dev/null
    ;;
*)
    tar -C "$folder" -c . | "$engine" import - "$image" >/dev/null
    ;;
esac
