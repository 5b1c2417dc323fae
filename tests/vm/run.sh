#!/usr/bin/env bash
# Runs a test binary as root in a virtual machine: a Debian kernel, cgroup v2 and nothing else. Cargo calls it as the
# runner of `make test-vm`. It needs neither root nor KVM: each instruction is emulated, which takes its time.
#
# usage: run.sh TEST_BINARY [ARGUMENT...]
#
# What it makes is in target/vm: the kernel, kept for the next run, and a disk for this one.
set -euo pipefail

binary=$(realpath "${1:?usage: run.sh TEST_BINARY [ARGUMENT...]}")
shift
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
cache=$repo/target/vm
kernel_meta=linux-image-cloud-amd64 # the one without drivers of real machines: a tenth of the size
# What the tests call. Those that need another program are not for this place.
programs=(ip nft runc jq)
# Those of util-linux and coreutils that a handler in shell calls by their options, and its shell: busybox's know less.
tools=(unshare nsenter setpriv mount setsid env realpath dash)
memory_mib=3072
seconds_max=900

fail() {
	echo "error: $*" >&2
	exit 1
}

[ "$(uname -m)" = x86_64 ] || fail "tests/vm/run.sh knows kernels for x86_64 only"
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$cache"
work=$(mktemp -d -p "$cache")
trap 'rm -rf "$work"' EXIT

# Fetches Debian's kernel and unpacks it, so that nothing is installed or booted here.
fetch_kernel() {
	local package
	package=$(apt-cache depends "$kernel_meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	[ -n "$package" ] || fail "apt-get knows no $kernel_meta: this needs the packages of Debian (apt-get update)"
	kernel=$cache/$package
	[ -e "$kernel/vmlinuz" ] && return
	echo "==> fetching $package"
	(cd "$work" && apt-get download -qq -o APT::Sandbox::User="$(id -un)" "$package") || fail "cannot fetch $package: apt-get update"
	dpkg-deb -x "$work/$package"_*.deb "$work/kernel"
	depmod -b "$work/kernel" "${package#linux-image-}"
	mv "$work/kernel/boot/vmlinuz-${package#linux-image-}" "$work/kernel/vmlinuz"
	rm -rf "$work/kernel/boot" "$work/kernel/usr" "$kernel"
	mv "$work/kernel" "$kernel"
}

# Copies a program to a directory of the disk, and its libraries to where they are here.
take() { # PROGRAM DIRECTORY
	install -D -m 0755 "$1" "$root$2/$(basename "$1")"
	{ ldd "$1" 2>/dev/null || true; } | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i }' | while read -r library; do
		[ -e "$root$library" ] || install -D -m 0755 "$library" "$root$library"
	done
}

fetch_kernel
root=$work/root
mkdir -p "$root"/{bin,dev,etc,proc,run,sys,tmp,usr/sbin,root,var/tmp} "$root$repo/sandbox"
take "$(command -v busybox)" /bin
for program in "${programs[@]}"; do
	take "$(command -v "$program" || fail "no $program here: make setup-tests")" /usr/sbin
done
for tool in "${tools[@]}"; do
	take "$(command -v "$tool")" /usr/bin
done
take "$binary" /test
strip --strip-debug "$root/test/$(basename "$binary")"
cp -r "$repo/examples" "$root$repo/examples" # the tests look for it where it was when they were built
mkdir -p "$root/lib"
cp -r "$kernel/lib/modules" "$root/lib/modules"
install -m 0755 "$here/init" "$root/init"
{
	printf 'cd %q\n' "$repo/sandbox"
	printf 'exec %q' "/test/$(basename "$binary")"
	[ $# = 0 ] || printf ' %q' "$@"
	echo
} >"$root/test/command"
truncate -s 4G "$work/disk"
mkfs.ext4 -q -F -m 0 -d "$root" "$work/disk"

# The kernel finds the disk by modules, which it finds in this.
mkdir -p "$work/initramfs"/{bin,dev,proc,disk,lib}
cp "$root/bin/busybox" "$work/initramfs/bin/busybox"
cp -r "$root/lib/modules" "$work/initramfs/lib/modules"
install -m 0755 "$here/init" "$work/initramfs/init"
(cd "$work/initramfs" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/initramfs.cpio"
rm -rf "$root" "$work/initramfs"

echo "==> booting $(basename "$kernel") with cgroup v2"
# The second serial port carries the exit code: a machine that dies writes none.
timeout "$seconds_max" qemu-system-x86_64 -machine q35,accel=tcg -cpu max -smp 2 -m "$memory_mib" -nodefaults \
	-no-reboot -display none -serial stdio -serial "file:$work/status" \
	-drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" \
	-kernel "$kernel/vmlinuz" -initrd "$work/initramfs.cpio" \
	-append "console=ttyS0 loglevel=3 panic=-1 mitigations=off" </dev/null | tr -d '\r' ||
	fail "the virtual machine did not end by itself within $seconds_max s"
status=$(tr -dc 0-9 <"$work/status")
[ -n "$status" ] || fail "the virtual machine ended before its tests did"
exit "$status"
