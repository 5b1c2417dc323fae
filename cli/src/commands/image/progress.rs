//! A bar a node on a terminal, a line a node elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bars of one verb.
pub(super) struct Progress {
    on_terminal: bool,
    all: MultiProgress,
    bars: BTreeMap<String, ProgressBar>,
}

/// One node's bar.
pub(super) struct NodeBar(ProgressBar);

impl Progress {
    /// A bar for each node.
    pub(super) fn new(nodes: &[String]) -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        let target = if on_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let all = MultiProgress::with_draw_target(target);
        let width = nodes.iter().map(String::len).max().unwrap_or(0);
        let bar = |node: &String| {
            let bar = all.add(ProgressBar::no_length());
            bar.set_style(style("{prefix}  {bar:30} {bytes}/{total_bytes} {msg}"));
            bar.set_prefix(format!("{node:width$}"));
            (node.clone(), bar)
        };
        let bars = nodes.iter().map(bar).collect();
        Self { on_terminal, all, bars }
    }

    /// The bar of a node.
    pub(super) fn bar(&self, node: &str) -> NodeBar {
        NodeBar(self.bars.get(node).cloned().unwrap_or_else(ProgressBar::hidden))
    }

    /// A node is ready; `what` says with what.
    pub(super) fn done(&self, node: &str, what: &str) {
        self.end(node, what);
        if !self.on_terminal {
            eprintln!("{node}: {what}");
        }
    }

    /// A node gave up. The error itself comes at the end.
    pub(super) fn failed(&self, node: &str) {
        self.end(node, "failed");
    }

    fn end(&self, node: &str, what: &str) {
        if let Some(bar) = self.bars.get(node) {
            bar.set_style(style("{prefix}  {msg}"));
            bar.finish_with_message(what.to_owned());
        }
    }

    /// Nothing more is drawn.
    pub(super) fn finish(&self) {
        let _ = self.all.clear();
        if self.on_terminal {
            // The bars go; what they said in the end stays.
            for bar in self.bars.values() {
                eprintln!("{}  {}", bar.prefix(), bar.message());
            }
        }
    }
}

impl NodeBar {
    /// Bytes in all; 0: not known.
    pub(super) fn length(&self, bytes: u64) {
        if bytes > 0 {
            self.0.set_length(bytes);
        }
    }

    /// So many bytes more.
    pub(super) fn sent(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// So many bytes so far.
    pub(super) fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

/// The template is ours and constant; a bar without style is better than none.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
