#!/bin/sh
# Builds the image localhost/busybox:latest from a static busybox, as an archive that `podbus image load`,
# `docker load` and any tool that reads OCI layouts take. Needs only busybox, tar and sha256sum.
#
# usage: build-busybox-image.sh OUTPUT.tar [BUSYBOX]
#
# The same busybox gives the same bytes: times are zero, names are sorted.
set -eu

output=${1:?usage: build-busybox-image.sh OUTPUT.tar [BUSYBOX]}
busybox=${2:-$(command -v busybox || true)}
name=localhost/busybox:latest

fail() {
	echo "error: $*" >&2
	exit 1
}

[ -n "$busybox" ] && [ -x "$busybox" ] || fail "no busybox here: apt-get install busybox-static"
# A dynamic one would start on this machine and nowhere else.
if ldd "$busybox" 2>/dev/null | grep -q '=>'; then
	fail "$busybox is not static: apt-get install busybox-static"
fi

case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
armv*) architecture=arm ;;
*) architecture=$(uname -m) ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
root=$work/root
layout=$work/layout
umask 022

archive() { # DIRECTORY OUTPUT
	(cd "$1" && find . -mindepth 1 -print0 | LC_ALL=C sort -z |
		tar --create --file=- --format=ustar --no-recursion --null --files-from=- \
			--mtime=@0 --owner=0 --group=0 --numeric-owner --transform='s,^\./,,') >"$2"
}

blob() { # FILE: moves it into the layout and prints its digest
	digest=$(sha256sum "$1" | cut -d' ' -f1)
	mv "$1" "$layout/blobs/sha256/$digest"
	echo "$digest"
}

size() { # DIGEST
	wc -c <"$layout/blobs/sha256/$1" | tr -d ' '
}

# The file system: busybox, a name for each of its applets, and the little that programs look for.
mkdir -p "$root/bin" "$root/sbin" "$root/usr/bin" "$root/usr/sbin" "$root/etc" "$root/dev" "$root/proc" "$root/sys" \
	"$root/run" "$root/root" "$root/home" "$root/mnt" "$root/var/log" "$root/var/www" "$root/var/spool/cron/crontabs"
mkdir -m 1777 "$root/tmp" "$root/var/tmp"
chmod 1777 "$root/tmp" "$root/var/tmp"
chmod 0700 "$root/root"
cp "$busybox" "$root/bin/busybox"
chmod 0755 "$root/bin/busybox"
"$busybox" --list-full | while read -r applet; do
	[ "$applet" = bin/busybox ] && continue
	mkdir -p "$root/$(dirname "$applet")"
	ln -f "$root/bin/busybox" "$root/$applet"
done
# Where other images have them too; a script with such a first line runs here.
for applet in env sh; do
	[ -e "$root/usr/bin/$applet" ] || ln "$root/bin/busybox" "$root/usr/bin/$applet"
done
cat >"$root/etc/passwd" <<END
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
END
cat >"$root/etc/group" <<END
root:x:0:
daemon:x:1:
www-data:x:33:
nobody:x:65534:
END
echo 'root:*:::::::' >"$root/etc/shadow"
chmod 0640 "$root/etc/shadow"
echo '<h1>busybox</h1>' >"$root/var/www/index.html"

# The layer, the config and the manifest, each named by its digest.
mkdir -p "$layout/blobs/sha256"
archive "$root" "$work/layer.tar"
layer=$(blob "$work/layer.tar")
cat >"$work/config.json" <<END
{"created":"1970-01-01T00:00:00Z","architecture":"$architecture","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"busybox"}]}
END
config=$(blob "$work/config.json")
cat >"$work/manifest.json" <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$(size "$config")},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:$layer","size":$(size "$layer")}]}
END
manifest=$(blob "$work/manifest.json")

# OCI's table of contents, and Docker's for its older versions.
echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
cat >"$layout/index.json" <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$(size "$manifest"),"platform":{"architecture":"$architecture","os":"linux"},"annotations":{"io.containerd.image.name":"$name","org.opencontainers.image.ref.name":"${name##*:}"}}]}
END
cat >"$layout/manifest.json" <<END
[{"Config":"blobs/sha256/$config","RepoTags":["$name"],"Layers":["blobs/sha256/$layer"]}]
END
archive "$layout" "$work/image.tar"
# Whole or not at all: make takes the file's presence for success.
mv "$work/image.tar" "$output.tmp.$$"
mv "$output.tmp.$$" "$output"
