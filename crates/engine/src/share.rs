//! What is set aside for a task where an engine sets aside, and which machines will do.

use std::fmt;

/// What a task is to have, where it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Processors.
    pub cpus: Option<Thousandths>,
    /// Memory, in MB.
    pub mem: Option<Thousandths>,
    /// Disk, in MB.
    pub disk: Option<Thousandths>,
}

/// What must be true of the machine that runs a task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Constraint {
    /// What of the machine is looked at.
    pub attribute: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub value: String,
}

/// How an attribute is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// It is that text.
    Equals,
    /// The whole of it matches that regular expression.
    Like,
    /// It is there and does not match.
    Unlike,
}

/// A quantity as Mesos counts: it keeps three decimal digits of every number, so sums of these are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thousandths(pub u64);

impl Thousandths {
    /// The nearest to a number, as Mesos rounds; 0 for what is none or is negative.
    pub fn nearest(number: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast from a float saturates"
        )]
        Self((number * 1000.0).round() as u64)
    }

    /// As a number.
    pub fn number(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 thousandths of anything")]
        let thousandths = self.0 as f64;
        thousandths / 1000.0
    }
}

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.number(), f)
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attribute, operator, value } = self;
        let operator = match operator {
            Operator::Equals => "EQUALS",
            Operator::Like => "LIKE",
            Operator::Unlike => "UNLIKE",
        };
        write!(f, "{attribute} {operator} {value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_counted_as_mesos_counts() {
        let sum = Thousandths(Thousandths::nearest(0.1).0 * 3);
        assert_eq!((sum, sum.number(), sum.to_string()), (Thousandths(300), 0.3, "0.3".into()));
        assert_eq!(Thousandths::nearest(128.0).to_string(), "128");
        for none in [-1.0, f64::NAN, 0.0004] {
            assert_eq!(Thousandths::nearest(none), Thousandths(0));
        }
        assert_eq!(Thousandths::nearest(f64::INFINITY), Thousandths(u64::MAX));
    }
}
