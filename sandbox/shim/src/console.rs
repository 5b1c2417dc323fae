//! Standard input and output of a process: pipes, descriptors of the daemon, or a terminal of the container's own.

use podbus_sandbox_linux::message::{BYTES_MAX, Message, kind};
use podbus_sandbox_linux::path::{self, Leaf};
use podbus_sandbox_linux::plan::{Plan, tag};
use podbus_sandbox_linux::{Fd, Result, file, mount, socket, terminal};

use crate::failure::{At as _, Outcome};

/// The group `tty`, as every distribution numbers it.
const TTY_GROUP: u32 = 5;

/// Opens a terminal in the container's own devpts, makes it the standard descriptors, and sends its other side to the
/// shim. The root is the container's by now, so that names are those inside.
pub(crate) fn open_terminal(root: &Fd, user: u32, on_dev_console: bool, shim: &Fd) -> Outcome<()> {
    let master =
        file::open_resolve(root.raw(), c"dev/pts/ptmx", libc::O_RDWR | libc::O_NOCTTY, file::RESOLVE_NO_SYMLINKS)
            .at("open a terminal in /dev/pts")?;
    let peer = terminal::open_peer(master.raw()).at("unlock the terminal")?;
    file::chown(peer.raw(), user, TTY_GROUP).at("give the terminal to the user")?;
    if on_dev_console {
        bind_console(root, &peer).at("mount the terminal on /dev/console")?;
    }
    let mut packet = [0; BYTES_MAX];
    let length = Message { kind: kind::DONE, ..Message::default() }.encode(&mut packet);
    socket::send(shim.raw(), &packet[..length], &[master.raw()], true).at("hand over the terminal")?;
    for number in 0..3 {
        file::dup_onto(peer.raw(), number).at("set the standard descriptors")?;
    }
    terminal::take_control(0).at("take control of the terminal")
}

fn bind_console(root: &Fd, peer: &Fd) -> Result<()> {
    let target = path::open_or_make_in(root, b"dev/console", Leaf::File)?;
    mount::attach(&mount::copy(peer.raw(), c"", false)?, &target)
}

/// Gives pipes to a user of a user namespace: only the node's root may, so the shim does it before the process is there.
pub(crate) fn give(plan: Plan<'_>, pipes: [Option<&Fd>; 3]) {
    let Some(owner) = plan.first(tag::OWNER).and_then(|field| field.small().ok()) else { return };
    for pipe in pipes.into_iter().flatten() {
        let _ = file::chown(pipe.raw(), owner, u32::MAX); // as in set_standard
    }
}

/// Makes `input`, `output` and `error` the standard descriptors; the user may open them again by `/dev/stdout`.
pub(crate) fn set_standard(user: u32, input: Option<&Fd>, output: &Fd, error: &Fd) -> Outcome<()> {
    let null = match input {
        Some(_) => None,
        None => Some(file::open(file::CWD, c"/mnt/dev/null", libc::O_RDONLY, 0).at("open /dev/null")?),
    };
    if user != 0 {
        for pipe in [input, Some(output), Some(error)].into_iter().flatten() {
            // A descriptor that cannot be given away (a file, a socket of the daemon) stays as it is.
            let _ = file::chown(pipe.raw(), user, u32::MAX);
        }
    }
    let places = [input.or(null.as_ref()), Some(output), Some(error)];
    // All are above 2 by now, so that none is overwritten before its turn.
    for (number, fd) in (0..).zip(places) {
        if let Some(fd) = fd {
            file::dup_onto(fd.raw(), number).at("set the standard descriptors")?;
        }
    }
    Ok(())
}
