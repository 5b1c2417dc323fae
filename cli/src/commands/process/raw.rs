//! The terminal without its own ideas of lines, echo and signals.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::Outcome;

/// Raw while it lives.
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Makes the terminal on stdin raw.
    ///
    /// # Errors
    /// When stdin is no terminal.
    pub(super) fn enter() -> Outcome<Self> {
        let before = tcgetattr(std::io::stdin()).map_err(std::io::Error::from)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Drain, &raw).map_err(std::io::Error::from)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that has gone needs no repair.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Rows and columns of the terminal; 24 x 80 where it does not say.
pub(super) fn size() -> (u32, u32) {
    match tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => (24, 80),
    }
}
