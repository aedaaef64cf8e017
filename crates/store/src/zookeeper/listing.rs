//! The whole history as it was listed: whoever reads it page by page does not list it for each page.
//!
//! Names say what a record is asked for by, numbers that they sort by contain the batch, and no record is ever written with
//! a number of an earlier batch. So what was listed stays true up to the batch that it is of, but for what retention
//! has removed since, and that has no value any more.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::locked;
use super::tree::{Ended, batch_of};
use crate::{HistoryOrder, HistoryQuery};

/// Whoever reads on asks for the next page sooner than this. It takes some 100 bytes for each record.
const KEPT: Duration = Duration::from_secs(30);

/// Names of records, by number.
pub(super) struct Listing {
    pub(super) generation: u64,
    /// All records of batches up to this one are among them, and none of a later one.
    pub(super) seq: u64,
    names: Vec<(u64, Box<str>)>,
}

impl Listing {
    /// Of names as they were found, in any order, when the term had come as far as `seq`.
    pub(super) fn new(generation: u64, seq: u64, names: Vec<String>) -> Self {
        let numbered = names.into_iter().filter_map(|name| Some((Ended::number_in(&name)?, name.into())));
        // They are listed one directory after the other: of a batch that came meanwhile some would be missing.
        let mut names: Vec<(u64, Box<str>)> =
            numbered.filter(|(number, _)| batch_of(*number) <= seq).collect();
        names.sort_unstable_by_key(|(number, _)| *number);
        Self { generation, seq, names }
    }

    /// A page, and whether there is more.
    pub(super) fn page(&self, query: &HistoryQuery) -> (Vec<Ended>, bool) {
        let wanted = |(_, name): &(u64, Box<str>)| Ended::read(name).filter(|one| query.wants(&one.facts));
        let limit = query.limit();
        let mut found: Vec<Ended> = match query.order {
            HistoryOrder::NewestFirst => {
                let before = query.cursor.unwrap_or(u64::MAX);
                let end = self.names.partition_point(|(number, _)| *number < before);
                self.names[..end].iter().rev().filter_map(wanted).take(limit + 1).collect()
            }
            HistoryOrder::OldestFirst => {
                let begin = query.cursor.map_or(0, |after| self.names.partition_point(|(n, _)| *n <= after));
                self.names[begin..].iter().filter_map(wanted).take(limit + 1).collect()
            }
        };
        let more = found.len() > limit;
        found.truncate(limit);
        (found, more)
    }

    /// The page, if nothing that came later can belong to it.
    fn page_now(&self, query: &HistoryQuery) -> Option<(Vec<Ended>, bool)> {
        let cursor = query.cursor?;
        match query.order {
            HistoryOrder::NewestFirst => (batch_of(cursor) <= self.seq).then(|| self.page(query)),
            HistoryOrder::OldestFirst => Some(self.page(query)).filter(|(_, more)| *more),
        }
    }
}

/// What was listed last, as long as somebody reads on in it.
#[derive(Default)]
pub(super) struct Listed(Arc<Mutex<Option<Last>>>);

struct Last {
    used: Instant,
    listing: Arc<Listing>,
}

impl Listed {
    /// The page of a question that goes on, where what was listed has it. The store is at this generation and batch.
    pub(super) fn page(&self, query: &HistoryQuery, generation: u64, seq: u64) -> Option<(Vec<Ended>, bool)> {
        let listing = {
            let mut kept = locked(&self.0);
            let Last { used, listing } = kept.as_mut()?;
            // One that is further than the store is of another one, which was here before.
            if listing.generation != generation || listing.seq > seq {
                return None;
            }
            *used = Instant::now();
            listing.clone()
        };
        listing.page_now(query)
    }

    pub(super) fn keep(&self, listing: Arc<Listing>) {
        if locked(&self.0).replace(Last { used: Instant::now(), listing }).is_some() {
            return;
        }
        let kept = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut until = Instant::now() + KEPT;
            loop {
                tokio::time::sleep_until(until).await;
                let Some(kept) = kept.upgrade() else { return };
                let mut kept = locked(&kept);
                match &*kept {
                    Some(last) if last.used.elapsed() < KEPT => until = last.used + KEPT,
                    _ => {
                        *kept = None;
                        return;
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use scheduler::run::Outcome;

    use super::*;
    use crate::facts::Facts;
    use crate::samples::ended;
    use crate::zookeeper::tree::number;

    fn names(batches: std::ops::Range<u64>) -> Vec<String> {
        let name = |seq| {
            let record = ended(1, seq, Outcome::Failed);
            Ended::new(number(seq, 0), crate::format::record_key(&record), Facts::of(&record)).name
        };
        batches.map(name).rev().collect()
    }

    fn asked(order: HistoryOrder, batch: Option<u64>) -> HistoryQuery {
        let cursor = batch.map(|batch| number(batch, 0));
        HistoryQuery { order, cursor, limit: 3, ..HistoryQuery::default() }
    }

    fn batches(page: Option<(Vec<Ended>, bool)>) -> Option<(Vec<u64>, bool)> {
        page.map(|(found, more)| (found.iter().map(|one| batch_of(one.number)).collect(), more))
    }

    #[tokio::test(start_paused = true)]
    async fn pages_go_on_in_what_was_listed_where_nothing_can_be_missing() {
        use HistoryOrder::{NewestFirst, OldestFirst};
        let listed = Listed::default();
        assert!(listed.page(&asked(NewestFirst, Some(5)), 1, 10).is_none(), "nothing was listed");
        // Batches 11 and 12 came while it was listed.
        listed.keep(Arc::new(Listing::new(1, 10, names(1..13))));
        let page = |order, cursor, seq| batches(listed.page(&asked(order, cursor), 1, seq));
        assert_eq!(page(NewestFirst, Some(9), 10), Some((vec![8, 7, 6], true)));
        assert_eq!(page(NewestFirst, Some(3), 20), Some((vec![2, 1], false)));
        assert_eq!(
            page(NewestFirst, Some(11), 20),
            None,
            "batch 10 and half of 11, if there is no more of it"
        );
        assert_eq!(page(NewestFirst, None, 20), None, "what is newest is asked for");
        assert_eq!(page(OldestFirst, Some(6), 20), Some((vec![7, 8, 9], true)));
        assert_eq!(page(OldestFirst, Some(7), 20), None, "11 comes next");
        assert_eq!(page(OldestFirst, None, 20), None, "retention may have been here");
        assert_eq!(page(NewestFirst, Some(9), 9), None, "another store");
        assert!(listed.page(&asked(NewestFirst, Some(9)), 2, 20).is_none(), "restored since");

        tokio::time::sleep(KEPT - Duration::from_secs(1)).await;
        assert!(page(NewestFirst, Some(9), 20).is_some());
        tokio::time::sleep(KEPT - Duration::from_secs(1)).await;
        assert!(page(NewestFirst, Some(9), 20).is_some(), "somebody reads on");
        tokio::time::sleep(KEPT + Duration::from_secs(1)).await;
        assert!(locked(&listed.0).is_none(), "nobody reads on, and it is kept");
    }
}
