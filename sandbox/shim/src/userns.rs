//! A pod whose users are not the node's: its user namespace, the namespaces that belong to it, and its files.

use podbus_sandbox_linux::plan::{Plan, tag};
use podbus_sandbox_linux::process::{self, Copy, CopyOptions, SingleThread};
use podbus_sandbox_linux::socket::{self, Fds};
use podbus_sandbox_linux::{Errno, Fd, Result, credential, file, mount, namespace};

use crate::failure::{At as _, Outcome};
use crate::rootfs;

/// Namespaces that were made together, so that the first owns the others.
pub(crate) struct Namespaces {
    pub(crate) user: Fd,
    pub(crate) net: Fd,
    ipc: Fd,
    uts: Fd,
}

impl Namespaces {
    /// Makes them, with the ids of the plan. A process that lives until then is born in them.
    pub(crate) fn make(single: SingleThread, plan: Plan<'_>) -> Outcome<Self> {
        let text = |tag| plan.first(tag).ok_or(Errno::PROTO).at("read the plan");
        let (users, groups) = (text(tag::UID_MAP)?, text(tag::GID_MAP)?);
        let (ours, theirs) = socket::pair().at("make a socket")?;
        let namespaces = namespace::USER | namespace::NET | namespace::IPC | namespace::UTS;
        let options = CopyOptions { namespaces, ..CopyOptions::default() };
        let pid = match process::copy(single, options).at("make a user namespace")? {
            Copy::Child => {
                drop(ours);
                process::exit(hand_over(&theirs).map_or(1, |()| 0))
            }
            Copy::Parent(pid) => pid,
        };
        drop(theirs);
        let made = take_over(&ours).and_then(|(process, namespaces)| {
            file::write_to(process.raw(), c"uid_map", users.bytes())?;
            file::write_to(process.raw(), c"gid_map", groups.bytes())?;
            Ok(namespaces)
        });
        drop(ours); // it ends
        let _ = process::wait(pid);
        made.at("make a user namespace")
    }

    /// Enters those that the shim has in common with its containers, but for the network.
    pub(crate) fn enter(&self) -> Result<()> {
        namespace::join(self.ipc.raw(), namespace::IPC)?;
        namespace::join(self.uts.raw(), namespace::UTS)
    }
}

/// The new process opens what is its own, which takes no privilege, and waits until it is not needed any more.
fn hand_over(shim: &Fd) -> Result<()> {
    let process = file::open(file::CWD, c"/mnt/proc/self", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    let open = |name| file::open(process.raw(), name, libc::O_RDONLY, 0);
    let (user, net, ipc, uts) = (open(c"ns/user")?, open(c"ns/net")?, open(c"ns/ipc")?, open(c"ns/uts")?);
    socket::send(shim.raw(), &[0], &[process.raw(), user.raw(), net.raw(), ipc.raw(), uts.raw()], true)?;
    socket::receive(shim.raw(), &mut [0; 1], &mut Fds::none()).map(drop)
}

fn take_over(child: &Fd) -> Result<(Fd, Namespaces)> {
    let mut fds = Fds::none();
    if socket::receive(child.raw(), &mut [0; 1], &mut fds)? == 0 {
        return Err(Errno::PERM);
    }
    let process = fds.take(0)?;
    let (user, net, ipc, uts) = (fds.take(1)?, fds.take(2)?, fds.take(3)?, fds.take(4)?);
    Ok((process, Namespaces { user, net, ipc, uts }))
}

/// Puts the layers of the plan together while the process may still map the ids of their files. `None` where the plan
/// has none. Afterwards the process has a mount namespace of its own.
pub(crate) fn mount_layers(plan: Plan<'_>, user: &Fd) -> Outcome<Option<Fd>> {
    const STEP: &str = "map the ids of the files in";
    if plan.first(tag::LOWER).is_none() {
        return Ok(None);
    }
    namespace::unshare(namespace::MOUNT).at("make a mount namespace")?;
    for field in plan.all(tag::MAPPED) {
        let path = field.cstr().at("read the plan")?;
        let mapped = mount::copy(file::CWD, path, false).at_path(STEP, field.bytes())?;
        mount::map_ids(mapped.raw(), user.raw()).at_path(STEP, field.bytes())?;
        let place = file::open(file::CWD, path, libc::O_PATH | libc::O_DIRECTORY, 0).at_path(STEP, field.bytes())?;
        mount::attach(&mapped, &place).at_path(STEP, field.bytes())?;
    }
    // The kernel mounts a new sysfs in a user namespace only where one is in full view already.
    let sys = mount::new(c"sysfs", &[], mount::NOSUID | mount::NODEV | mount::NOEXEC).at("mount /sys")?;
    let place = file::open(file::CWD, c"/mnt/sys", libc::O_PATH | libc::O_DIRECTORY, 0).at("mount /sys")?;
    mount::attach(&sys, &place).at("mount /sys")?;
    rootfs::detached(plan)
}

/// Becomes root of the user namespace that the process has joined, and nobody of the node.
pub(crate) fn become_root() -> Outcome<()> {
    credential::set_groups(&[]).at("leave the groups of the node")?;
    credential::set_group(0).at("become root of the user namespace")?;
    credential::set_user(0).at("become root of the user namespace")
}
