//! How a person ends a test: once to stop it, once more to leave at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How often the end was asked for.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Sender<u32>);

impl Stop {
    /// Asked for by Ctrl-C and by SIGTERM, from now on.
    pub(super) fn on_signals() -> std::io::Result<Self> {
        let stop = Self(watch::Sender::new(0));
        let (mut interrupts, mut terminations) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let asked = stop.clone();
        tokio::spawn(async move {
            loop {
                // Both are cancel-safe: a signal that was not returned is returned later.
                tokio::select! {
                    _ = interrupts.recv() => {}
                    _ = terminations.recv() => {}
                }
                asked.ask();
            }
        });
        Ok(stop)
    }

    /// Asks once more.
    pub(super) fn ask(&self) {
        self.0.send_modify(|times| *times += 1);
    }

    /// Waits until the end was asked for so often.
    pub(super) async fn asked(&self, times: u32) {
        // It cannot fail: `self` holds the sender.
        let _ = self.0.subscribe().wait_for(|asked| *asked >= times).await;
    }
}
