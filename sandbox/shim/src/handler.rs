//! Commands of a runtime handler, an OCI runtime: they run on the node as children of the shim, so that the processes
//! that they leave become the shim's own (it is a subreaper).

use core::ffi::CStr;

use podbus_sandbox_linux::plan::{Plan, tag};
use podbus_sandbox_linux::process::{self, Ended};
use podbus_sandbox_linux::socket::Fds;
use podbus_sandbox_linux::{Errno, Fd, Result, file, mount, namespace};

use crate::child::{self, Standard};
use crate::failure::{At as _, Failure, Outcome};
use crate::{console, rootfs};

/// Ends of orphans that are remembered until the daemon says whose they are.
const STRAYS_MAX: usize = 32;

/// How orphans ended that nobody has claimed yet, the latest ones.
pub(crate) struct Strays {
    ended: [Option<Ended>; STRAYS_MAX],
    next: usize,
}

impl Strays {
    pub(crate) fn none() -> Self {
        Self { ended: [None; STRAYS_MAX], next: 0 }
    }

    pub(crate) fn keep(&mut self, ended: Ended) {
        self.ended[self.next] = Some(ended);
        self.next = (self.next + 1) % STRAYS_MAX;
    }

    fn take(&mut self, pid: i32) -> Option<Ended> {
        let place = self.ended.iter_mut().find(|place| place.is_some_and(|ended| ended.pid == pid))?;
        place.take()
    }

    /// Claims an orphan: `None` while it lives, and how it ended. Fails where it never was a child.
    pub(crate) fn claim(&mut self, pid: i32) -> Outcome<Option<Ended>> {
        if pid > 1 && process::is_child(pid) {
            return Ok(None);
        }
        self.take(pid).map(Some).ok_or(Errno::SRCH).at("find the process that the handler made")
    }
}

/// Becomes a command of the handler, on the node: in a copy of its mounts, to which what the plan names is attached, so
/// that nothing is ever mounted on the node itself. All that is mounted ends with the processes that see it.
pub(crate) fn run(plan: Plan<'_>, fds: &Fds, standard: &Standard<'_>, shim: &Fd) -> Failure {
    let prepared = (|| {
        process::new_session().at("start a session")?;
        console::set_standard(0, standard.input, standard.output, standard.error)?;
        let root = rootfs::detached(plan)?;
        let shm = match plan.first(tag::HANDLER_SHM) {
            Some(_) => Some(mount::copy(file::CWD, c"/mnt/shm", false).at("copy the pod's /dev/shm")?),
            None => None,
        };
        enter_node(plan, fds)?;
        for (tag, mounted) in [(tag::HANDLER_ROOT, root), (tag::HANDLER_SHM, shm)] {
            if let (Some(field), Some(mounted)) = (plan.first(tag), mounted) {
                attach(&mounted, field.cstr()).at_path("attach", field.bytes())?;
            }
        }
        for field in plan.all(tag::MOUNT) {
            let (index, _, target) = field.mount().at("read the plan")?;
            let source = fds.get(index).at("read the plan")?;
            // The field ends in NUL, and so does what is left of it.
            let path = field.cstr_after(field.bytes().len() - target.len());
            attach(source, path).at_path("attach", target)?;
        }
        Ok(())
    })();
    match prepared {
        Ok(()) => child::become_tool(plan, shim),
        Err(failure) => failure,
    }
}

fn attach(mounted: &Fd, path: Result<&CStr>) -> Result<()> {
    let place = file::open(file::CWD, path?, libc::O_PATH, 0)?;
    mount::attach(mounted, &place)
}

fn enter_node(plan: Plan<'_>, fds: &Fds) -> Outcome<()> {
    let node = plan.first(tag::FD_NODE).ok_or(Errno::PROTO).at("read the plan")?;
    let node = node.index().and_then(|index| fds.get(index)).at("read the plan")?;
    let kinds = namespace::MOUNT | namespace::NET | namespace::IPC | namespace::UTS;
    namespace::join(node.raw(), kinds).at("enter the node's namespaces")?;
    namespace::unshare(namespace::MOUNT).at("copy the node's mounts")?;
    let root = file::open(file::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).at("open the node's root")?;
    mount::set(root.raw(), 0, Some(mount::Propagation::Slave), true).at("keep mounts from the node")
}
