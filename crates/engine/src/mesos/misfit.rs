//! Why a task has no place.

use std::fmt;
use std::time::Duration;

use super::resources::Thousandths;
use crate::Constraint;

/// Why a task has no place: judged by what each agent put up last, less what was placed there since.
#[derive(Clone, Debug, PartialEq)]
pub struct Misfit {
    /// So many agents have put something up.
    pub agents: usize,
    /// Of those on which all constraints hold, the one that lacks least.
    pub best: Option<Best>,
    /// The constraints that do not hold everywhere; first the one that fails most.
    pub broken: Vec<Broken>,
}

/// The best there is.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// What the agent calls itself.
    pub hostname: String,
    /// When it put something up last, since boot.
    pub seen: Duration,
    /// What it lacks; nothing if the task would fit what it had.
    pub lacks: Vec<Lack>,
}

/// What a machine lacks.
#[derive(Clone, Debug, PartialEq)]
pub struct Lack {
    /// `cpus`, `mem` or `disk`.
    pub name: &'static str,
    /// How much the task asks for.
    pub wanted: Thousandths,
    /// How much there was.
    pub had: Thousandths,
}

/// A constraint that does not hold everywhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Broken {
    /// Which.
    pub constraint: Constraint,
    /// On so many agents it does not hold.
    pub agents: usize,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Best { hostname, lacks, .. }) = &self.best else {
            if self.agents == 0 {
                return f.write_str("no agent has put up anything yet");
            }
            write!(f, "no agent fulfils its constraints ({} seen): ", self.agents)?;
            let each = self.broken.iter().map(|Broken { constraint, agents }| match agents {
                all if *all == self.agents => format!("`{constraint}` holds on none"),
                some => format!("`{constraint}` does not hold on {some}"),
            });
            return f.write_str(&each.collect::<Vec<_>>().join(", "));
        };
        if lacks.is_empty() {
            return write!(f, "it fits what agent {hostname} put up last, and waits for that to come again");
        }
        let each = lacks.iter().map(|Lack { name, wanted, had }| format!("{wanted} {name}, there are {had}"));
        let each = each.collect::<Vec<_>>().join("; ");
        write!(f, "no agent has room for it; the nearest is {hostname}: it asks for {each}")?;
        let held_off = self.broken.iter().map(|broken| broken.agents).max().unwrap_or(0);
        if held_off > 0 {
            let named: Vec<_> = self.broken.iter().map(|broken| format!("`{}`", broken.constraint)).collect();
            write!(f, " (of {} agents, {} keeps it from up to {held_off})", self.agents, named.join(", "))?;
        }
        Ok(())
    }
}
