#!/bin/sh
# Lays out the image's root: the binary, the libraries that it is linked with, CA certificates.
#
#   image/assemble.sh BINARY ROOT
set -eu
binary="$1"
root="$2"
mkdir -p "$root/etc/ssl/certs" "$root/etc/restore-worker"
install -m 755 "$binary" "$root/restore-worker"
# Lines of ldd: "libm.so.6 => /lib/… (0x…)", "/lib64/ld-linux-….so.2 (0x…)"; linux-vdso has no path.
ldd "$binary" | grep -oE '/[^ ]+' | sort -u | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
# Names are looked up in /etc/hosts, then by DNS.
echo "hosts: files dns" >"$root/etc/nsswitch.conf"
