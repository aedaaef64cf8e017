//! How long each node has said nothing new, by the clock of this machine since its boot. A value: what the store has of the
//! nodes goes in, with the time; there is no clock, lock or network here.
//!
//! The clock of the store is not asked: it may step while nodes live, or be another one after a fail-over, and what a node
//! promises of its tasks counts on the boot clock of its machine. So what it says is compared only with what it said before,
//! and is never the same twice ([`News::said_at_ms`]).

use std::collections::BTreeMap;
use std::time::Duration;

use store::{Candidate, Member};

use crate::cluster::news::News;

/// A node, as it said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// Who it is.
    pub(crate) candidate: Candidate,
    /// What it said.
    pub(crate) news: News,
    /// For so long it has said nothing else. Less than that is true where nobody here has looked for as long, never more.
    pub(crate) silent_for: Duration,
}

impl Neighbour {
    /// Whether its tasks have ended, as it has promised.
    pub(super) fn has_ended_its_tasks(&self) -> bool {
        let after = self.news.tasks_end_after_ms.map(Duration::from_millis);
        after.is_some_and(|after| self.silent_for > after)
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Heard {
    /// By node.
    last: BTreeMap<String, Said>,
}

struct Said {
    candidate: Candidate,
    news: News,
    /// When it was first seen here.
    since: Duration,
}

impl Heard {
    /// The store was asked for the nodes, and answered. What is new was said before the answer came; what was there
    /// already was still the last word when the question was put.
    pub(super) fn hear(
        &mut self,
        members: Vec<Member>,
        asked: Duration,
        answered: Duration,
    ) -> Vec<Neighbour> {
        let mut before = std::mem::take(&mut self.last);
        let heard = |Member { candidate, news, .. }: Member| {
            let news = News::read(&news);
            let same = |said: &Said| said.candidate == candidate && said.news == news;
            let since = before.remove(&candidate.node).filter(same).map_or(answered, |said| said.since);
            let said = Said { candidate: candidate.clone(), news: news.clone(), since };
            self.last.insert(candidate.node.clone(), said);
            Neighbour { candidate, news, silent_for: asked.saturating_sub(since) }
        };
        members.into_iter().map(heard).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMISED: Duration = Duration::from_secs(75);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1000 + seconds)
    }

    /// What a node says, with whatever age the store gives it.
    fn says(node: &str, said_at_ms: u64, age: u64) -> Member {
        let candidate = Candidate { node: node.into(), pid: 1, ..Candidate::default() };
        let after = Some(u64::try_from(PROMISED.as_millis()).expect("small"));
        let news = News { said_at_ms, tasks_end_after_ms: after, ..News::default() };
        Member { candidate, news: news.to_text(), age: Duration::from_secs(age) }
    }

    /// For how many seconds `n1` is silent, when the store is asked and answers at once.
    fn silence(heard: &mut Heard, member: Member, now: u64) -> u64 {
        heard.hear(vec![member], at(now), at(now))[0].silent_for.as_secs()
    }

    #[test]
    fn silence_counts_from_the_first_look_and_from_each_word() {
        let mut heard = Heard::default();
        assert_eq!(silence(&mut heard, says("n1", 1, 500), 0), 0, "nobody here has looked before");
        assert_eq!(silence(&mut heard, says("n1", 1, 510), 10), 10);
        // However long nobody looks.
        assert_eq!(silence(&mut heard, says("n1", 1, 5000), 4000), 4000);
        assert_eq!(silence(&mut heard, says("n1", 2, 0), 4001), 0);
        assert_eq!(silence(&mut heard, says("n1", 2, 1), 4002), 1);
        // Another process, and one whose machine was booted anew.
        let another = Member {
            candidate: Candidate { node: "n1".into(), pid: 2, ..Candidate::default() },
            ..says("n1", 2, 1)
        };
        assert_eq!(silence(&mut heard, another, 4003), 0);
        assert_eq!(silence(&mut heard, says("n1", 1, 1), 4004), 0);
        // Who was forgotten begins anew.
        assert_eq!(heard.hear(Vec::new(), at(4005), at(4005)), []);
        assert_eq!(silence(&mut heard, says("n1", 1, 1), 4006), 0);
    }

    #[test]
    fn the_clock_of_the_store_has_no_say() {
        let mut heard = Heard::default();
        for (second, age) in [(0, 0), (1, 3600), (2, 0), (70, 0), (75, 80)] {
            assert_eq!(silence(&mut heard, says("n1", 1, age), second), second, "{age}");
        }
    }

    /// What comes while the store takes long to answer was not there before.
    #[test]
    fn an_answer_that_takes_long_makes_nobody_older() {
        let mut heard = Heard::default();
        let slow = |heard: &mut Heard, said, asked, answered| {
            heard.hear(vec![says("n1", said, 0)], at(asked), at(answered))[0].silent_for.as_secs()
        };
        assert_eq!(slow(&mut heard, 1, 0, 30), 0);
        assert_eq!(slow(&mut heard, 1, 40, 70), 10, "from the answer on, and until the question");
        assert_eq!(slow(&mut heard, 1, 35, 80), 5);
    }

    #[test]
    fn tasks_have_ended_once_their_node_was_silent_for_longer_than_it_has_promised() {
        let promises = |news: News, silent_for| {
            Neighbour { candidate: Candidate::default(), news, silent_for }.has_ended_its_tasks()
        };
        let news = News::read(&says("n1", 1, 0).news);
        assert!(!promises(news.clone(), PROMISED));
        assert!(promises(news.clone(), PROMISED + Duration::from_millis(1)));
        let keeps = News { tasks_end_after_ms: None, ..news };
        assert!(!promises(keeps, Duration::MAX), "nobody ends them");
    }
}
