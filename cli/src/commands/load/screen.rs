//! The view of a test on a terminal: a thread that draws what it was handed last and reads keys. What the terminal is
//! slow at holds up no request.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use podbus_load::view::{self, Snapshot};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::crossterm::terminal::is_raw_mode_enabled;
use tokio::sync::watch;

use super::stop::Stop;
use crate::terminal::Paint;

/// A key waits so long for its effect, and a new snapshot for its frame.
const TURN: Duration = Duration::from_millis(50);

/// The terminal, until it is dropped.
pub(super) struct Screen {
    /// The thread ends with it.
    newest: Option<watch::Sender<Snapshot>>,
    thread: Option<JoinHandle<()>>,
}

impl Screen {
    /// So often there is a frame.
    pub(super) const EVERY: Duration = Duration::from_millis(200);

    /// Takes the terminal: its other screen, without echo, and keys one by one. A panic gives it back before it is told.
    ///
    /// # Errors
    /// When the terminal is none.
    pub(super) fn open(paint: Paint, stop: Stop) -> io::Result<Self> {
        let (newest, snapshots) = watch::channel(Snapshot::default());
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore())?;
        let thread = std::thread::Builder::new().name("view".to_owned()).spawn(move || {
            // That the terminal has gone ends the view and not the test.
            let _ = run(terminal, snapshots, paint, &stop);
        });
        let thread = thread.inspect_err(|_| ratatui::restore())?;
        Ok(Self { newest: Some(newest), thread: Some(thread) })
    }

    /// Whether frames are drawn: no longer when the terminal has gone, or after a panic.
    pub(super) fn is_open(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Draws `snapshot` soon, unless a newer one comes first.
    pub(super) fn show(&self, snapshot: Snapshot) {
        if let Some(newest) = &self.newest {
            newest.send_replace(snapshot);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        drop(self.newest.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was told when it came.
            let _ = thread.join();
        }
        ratatui::restore();
    }
}

fn run(
    mut terminal: DefaultTerminal,
    mut snapshots: watch::Receiver<Snapshot>,
    paint: Paint,
    stop: &Stop,
) -> io::Result<()> {
    let mut is_stale = false;
    // A panic elsewhere gives the terminal back, and then it is no more ours to draw on.
    while is_raw_mode_enabled()? {
        if event::poll(TURN)? {
            match event::read()? {
                Event::Key(key) if ends(key) => stop.ask(),
                Event::Resize(..) => is_stale = true,
                _ => {}
            }
        }
        let Ok(is_new) = snapshots.has_changed() else { break };
        if is_new || is_stale {
            let snapshot = snapshots.borrow_and_update().clone();
            terminal.draw(|frame| view::draw(frame, &snapshot, paint.0))?;
            is_stale = false;
        }
    }
    Ok(())
}

fn ends(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.is_press() && matches!((key.code, control), (KeyCode::Char('q'), false) | (KeyCode::Char('c'), true))
}
