//! New network namespaces, held by a descriptor.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, setns, unshare};

use super::socket::Netlink;

/// The little that a new namespace's thread does needs little stack.
const STACK_BYTES: usize = 128 << 10;

/// A network namespace that lives as long as the descriptor or a process in it.
pub(super) struct NetworkNamespace {
    /// For `setns` and for links that are born in it.
    pub(super) fd: OwnedFd,
    /// A socket inside it: it stays there, whichever thread uses it.
    pub(super) netlink: Netlink,
}

impl NetworkNamespace {
    /// Makes a namespace on a thread of its own that ends there, so that no other work can run in it by mistake.
    /// `with_ipv6`: links that are born in it may have IPv6 addresses.
    pub(super) fn create(with_ipv6: bool) -> io::Result<Self> {
        on_own_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            open_here(with_ipv6)
        })
    }

    /// One that something else has made: as [`NetworkNamespace::create`].
    pub(super) fn enter(fd: OwnedFd, with_ipv6: bool) -> io::Result<Self> {
        on_own_thread(move || {
            setns(fd, CloneFlags::CLONE_NEWNET)?;
            open_here(with_ipv6)
        })
    }
}

fn on_own_thread(work: impl FnOnce() -> io::Result<NetworkNamespace> + Send + 'static) -> io::Result<NetworkNamespace> {
    let thread = std::thread::Builder::new().name("netns".into()).stack_size(STACK_BYTES);
    let panicked = |_| Err(io::Error::other("the thread that makes network namespaces panicked"));
    thread.spawn(work)?.join().unwrap_or_else(panicked)
}

/// Of the calling thread.
fn open_here(with_ipv6: bool) -> io::Result<NetworkNamespace> {
    // Before eth0 is born: addresses are ours to give, so that nobody's router advertisement is believed and nobody is
    // asked whether an address is taken, which would hold it back for a second. Loopback was there before and keeps
    // ::1. Without IPv6 in the kernel, or with a read-only /proc/sys, no harm.
    for (name, value) in [("disable_ipv6", if with_ipv6 { "0" } else { "1" }), ("accept_ra", "0"), ("accept_dad", "0")]
    {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/default/{name}"), value);
    }
    let fd = OwnedFd::from(File::open("/proc/thread-self/ns/net")?);
    Ok(NetworkNamespace { fd, netlink: Netlink::route()? })
}
