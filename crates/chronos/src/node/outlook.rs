//! What a node sees of the store and of the others, looked at once a second: how old what it shows is, who leads, and
//! whether its clock is fit to lead by.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use scheduler::ids::Seq;
use store::projection::ProjectionHandle;
use store::{Candidate, Store};
use tokio::sync::watch;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// The same until what is shown here has been the present once: it is not shown before.
const AT_FIRST: Duration = Duration::from_millis(100);
/// A store that has not answered within this is told to be silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Looks that may wait for what they saw to be shown here: a follower that far behind is as old as the last of them.
const WAITING_MAX: usize = 600;
/// Who is further from the clock of the store does not lead: what two terms call the same time must be about the same.
const CLOCK_MAX: SignedDuration = SignedDuration::from_secs(5);

/// What a node sees around it.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// Whether it has looked at all.
    pub looked: bool,
    /// Who leads, as far as the store tells.
    pub leader: Option<Candidate>,
    /// All that was applied by then is shown here; `None` before the first time.
    pub current_at: Option<Instant>,
    /// Why the store does not answer; `None` where it does.
    pub silent: Option<String>,
    /// How far the clock of this machine is ahead of the store's, where that has one.
    pub clock_ahead: Option<SignedDuration>,
}

impl Outlook {
    /// How old what this node shows may be; `None` where nobody can tell.
    pub fn age(&self) -> Option<Duration> {
        self.current_at.map(|at| at.elapsed())
    }

    /// Why this node may not lead.
    /// # Errors
    /// A sentence for people.
    pub(super) fn fit(&self) -> Result<(), String> {
        match self.clock_ahead {
            Some(ahead) if ahead.abs() > CLOCK_MAX => {
                let way = if ahead.is_negative() { "behind" } else { "ahead of" };
                Err(format!(
                    "the clock of this machine is {:.1} s {way} that of the store, and a node leads only within {} s of it; see \
                     that the time service runs on both",
                    ahead.abs().as_secs_f64(),
                    CLOCK_MAX.as_secs(),
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Looks for ever.
pub(super) async fn look(
    store: Arc<dyn Store>,
    projection: ProjectionHandle,
    outlook: watch::Sender<Outlook>,
) {
    // What was the present then, and when that was.
    let mut waiting: VecDeque<(Instant, Seq)> = VecDeque::new();
    let mut pause = Duration::ZERO;
    while !outlook.is_closed() {
        tokio::time::sleep(pause).await;
        pause = if outlook.borrow().current_at.is_some() { EVERY } else { AT_FIRST };
        let asked = Instant::now();
        let question = async { (store.present().await, store.clock_ahead().await, store.leader().await) };
        let (present, clock, leader) = match tokio::time::timeout(ANSWER_WITHIN, question).await {
            Ok(answers) => answers,
            Err(_) => {
                let silent = format!("the store has not answered within {} s", ANSWER_WITHIN.as_secs());
                outlook.send_modify(|seen| (seen.looked, seen.silent) = (true, Some(silent)));
                continue;
            }
        };
        if waiting.len() < WAITING_MAX
            && let Ok(term) = &present
        {
            waiting.push_back((asked, term.seq));
        }
        let shown = projection.seq();
        let mut current_at = None;
        while let Some((at, _)) = waiting.pop_front_if(|(_, seq)| *seq <= shown) {
            current_at = Some(at);
        }
        outlook.send_modify(|seen| {
            seen.looked = true;
            seen.silent = present.err().map(|problem| problem.to_string());
            // A question that failed says nothing of the clock, which is what it was.
            seen.clock_ahead = clock.unwrap_or(seen.clock_ahead);
            seen.leader = leader;
            seen.current_at = current_at.or(seen.current_at);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ahead: Option<i64>, told: Option<&str>) {
        let clock_ahead = ahead.map(SignedDuration::from_millis);
        let fit = Outlook { clock_ahead, ..Outlook::default() }.fit();
        match (fit, told) {
            (Ok(()), None) => {}
            (Err(why), Some(told)) => assert!(why.contains(told), "{ahead:?}: {why}"),
            (fit, told) => panic!("{ahead:?}: {fit:?}, not {told:?}"),
        }
    }

    #[test]
    fn who_is_more_than_five_seconds_from_the_store_is_not_fit() {
        check(None, None); // a store without a clock
        check(Some(0), None);
        check(Some(4000), None);
        check(Some(-4000), None);
        check(Some(5000), None);
        check(Some(-5000), None);
        check(Some(5001), Some("is 5.0 s ahead of that of the store"));
        check(Some(-5001), Some("is 5.0 s behind that of the store"));
        check(Some(6000), Some("is 6.0 s ahead of that of the store"));
        check(Some(-6000), Some("is 6.0 s behind that of the store, and a node leads only within 5 s of it"));
        check(Some(i64::MIN), Some("time service"));
    }
}
