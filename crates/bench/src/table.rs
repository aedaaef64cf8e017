//! The figures of a run beside their targets, and what the machine could do at the same time.

use std::fmt::Write as _;

/// Which side of its target a figure should be on.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Told for what it explains; nothing depends on it.
    None,
}

/// One figure.
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) target: Target,
    /// What the machine did of its own accord in the same run, in the same unit.
    pub(crate) yardstick: Option<(&'static str, f64)>,
}

impl Line {
    pub(crate) fn new(what: impl Into<String>, value: f64, unit: &'static str, target: Target) -> Self {
        Self { what: what.into(), value, unit, target, yardstick: None }
    }

    pub(crate) fn beside(mut self, name: &'static str, value: f64) -> Self {
        self.yardstick = Some((name, value));
        self
    }

    pub(crate) fn short(&self) -> String {
        format!("{}: {} {}", self.what, number(self.value), self.unit)
    }

    fn is_met(&self) -> Option<bool> {
        match self.target {
            Target::AtLeast(least) => Some(self.value >= least),
            Target::AtMost(most) => Some(self.value <= most),
            Target::None => None,
        }
    }

    fn row(&self) -> String {
        let target = match self.target {
            Target::AtLeast(least) => format!("at least {}", number(least)),
            Target::AtMost(most) => format!("at most {}", number(most)),
            Target::None => "-".into(),
        };
        let met = self.is_met().map_or("-", |met| if met { "yes" } else { "NO" });
        let (yardstick, ratio) = match self.yardstick {
            Some((name, value)) => (format!("{name} {}", number(value)), number(self.value / value)),
            None => ("-".into(), "-".into()),
        };
        let value = format!("{} {}", number(self.value), self.unit);
        format!("| {} | {value} | {target} | {met} | {yardstick} | {ratio} |", self.what)
    }
}

/// As many digits as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (n, digit) in digits.chars().enumerate() {
                if n > 0 && digit != '-' && (digits.len() - n).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        middling if middling >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// All lines as a table in Markdown, ready for `docs/benchmarks.md`.
pub(crate) fn text(lines: &[Line]) -> String {
    let mut text = String::from("| line | value | target | met | yardstick of the same run | ratio |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for line in lines {
        let _ = writeln!(text, "{}", line.row()); // A String takes every character.
    }
    let missed = lines.iter().filter(|line| line.is_met() == Some(false)).count();
    let aimed = lines.iter().filter(|line| line.is_met().is_some()).count();
    let _ = write!(text, "\n{} of {aimed} targets met", aimed - missed);
    text
}

/// The value that so many hundredths of all are not above. Of nothing: not a number.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        count => sorted[((count - 1) * percent).div_ceil(100)],
    }
}
