//! A live line for each part of a cluster until it is Ready; plain lines where nobody sits at a terminal.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::watch;

use super::status::{Part, State, Status};
use crate::terminal::{Paint, Terminal, Tone};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(80);
/// The width of the column of names.
const NAME_WIDTH: usize = 10;

/// Shows `status` until all is Ready or nobody tells more.
pub(crate) async fn show(mut status: watch::Receiver<Status>, terminal: Terminal) {
    let mut lines = Lines::new(terminal);
    loop {
        let now = status.borrow_and_update().clone();
        lines.update(&now);
        if now.is_ready() || status.changed().await.is_err() {
            return;
        }
    }
}

/// Tells what changes from now on, until nobody tells more.
pub(crate) async fn follow(mut status: watch::Receiver<Status>, terminal: Terminal) {
    let shown = status.borrow_and_update().parts.iter().map(|part| (part.clone(), Line::said(part))).collect();
    let mut lines = Lines { terminal, bars: None, shown };
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        lines.update(&now);
    }
}

struct Lines {
    terminal: Terminal,
    bars: Option<MultiProgress>,
    shown: Vec<(Part, Line)>,
}

/// How a part is shown.
enum Line {
    /// On a terminal: it changes in place.
    Live(ProgressBar),
    /// Elsewhere: what was said last.
    Said(String),
}

impl Line {
    fn said(part: &Part) -> Self {
        Self::Said(plain(part))
    }
}

impl Lines {
    fn new(terminal: Terminal) -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { terminal, bars, shown: Vec::new() }
    }

    fn update(&mut self, status: &Status) {
        for part in &status.parts {
            let at = match self.shown.iter().position(|(shown, _)| shown.name == part.name) {
                Some(at) if self.shown[at].0 == *part => continue,
                Some(at) => at,
                None => {
                    let line = self
                        .bars
                        .as_ref()
                        .map_or_else(|| Line::Said(String::new()), |bars| Line::Live(spinner(bars, part)));
                    self.shown.push((part.clone(), line));
                    self.shown.len() - 1
                }
            };
            let (shown, line) = &mut self.shown[at];
            shown.clone_from(part);
            match line {
                Line::Live(bar) => draw(bar, part, self.terminal.paint),
                // Steps on the way are for who watches them; a log wants what was reached and what failed.
                Line::Said(last) if part.state != State::Starting && *last != plain(part) => {
                    *last = plain(part);
                    self.terminal.note(last);
                }
                Line::Said(_) => {}
            }
        }
    }
}

fn spinner(bars: &MultiProgress, part: &Part) -> ProgressBar {
    let bar = bars.add(ProgressBar::new_spinner());
    if let Ok(style) = ProgressStyle::with_template(" {spinner} {prefix} {msg} {elapsed:.dim}") {
        bar.set_style(style.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ "));
    }
    bar.set_prefix(format!("{:NAME_WIDTH$}", part.name));
    bar.enable_steady_tick(TICK);
    bar
}

fn draw(bar: &ProgressBar, part: &Part, paint: Paint) {
    let mark = match part.state {
        State::Ready => paint.tone(Tone::Good, "✔"),
        State::Stopped => "-".to_owned(),
        State::Starting | State::Failing => {
            bar.set_message(format!("{} {}", paint.tone(Tone::Waiting, part.state.as_str()), part.detail));
            return;
        }
    };
    if let Ok(style) = ProgressStyle::with_template(&format!(" {mark} {{prefix}} {{msg}}")) {
        bar.set_style(style);
    }
    bar.finish_with_message(format!("{} {}", part.state.as_str(), part.detail));
}

/// One part as a line of text.
pub(crate) fn plain(part: &Part) -> String {
    format!("{:NAME_WIDTH$} {:8} {}", part.name, part.state.as_str(), part.detail).trim_end().to_owned()
}
