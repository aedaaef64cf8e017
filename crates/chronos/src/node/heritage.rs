//! What an old Chronos has left beside our store: its jobs are taken over at the first leadership, and whether it has led
//! since is looked at in every later one, as what it has launched we do not know.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::StoreError;
use store::zookeeper::old::{self, Mark, Old, Standing};
use tokio::sync::watch;

/// Where it is, and what of it is to be taken over in this term.
#[derive(Debug)]
pub struct Heritage {
    place: old::Place,
    orders: watch::Sender<Option<Arc<Old>>>,
    framework_id: Mutex<Option<Arc<str>>>,
    report: Mutex<Report>,
}

/// What came of taking its jobs over, as this node did it last.
#[derive(Debug, Default)]
struct Report {
    /// Why it cannot be done, while it cannot.
    problem: Option<String>,
    /// What was left behind, by name, or by its place where it has none.
    left: Vec<String>,
}

/// Names in one sentence.
const NAMES_MAX: usize = 5;

impl Heritage {
    /// That in this place.
    pub fn new(place: old::Place) -> Self {
        let orders = watch::Sender::new(None);
        Self { place, orders, framework_id: Mutex::default(), report: Mutex::default() }
    }

    /// Under which id Mesos knew the old Chronos, as it was found when this node was elected last.
    pub(super) fn framework_id(&self) -> Option<Arc<str>> {
        self.framework_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Jobs that are to be taken over: until they are, nothing is launched.
    pub fn orders(&self) -> watch::Receiver<Option<Arc<Old>>> {
        self.orders.subscribe()
    }

    /// The jobs of an order are here.
    /// # Errors
    /// They are, but the store does not know it: they are taken over once more, which changes nothing.
    pub async fn is_taken(&self, order: &Arc<Old>) -> Result<(), StoreError> {
        let is_it = |present: &Option<Arc<Old>>| present.as_ref().is_some_and(|it| Arc::ptr_eq(it, order));
        // A later term has looked anew, and has an order of its own.
        if !is_it(&self.orders.borrow()) {
            return Ok(());
        }
        let remembered = self.place.recall().await?;
        self.place.remember(remembered, Standing::Settled(order.mark)).await?;
        self.orders.send_if_modified(|present| {
            let is_it = is_it(present);
            if is_it {
                *present = None;
            }
            is_it
        });
        Ok(())
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.orders.borrow().is_some()
    }

    /// The jobs cannot be taken over now. Whether that is news.
    pub fn fails(&self, why: &str) -> bool {
        let before = self.report().problem.replace(why.into());
        before.as_deref() != Some(why)
    }

    /// They are taken over, but for these.
    pub fn leaves(&self, left: Vec<String>) {
        *self.report() = Report { problem: None, left };
    }

    /// Why nothing is launched, while jobs are still to come.
    pub(super) fn trouble(&self) -> Option<String> {
        let told = match self.report().problem.as_deref() {
            None => "the jobs of the old Chronos are being taken over; launching begins after that".into(),
            Some(why) => format!(
                "the jobs of the old Chronos cannot be taken over, which is tried again, and launching begins after that: {why}"
            ),
        };
        self.is_awaited().then_some(told)
    }

    /// What was left behind, and is not here by now either.
    pub(super) fn note(&self, is_here: impl Fn(&str) -> bool) -> Option<String> {
        note(&self.report().left, is_here)
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks before a term, whose store has jobs or has none. Takes as long as there are old jobs to be read: a bound on
    /// all of it would keep whoever has many of them and slow servers from ever leading. Each question has one of its own.
    /// # Errors
    /// Why nothing may be launched, and what to do.
    pub(super) async fn look(&self, has_jobs: bool) -> Result<(), String> {
        self.orders.send_replace(None);
        self.report().problem = None;
        match self.ask(has_jobs).await {
            Ok(verdict) => verdict,
            Err(problem) => Err(format!("cannot look at what an old Chronos has left: {problem}")),
        }
    }

    async fn ask(&self, has_jobs: bool) -> Result<Result<(), String>, StoreError> {
        let found = self.place.read().await?;
        *self.framework_id.lock().unwrap_or_else(PoisonError::into_inner) =
            found.framework_id.as_deref().map(Arc::from);
        let remembered = self.place.recall().await?;
        let jobs = if has_jobs { Jobs::Some } else { Jobs::None };
        match verdict(remembered.standing, &found, jobs) {
            Verdict::Lead => {}
            Verdict::Settle => {
                self.place.remember(remembered, Standing::Settled(found.mark)).await?;
            }
            Verdict::Import => {
                if remembered.standing != Standing::Import {
                    self.place.remember(remembered, Standing::Import).await?;
                }
                self.orders.send_replace(Some(Arc::new(found)));
            }
            Verdict::Ask => {
                return Ok(Err(format!(
                    "an old Chronos has written below `{}/state` since its jobs were taken over here, so nothing is launched \
                     until you say which jobs count: `chronos settle import` takes its jobs over again, `chronos settle keep` \
                     goes on with those that are here",
                    self.place.path()
                )));
            }
        }
        Ok(Ok(()))
    }
}

fn note(left: &[String], is_here: impl Fn(&str) -> bool) -> Option<String> {
    let missing: Vec<&str> = left.iter().map(String::as_str).filter(|name| !is_here(name)).collect();
    let names = missing.get(..NAMES_MAX).unwrap_or(&missing).join(", ");
    let more = missing.len().saturating_sub(NAMES_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    (!missing.is_empty()).then(|| {
        format!(
            "{} job(s) of the old Chronos could not be taken over: {names}{more}; `chronos import zookeeper --dry_run` says why",
            missing.len()
        )
    })
}

/// Whether our store has jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Jobs {
    None,
    Some,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Lead,
    /// Lead, and remember what there is.
    Settle,
    /// Lead, and take its jobs over first.
    Import,
    /// An operator must say.
    Ask,
}

fn verdict(standing: Standing, found: &Old, ours: Jobs) -> Verdict {
    match standing {
        Standing::Import => Verdict::Import,
        Standing::New if !found.has_jobs() => Verdict::Settle,
        Standing::New if ours == Jobs::None => Verdict::Import,
        Standing::New => Verdict::Ask,
        Standing::Settled(mark) if mark == found.mark => Verdict::Lead,
        // Without jobs there or here before, it is the first import that comes late.
        Standing::Settled(Mark { nodes: 0, .. }) if ours == Jobs::None && found.has_jobs() => Verdict::Import,
        Standing::Settled(_) => Verdict::Ask,
    }
}

#[cfg(test)]
mod tests {
    use store::zookeeper::Options;
    use store::zookeeper::old::{OldJob, Place};

    use super::*;

    fn found(jobs: usize, newest: i64) -> Old {
        let job = |n| OldJob { name: format!("j{n}"), json: "{}".into(), mzxid: newest };
        Old { jobs: (0..jobs).map(job).collect(), mark: Mark { nodes: jobs, newest }, ..Old::default() }
    }

    #[test]
    fn what_was_left_behind_is_told_until_it_is_here() {
        let names: Vec<String> = ["a", "b", "c", "d", "e", "f", "g"].map(Into::into).to_vec();
        let told = |here: &[&str]| note(&names, |name| here.contains(&name));
        assert!(
            told(&[]).is_some_and(
                |told| told.starts_with("7 job(s)") && told.contains(": a, b, c, d, e and 2 more;")
            )
        );
        assert!(
            told(&["a", "b"])
                .is_some_and(|told| told.starts_with("5 job(s)") && told.contains(": c, d, e, f, g;"))
        );
        assert_eq!(told(&["a", "b", "c", "d", "e", "f", "g"]), None);
        assert_eq!(note(&[], |_| false), None);
    }

    #[test]
    fn a_reason_that_stays_is_news_once() {
        let place = Place::new(Options::new("a:1")).expect("it can be meant");
        let heritage = Heritage::new(place);
        assert_eq!(heritage.trouble(), None, "there is nothing to take over");
        heritage.orders.send_replace(Some(Arc::new(found(1, 7))));
        let says = |what: &str| heritage.trouble().is_some_and(|told| told.ends_with(what));
        assert!(says("launching begins after that"));
        assert!(heritage.fails("it is full"));
        assert!(!heritage.fails("it is full"));
        assert!(heritage.fails("it is away"));
        assert!(says(": it is away"));
        heritage.leaves(vec!["a".into()]);
        assert!(says("launching begins after that"));
        assert!(heritage.note(|_| false).is_some_and(|told| told.starts_with("1 job(s)")));
    }

    #[test]
    fn an_old_chronos_that_has_led_is_noticed() {
        let settled = |nodes, newest| Standing::Settled(Mark { nodes, newest });
        for (standing, found, ours, expected) in [
            (Standing::New, found(0, 0), Jobs::None, Verdict::Settle),
            (Standing::New, found(0, 0), Jobs::Some, Verdict::Settle),
            (Standing::New, found(2, 7), Jobs::None, Verdict::Import),
            (Standing::New, found(2, 7), Jobs::Some, Verdict::Ask),
            (Standing::Import, found(2, 7), Jobs::Some, Verdict::Import),
            (settled(2, 7), found(2, 7), Jobs::Some, Verdict::Lead),
            (settled(2, 7), found(2, 7), Jobs::None, Verdict::Lead),
            (settled(2, 7), found(2, 8), Jobs::Some, Verdict::Ask),
            (settled(2, 7), found(1, 7), Jobs::Some, Verdict::Ask),
            (settled(2, 7), found(2, 8), Jobs::None, Verdict::Ask),
            (settled(0, 0), found(1, 8), Jobs::None, Verdict::Import),
            (settled(0, 0), found(1, 8), Jobs::Some, Verdict::Ask),
        ] {
            assert_eq!(verdict(standing, &found, ours), expected, "{standing:?} {found:?} {ours:?}");
        }
    }
}
