//! Long work, shown as it goes: a bar where a person looks on, now and then a line where a script does.
//!
//! Everything goes to stderr, so that what a command answers stays clean. Work that is over within a moment
//! shows nothing.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that takes no longer is not worth a bar.
const PATIENCE: Duration = Duration::from_millis(300);
/// Between two lines where there is no terminal: seldom enough for a log.
const LINES: Duration = Duration::from_secs(10);
/// Redraws a second: what an eye can follow, over a slow line too.
const FRAMES: u8 = 10;

/// Whether progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// As a bar on a terminal, as lines elsewhere.
    Progress,
    /// Not at all: `--quiet`.
    Nothing,
}

impl Show {
    /// What `--quiet` says.
    pub(crate) fn unless(quiet: bool) -> Self {
        if quiet { Self::Nothing } else { Self::Progress }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Things of this name, in the plural.
    Things(&'static str),
    /// Bytes.
    Bytes,
}

/// Work that is going on. Gone from the screen when dropped.
pub(crate) struct Progress {
    title: &'static str,
    unit: Unit,
    total: Option<u64>,
    done: u64,
    begun: Instant,
    told: Instant,
    look: Look,
}

enum Look {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

impl Progress {
    /// Begins to show `title`; a `total` of `None` is not known yet.
    pub(crate) fn new(title: &'static str, unit: Unit, total: Option<u64>, show: Show) -> Self {
        let look = match show {
            Show::Nothing => Look::Nothing,
            Show::Progress if std::io::stderr().is_terminal() => Look::Bar(ProgressBar::hidden()),
            Show::Progress => Look::Lines,
        };
        let now = Instant::now();
        Self { title, unit, total, done: 0, begun: now, told: now, look }
    }

    /// Says how much there is, once that is known.
    pub(crate) fn set_total(&mut self, total: u64) {
        self.total = Some(total);
        if let Look::Bar(bar) = &self.look
            && !bar.is_hidden()
        {
            self.draw_on(bar);
        }
    }

    /// So much more is done.
    pub(crate) fn add(&mut self, more: u64) {
        self.done = self.done.saturating_add(more);
        match &self.look {
            Look::Bar(bar) if !bar.is_hidden() => bar.set_position(self.done),
            Look::Bar(bar) if self.begun.elapsed() >= PATIENCE => self.draw_on(bar),
            Look::Lines if self.told.elapsed() >= LINES => {
                self.told = Instant::now();
                // Nobody is left to tell if stderr is gone.
                let _ = writeln!(std::io::stderr(), "{}", self.line());
            }
            Look::Bar(_) | Look::Lines | Look::Nothing => {}
        }
    }

    /// Does something that writes to the terminal, without the bar in its way.
    pub(crate) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.look {
            Look::Bar(bar) if !bar.is_hidden() => bar.suspend(write),
            Look::Bar(_) | Look::Lines | Look::Nothing => write(),
        }
    }

    fn draw_on(&self, bar: &ProgressBar) {
        let counts = match (self.unit, self.total) {
            (Unit::Things(_), Some(_)) => "[{bar:30}] {human_pos}/{human_len} {msg}, {eta} left",
            (Unit::Things(_), None) => "{human_pos} {msg}",
            (Unit::Bytes, Some(_)) => "[{bar:30}] {bytes}/{total_bytes}, {eta} left",
            (Unit::Bytes, None) => "{bytes}",
        };
        let style = ProgressStyle::with_template(&format!("{{prefix}} {counts}"));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("#> "));
        bar.set_prefix(self.title);
        if let Unit::Things(name) = self.unit {
            bar.set_message(name);
        }
        bar.set_length(self.total.unwrap_or(0));
        bar.set_position(self.done);
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(FRAMES));
    }

    fn line(&self) -> String {
        let title = self.title;
        let of = |done: String, total: Option<String>| match total {
            Some(total) => format!("{done} of {total}"),
            None => done,
        };
        match self.unit {
            Unit::Things(name) => {
                format!("{title}: {} {name}", of(self.done.to_string(), self.total.map(|n| n.to_string())))
            }
            Unit::Bytes => format!("{title}: {}", of(bytes(self.done), self.total.map(bytes))),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Look::Bar(bar) = &self.look {
            bar.finish_and_clear();
        }
    }
}

/// A number of bytes, for people.
pub(crate) fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(unit: Unit, total: Option<u64>, done: u64) -> String {
        let mut progress = Progress::new("backup", unit, total, Show::Nothing);
        progress.add(done);
        progress.line()
    }

    #[test]
    fn a_script_reads_lines() {
        assert_eq!(lines(Unit::Things("records"), Some(2000), 500), "backup: 500 of 2000 records");
        assert_eq!(lines(Unit::Things("records"), None, 500), "backup: 500 records");
        assert_eq!(lines(Unit::Bytes, Some(4096), 1024), "backup: 1.00 KiB of 4.00 KiB");
        assert_eq!(lines(Unit::Bytes, None, 0), "backup: 0 B");
    }
}
