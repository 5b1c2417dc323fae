//! The one door to the terminal: data on stdout, all else on stderr, colour only where a person looks.

use std::io::{self, IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;

use crate::failure::Outcome;

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where a command prints, and whether in colour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    /// Colour on stdout.
    pub(crate) paint: Paint,
    /// Colour on stderr.
    paint_errors: Paint,
}

impl Terminal {
    /// Decides on colours once.
    pub(crate) fn new(when: ColorWhen) -> Self {
        let wanted = |is_terminal: bool| match when {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => is_terminal && colours_are_welcome(),
        };
        Self {
            paint: Paint(wanted(io::stdout().is_terminal())),
            paint_errors: Paint(wanted(io::stderr().is_terminal())),
        }
    }

    /// Whether a person looks at stdout, and types: not through a pipe, and not in the background.
    pub(crate) fn is_interactive(&self) -> bool {
        let in_front =
            || rustix::termios::tcgetpgrp(io::stdout()).is_ok_and(|front| front == rustix::process::getpgrp());
        io::stdout().is_terminal() && io::stdin().is_terminal() && in_front() && !is_dumb()
    }

    /// Data, as it is.
    pub(crate) fn print(&self, text: &str) -> Outcome {
        self.print_bytes(text.as_bytes())
    }

    /// Data that need not be text.
    pub(crate) fn print_bytes(&self, bytes: &[u8]) -> Outcome {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    /// Data, then a line's end.
    pub(crate) fn line(&self, text: &str) -> Outcome {
        self.print(&format!("{text}\n"))
    }

    /// A sentence for the person, on stderr. That stderr is gone stops nobody.
    pub(crate) fn note(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// The report of a failure, on stderr; only its first word is coloured.
    pub(crate) fn report(&self, text: &str) {
        let mut painted = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let word = [("error:", Tone::Bad), ("Error from server", Tone::Bad), ("hint:", Tone::Name)]
                .into_iter()
                .find_map(|(word, tone)| Some((word, tone, line.strip_prefix(word)?)));
            match word {
                Some((word, tone, rest)) => painted.extend([self.paint_errors.tone(tone, word).as_str(), rest]),
                None => painted.push_str(line),
            }
        }
        let _ = io::stderr().lock().write_all(painted.as_bytes());
    }
}

/// <https://no-color.org>: any value but an empty one.
fn colours_are_welcome() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && !is_dumb()
}

/// Whether the terminal can only print, line after line.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint(pub(crate) bool);

/// What a word means to the eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// All is well: green.
    Good,
    /// Something is under way: yellow.
    Waiting,
    /// Somebody should look: red.
    Bad,
    /// A name or a key: cyan.
    Name,
}

impl Paint {
    /// `text` in the tone's colour.
    pub(crate) fn tone(self, tone: Tone, text: &str) -> String {
        let color = match tone {
            Tone::Good => AnsiColor::Green,
            Tone::Waiting => AnsiColor::Yellow,
            Tone::Bad => AnsiColor::Red,
            Tone::Name => AnsiColor::Cyan,
        };
        self.color(color, text)
    }

    /// A status or a reason in the colour that its words have in kubecolor; unknown words stay plain.
    pub(crate) fn word(self, text: &str) -> String {
        match tone_of(text) {
            Some(tone) => self.tone(tone, text),
            None => text.to_owned(),
        }
    }

    /// One of five colours, the same for the same key: tells streams apart.
    pub(crate) fn of_stream(self, key: usize, text: &str) -> String {
        const COLORS: [AnsiColor; 5] =
            [AnsiColor::Cyan, AnsiColor::Green, AnsiColor::Magenta, AnsiColor::Yellow, AnsiColor::Blue];
        self.color(COLORS[key % COLORS.len()], text)
    }

    fn color(self, color: AnsiColor, text: &str) -> String {
        if !self.0 || text.is_empty() {
            return text.to_owned();
        }
        let style = Style::new().fg_color(Some(color.into()));
        format!("{style}{text}{style:#}")
    }
}

fn tone_of(word: &str) -> Option<Tone> {
    Some(match word {
        "Running" | "Completed" | "Succeeded" | "Ready" | "Active" | "Pulled" | "Created" | "Started" | "Scheduled"
        | "NodeReady" | "True" => Tone::Good,
        "Pending" | "ContainerCreating" | "PodInitializing" | "Terminating" | "Pulling" | "Killing"
        | "SchedulingDisabled" | "Warning" => Tone::Waiting,
        "Error"
        | "ErrImagePull"
        | "ErrImageNeverPull"
        | "ImagePullBackOff"
        | "CrashLoopBackOff"
        | "OOMKilled"
        | "Evicted"
        | "Failed"
        | "NotReady"
        | "FailedScheduling"
        | "Unhealthy"
        | "BackOff"
        | "Unknown"
        | "StartError"
        | "CreateContainerError"
        | "CreateContainerConfigError"
        | "InvalidImageName"
        | "ContainerStatusUnknown"
        | "NodeLost"
        | "OutOfcpu"
        | "OutOfmemory"
        | "OutOfpods"
        | "NodeNotReady" => Tone::Bad,
        _ if word.starts_with("Init:") => match word.trim_start_matches("Init:").as_bytes().first() {
            Some(digit) if digit.is_ascii_digit() => Tone::Waiting,
            _ => Tone::Bad,
        },
        _ if word.starts_with("Signal:") || word.starts_with("ExitCode:") => Tone::Bad,
        _ if word.starts_with("NotReady,") => Tone::Bad,
        _ if word.starts_with("Ready,") => Tone::Waiting,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_changes_no_byte_but_colour() {
        assert_eq!(Paint(false).word("Running"), "Running");
        assert_eq!(Paint(true).word("Running"), "\u{1b}[32mRunning\u{1b}[0m");
        assert_eq!(Paint(true).word("web-1"), "web-1");
    }

    #[test]
    fn words_have_the_tones_that_eyes_expect() {
        for (word, tone) in [
            ("Init:1/2", Some(Tone::Waiting)),
            ("Init:CrashLoopBackOff", Some(Tone::Bad)),
            ("Ready,SchedulingDisabled", Some(Tone::Waiting)),
            ("ExitCode:3", Some(Tone::Bad)),
            ("web", None),
        ] {
            assert_eq!(tone_of(word), tone, "{word}");
        }
    }
}
