//! Whether a framework may be ended and the state removed, by all that was seen. Decides, and does nothing.

use engine::mesos::operator::{Framework, Standing};

use super::kept::Step;

/// What was seen before anything was done.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The id that the operator has named.
    pub(super) given: String,
    /// What we are called at the master.
    pub(super) name: String,
    /// Who we are to it; empty where we do not say.
    pub(super) principal: String,
    /// The framework of that id, if the master knows it.
    pub(super) framework: Option<Framework>,
    /// What is stored.
    pub(super) stored: Stored,
    /// How far an earlier try has come.
    pub(super) reached: Step,
    /// The operator says that the framework is over, whatever the master knows.
    pub(super) gone: bool,
}

/// What the store says of frameworks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// Whether anything is there at all.
    pub(super) there: bool,
    /// Under which id the master knows the instances.
    pub(super) present: Option<Framework>,
    /// The same where the master does not know that id (any more).
    pub(super) unknown: Option<String>,
    /// The id that an old Chronos has left.
    pub(super) old: Option<String>,
    /// The framework for which the state is being removed already.
    pub(super) removing: Option<String>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was done already, as this says.
    NothingToDo(String),
    /// Go on: these frameworks are to be ended first, and why that is right.
    Go { teardown: Vec<Framework>, why: String },
    /// Nothing may be done, and why; what to do.
    Refused { why: String, hint: String },
}

impl Stored {
    fn id(&self) -> Option<&str> {
        self.present.as_ref().map(|framework| framework.id.as_str()).or(self.unknown.as_deref())
    }

    fn has(&self, id: &str) -> bool {
        [self.id(), self.old.as_deref(), self.removing.as_deref()].contains(&Some(id))
    }
}

/// See the module.
pub(super) fn verdict(seen: &Seen) -> Verdict {
    let Seen { given, stored, .. } = seen;
    let refused = |why: String, hint: &str| Verdict::Refused { why, hint: hint.into() };
    let go = |teardown: Vec<Framework>, why: String| Verdict::Go { teardown, why };
    if let Some(other) = stored.removing.as_ref().filter(|other| *other != given) {
        let why = format!("the state is being removed for framework {other} already");
        return refused(why, &format!("purge {other}: that goes on where it was cut"));
    }
    if seen.reached >= Step::Removed {
        return go(Vec::new(), format!("framework {given} and the state are gone since an earlier try"));
    }
    let stored_one = stored.has(given);
    match &seen.framework {
        Some(framework) if framework.standing == Standing::Over => match stored.id() {
            _ if stored_one || seen.reached >= Step::TornDown => {
                go(others(seen), format!("framework {given} is over already"))
            }
            Some(id) => Verdict::NothingToDo(format!(
                "framework {given} is over already, and what is stored belongs to {id}: purge that, if it is meant"
            )),
            None if stored.there => refused(
                format!("framework {given} is over already, and nothing says that what is stored was its"),
                "see whether --zk_path or --database_schema are right; remove the state by hand if it is meant",
            ),
            None => go(Vec::new(), format!("framework {given} is over already, and nothing is stored")),
        },
        Some(framework) if stored_one => {
            go(teardown(framework, seen), format!("framework {given} is the one that is stored"))
        }
        Some(framework) if framework.name == seen.name && framework.principal == seen.principal => {
            // One store, one subscription: while another id is stored, whoever is connected as this one is somebody else.
            match stored.id() {
                Some(id) if framework.standing == Standing::Connected => refused(
                    format!(
                        "framework {given} ({}) is connected, and what is stored belongs to {id}: another Chronos is {given}",
                        shown(framework)
                    ),
                    "see whether the id, --zk_path and --database_schema are right",
                ),
                _ => go(teardown(framework, seen), format!("framework {given} has our name and principal")),
            }
        }
        Some(framework) => refused(
            format!(
                "framework {given} is `{}`, {}, and not ours: ours is `{}`{}{}",
                framework.name,
                principal(&framework.principal),
                seen.name,
                match seen.principal.as_str() {
                    "" => String::new(),
                    principal => format!(" of principal `{principal}`"),
                },
                stored.id().map(|id| format!(", and {id} is stored")).unwrap_or_default(),
            ),
            "nothing was done; see the frameworks that the master lists",
        ),
        None if seen.reached >= Step::TornDown || stored.removing.is_some() => {
            go(others(seen), format!("framework {given} is over since an earlier try"))
        }
        None if stored_one && seen.gone => {
            go(others(seen), format!("framework {given} is stored, and over, as --gone says"))
        }
        None if stored_one => refused(
            format!("framework {given} is stored, and the master does not know it"),
            "a master that leads since a short time hears of it from agents: try again in some minutes; --gone says that it is over",
        ),
        None => refused(
            format!(
                "the master knows no framework {given}, and {}",
                stored
                    .id()
                    .map_or("none is stored".to_owned(), |id| format!("the one that is stored is {id}"))
            ),
            "nothing was done; see the frameworks that the master lists",
        ),
    }
}

/// The framework that was named, and the one whose state goes with it.
fn teardown(framework: &Framework, seen: &Seen) -> Vec<Framework> {
    let mut all = vec![framework.clone()];
    all.extend(others(seen));
    all
}

/// The framework whose state is removed, where it is another one and lives: nobody would be left who knows its tasks.
fn others(seen: &Seen) -> Vec<Framework> {
    let present = seen.stored.present.iter();
    present.filter(|one| one.id != seen.given && one.standing != Standing::Over).cloned().collect()
}

/// A framework in words.
pub(super) fn shown(framework: &Framework) -> String {
    let Framework { name, principal: who, tasks, standing, .. } = framework;
    let standing = match standing {
        Standing::Connected => "connected",
        Standing::Away => "not connected",
        Standing::Over => "over",
    };
    format!("`{name}`, {}, {standing}, {}", principal(who), super::count(*tasks, "task"))
}

fn principal(who: &str) -> String {
    if who.is_empty() { "without a principal".into() } else { format!("principal `{who}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framework(id: &str, name: &str, principal: &str, standing: Standing) -> Framework {
        Framework { id: id.into(), name: name.into(), principal: principal.into(), standing, tasks: 2 }
    }

    fn ours(id: &str, standing: Standing) -> Option<Framework> {
        Some(framework(id, "chronos", "ops", standing))
    }

    /// `f` was named.
    fn seen(framework: Option<Framework>, stored: Stored) -> Seen {
        let (name, principal, given) = ("chronos".into(), "ops".into(), "f".into());
        Seen { given, name, principal, framework, stored, reached: Step::Begun, gone: false }
    }

    fn stored(present: Option<Framework>) -> Stored {
        Stored { there: true, present, ..Stored::default() }
    }

    #[track_caller]
    fn goes(seen: &Seen, wanted: &[&str]) {
        match verdict(seen) {
            Verdict::Go { teardown, .. } => {
                let ids: Vec<_> = teardown.iter().map(|framework| framework.id.as_str()).collect();
                assert_eq!(ids, wanted);
            }
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn refuses(seen: &Seen, wanted: &str) {
        match verdict(seen) {
            Verdict::Refused { why, .. } => assert!(why.contains(wanted), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    use Standing::{Away, Connected, Over};

    #[test]
    fn the_stored_one_is_ended_whatever_it_is_called() {
        goes(&seen(ours("f", Connected), stored(ours("f", Connected))), &["f"]);
        let renamed = Some(framework("f", "cron", "", Away));
        goes(&seen(renamed.clone(), stored(renamed.clone())), &["f"]);
        goes(&seen(renamed, Stored { there: true, old: Some("f".into()), ..Stored::default() }), &["f"]);
    }

    #[test]
    fn one_of_our_name_and_principal_is_ended() {
        goes(&seen(ours("f", Away), Stored::default()), &["f"]);
        goes(&seen(ours("f", Connected), Stored::default()), &["f"]);
        // Its state is removed too, so nobody would know the tasks of the other one.
        goes(&seen(ours("f", Away), stored(ours("g", Connected))), &["f", "g"]);
        refuses(&seen(ours("f", Connected), stored(ours("g", Connected))), "another Chronos is f");
        refuses(&seen(Some(framework("f", "chronos", "", Away)), stored(None)), "not ours");
    }

    #[test]
    fn that_of_others_is_left_alone_and_named() {
        let marathon = seen(Some(framework("f", "marathon", "m", Connected)), stored(ours("g", Connected)));
        refuses(
            &marathon,
            "framework f is `marathon`, principal `m`, and not ours: ours is `chronos` of principal `ops`, and g is stored",
        );
    }

    #[test]
    fn one_that_nobody_knows_is_a_wrong_id() {
        refuses(
            &seen(None, stored(ours("g", Connected))),
            "the master knows no framework f, and the one that is stored is g",
        );
        refuses(&seen(None, Stored::default()), "none is stored");
        // A new master may not know it yet.
        let unknown = Stored { there: true, unknown: Some("f".into()), ..Stored::default() };
        refuses(&seen(None, unknown.clone()), "is stored, and the master does not know it");
        goes(&Seen { gone: true, ..seen(None, unknown) }, &[]);
    }

    #[test]
    fn one_that_is_over_is_not_ended_again() {
        goes(&seen(ours("f", Over), stored(ours("f", Over))), &[]);
        goes(&seen(ours("f", Over), Stored::default()), &[]);
        // It was purged long ago, and another one lives.
        let done = verdict(&seen(ours("f", Over), stored(ours("g", Connected))));
        assert!(matches!(&done, Verdict::NothingToDo(why) if why.contains("belongs to g")), "{done:?}");
        // A new store that has not registered yet.
        refuses(&seen(ours("f", Over), stored(None)), "nothing says that what is stored was its");
    }

    #[test]
    fn what_was_cut_goes_on() {
        let at = |reached, framework, stored| Seen { reached, ..seen(framework, stored) };
        goes(&at(Step::Stopped, ours("f", Away), stored(ours("f", Away))), &["f"]);
        goes(&at(Step::TornDown, None, stored(None)), &[]);
        // The state of a successor is not touched any more.
        goes(&at(Step::Removed, ours("f", Over), stored(ours("g", Connected))), &[]);
        let half = |id: &str| Stored { there: true, removing: Some(id.into()), ..Stored::default() };
        goes(&seen(None, half("f")), &[]);
        goes(&seen(ours("f", Over), half("f")), &[]);
        refuses(&seen(ours("f", Over), half("g")), "is being removed for framework g already");
    }
}
