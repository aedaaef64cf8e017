//! Promise 7, in the small: no step does more than its bound, none of them spins, and the scheduler's indices say what
//! its state says, so that a new leader would decide the same.

use scheduler::{Effect, Scheduler, Step};

use super::Verdict;

/// Changes beyond which a step is measured in bytes as well.
const MANY: usize = 64;

pub(crate) fn check(core: &Scheduler, step: &Step, probe: bool, idle_ticks: u32) -> Verdict {
    let launches = step.effects.iter().filter(|effect| matches!(effect, Effect::Launch { .. })).count();
    if launches > Scheduler::STEP_MAX {
        return Err(format!("one step launched {launches} attempts"));
    }
    if step.changes.len() > MANY {
        let bytes = store::format::write_batch(&step.changes).len();
        if bytes > store::BATCH_BYTES_MAX {
            return Err(format!("one step changed {} records, {bytes} bytes", step.changes.len()));
        }
    }
    // A new leader looks at the waits of all runs, within the bound of a step, and mostly finds nothing to change.
    let looks = core.state().runs.len() / Scheduler::STEP_MAX;
    if idle_ticks as usize > 3 + looks {
        let indices = core.check();
        return Err(format!(
            "the scheduler wants to wake at {:?}, again and again, and does nothing; {indices:?}",
            core.wake_at()
        ));
    }
    if probe { core.check() } else { Ok(()) }
}
