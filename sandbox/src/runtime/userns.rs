//! The user namespace of a pod. The shim makes it and keeps it; the daemon borrows it to map the ids of files.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use podbus_sandbox_linux::message::{Message, kind};
use podbus_sandbox_linux::plan::tag;
use podbus_sandbox_linux::{file, mount};

use super::{Outcome, Runtime, RuntimeError, Sandbox, doing};
use crate::link::{Link, LinkError};
use crate::plan::Draft;
use crate::userns::Mapping;

impl Runtime {
    /// Whether pods of a runtime handler may have user namespaces of their own.
    pub(crate) fn has_user_namespaces(&self, handler: &str) -> bool {
        self.can_make_user_namespaces && matches!(self.handlers.find(handler), Ok(None))
    }

    /// Makes the user namespace of a pod that is not set up yet, and the network namespace that belongs to it. Files of
    /// images and volumes have to be able to belong to it.
    pub(super) async fn make_user_namespace(&self, link: &Link, mapping: Mapping) -> Outcome<OwnedFd> {
        let mut draft = Draft::default();
        draft.bytes(tag::UID_MAP, mapping.users.line());
        draft.bytes(tag::GID_MAP, mapping.groups.line());
        let plan = draft.seal().map_err(doing("write the plan"))?;
        let (user, net) = ask(link, plan.fds()).await?;
        let dir =
            CString::new(self.state_dir.as_os_str().as_bytes()).map_err(|error| doing("read a path")(error.into()))?;
        let mapped = mount::copy(file::CWD, &dir, false).and_then(|copy| mount::map_ids(copy.raw(), user.as_raw_fd()));
        let action =
            format!("map the ids of files in {}: its file system and kernel have to let it", self.state_dir.display());
        mapped.map_err(|errno| doing(action)(errno.into()))?;
        Ok(net)
    }
}

impl Sandbox {
    /// Its user namespace, if it has one of its own.
    pub(super) async fn user_namespace(&self, link: &Link) -> Outcome<Option<OwnedFd>> {
        match self.mapping() {
            Some(_) => ask(link, &[]).await.map(|(user, _)| Some(user)),
            None => Ok(None),
        }
    }
}

/// Whether this kernel has them, and mounts overlays of layers whose ids are mapped (Linux 5.19).
pub(super) fn are_possible() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    version >= (5, 19) && limit.trim().parse::<u64>().is_ok_and(|limit| limit > 0)
}

async fn ask(link: &Link, fds: &[i32]) -> Outcome<(OwnedFd, OwnedFd)> {
    let answer = link.request(Message { kind: kind::USER_NAMESPACE, ..Message::default() }, fds).await?;
    let mut fds = answer.fds.into_iter();
    fds.next().zip(fds.next()).ok_or(RuntimeError::Link(LinkError::Gone))
}
