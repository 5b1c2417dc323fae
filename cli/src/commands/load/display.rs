//! Where a test shows how it goes: a line a second on stderr, or a view that fills the terminal.

use std::cell::RefCell;
use std::time::Duration;

use podbus_load::report::Sample;
use podbus_load::view::Snapshot;

use super::screen::Screen;
use super::stop::Stop;
use crate::failure::Outcome;
use crate::terminal::Terminal;

/// A line so often.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Lines, or a view while it is open.
pub(super) struct Display<'a> {
    terminal: &'a Terminal,
    screen: Option<Screen>,
    /// What is said once the view is closed.
    notes: RefCell<Vec<String>>,
}

impl<'a> Display<'a> {
    /// With a view if it is `wanted` and somebody can see it.
    pub(super) fn open(terminal: &'a Terminal, wanted: bool, stop: &Stop) -> Outcome<Self> {
        let screen = (wanted && terminal.is_interactive()).then(|| Screen::open(terminal.paint, stop.clone()));
        Ok(Self { terminal, screen: screen.transpose()?, notes: RefCell::default() })
    }

    fn view(&self) -> Option<&Screen> {
        self.screen.as_ref().filter(|screen| screen.is_open())
    }

    /// How often [`Self::show`] is of use.
    pub(super) fn shows_every(&self) -> Duration {
        self.view().map_or(LINE_EVERY, |_| Screen::EVERY)
    }

    /// Shows how it goes.
    pub(super) fn show(&self, snapshot: Snapshot) {
        if let Some(screen) = self.view() {
            return screen.show(snapshot);
        }
        let Sample { seconds, due, created, bound, running, deleted, in_flight, nodes_ready, .. } = snapshot.now;
        self.terminal.note(&format!(
            "{seconds:>5.0} s  due {due}  created {created}  bound {bound}  running {running}  deleted {deleted}  \
             in flight {in_flight}  nodes {nodes_ready}"
        ));
    }

    /// A sentence for the person.
    pub(super) fn note(&self, text: &str) {
        match self.view() {
            Some(_) => self.notes.borrow_mut().push(text.to_owned()),
            None => self.terminal.note(text),
        }
    }

    /// Gives the terminal back.
    pub(super) fn close(self) {
        drop(self.screen);
        self.notes.take().iter().for_each(|note| self.terminal.note(note));
    }
}
