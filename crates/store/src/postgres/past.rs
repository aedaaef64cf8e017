//! The past that whoever follows goes on from. A database that has lost its end in a fail-over goes on with another
//! one, in which the same numbers are other batches, of a later epoch.

use std::sync::{Mutex, MutexGuard, PoisonError};

use scheduler::ids::{Epoch, Seq};

use crate::{Applied, Term};

/// What a handle knows of the batches that it has told or written last.
#[derive(Debug, Default)]
pub(super) struct Past(Mutex<Option<Stretch>>);

/// Batches of one epoch, from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    epoch: Epoch,
    first: Seq,
    last: Seq,
}

impl Past {
    /// The epoch that this batch had, if that is known.
    pub(super) fn epoch_of(&self, seq: Seq) -> Option<Epoch> {
        let known = (*self.known())?;
        (known.first <= seq && seq <= known.last).then_some(known.epoch)
    }

    /// Everything was read anew, as of the last batch of a term: what was known before is of no use.
    pub(super) fn loaded(&self, term: Term) {
        *self.known() = Some(Stretch { epoch: term.epoch, first: term.seq, last: term.seq });
    }

    /// Our own batches have been applied, from the one that began the term to this one. Our own state goes on from them
    /// when the term is over.
    pub(super) fn wrote(&self, epoch: Epoch, began: Seq, last: Seq) {
        let mut known = self.known();
        let theirs = Stretch { epoch, first: began, last };
        *known = Some(known.map_or(theirs, |known| known.joined(theirs).unwrap_or(theirs)));
    }

    /// These batches are told to somebody who had come to `after`. Who reads what was before changes nothing of what is
    /// known of the end.
    pub(super) fn told(&self, after: Seq, batches: &[Applied]) {
        let Some(last) = batches.last() else { return };
        let same = batches.iter().rev().take_while(|batch| batch.epoch == last.epoch);
        let first = same.last().map_or(last.seq, |batch| batch.seq);
        let theirs = Stretch { epoch: last.epoch, first, last: last.seq };
        let mut known = self.known();
        *known = match *known {
            Some(known) if after < known.last => Some(known.joined(theirs).unwrap_or(known)),
            Some(known) => Some(known.joined(theirs).unwrap_or(theirs)),
            None => Some(theirs),
        };
    }

    fn known(&self) -> MutexGuard<'_, Option<Stretch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stretch {
    /// Both in one: between two batches of an epoch there are none of another.
    fn joined(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.min(other.first), self.last.max(other.last));
        (self.epoch == other.epoch).then_some(Self { epoch: self.epoch, first, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches with these numbers, of these epochs.
    fn batches(of: &[(u64, u64)]) -> Vec<Applied> {
        let batch = |&(seq, epoch)| Applied { seq: Seq(seq), epoch: Epoch(epoch), changes: Vec::new() };
        of.iter().map(batch).collect()
    }

    #[track_caller]
    fn check(past: &Past, expected: &[(u64, Option<u64>)]) {
        let known: Vec<_> = expected.iter().map(|&(seq, _)| (seq, past.epoch_of(Seq(seq)))).collect();
        let expected: Vec<_> = expected.iter().map(|&(seq, epoch)| (seq, epoch.map(Epoch))).collect();
        assert_eq!(known, expected);
    }

    #[test]
    fn who_follows_is_known_by_the_last_batch() {
        let past = Past::default();
        check(&past, &[(7, None)]);
        past.loaded(Term { epoch: Epoch(3), seq: Seq(7) });
        check(&past, &[(6, None), (7, Some(3)), (8, None)]);
        past.told(Seq(7), &batches(&[(8, 3), (9, 3)]));
        check(&past, &[(7, Some(3)), (9, Some(3)), (10, None)]);
        past.told(Seq(9), &batches(&[(10, 3), (11, 4), (12, 4)]));
        check(&past, &[(10, None), (11, Some(4)), (12, Some(4)), (13, None)]);
        past.told(Seq(12), &[]);
        check(&past, &[(12, Some(4))]);
    }

    #[test]
    fn who_reads_what_was_before_changes_nothing() {
        let past = Past::default();
        past.told(Seq(4), &batches(&[(5, 2), (6, 2)]));
        past.told(Seq(2), &batches(&[(3, 1), (4, 1)]));
        check(&past, &[(4, None), (6, Some(2))]);
        past.told(Seq(4), &batches(&[(5, 3), (6, 3), (7, 3)]));
        check(&past, &[(6, Some(2)), (7, None)]);
        past.told(Seq(4), &batches(&[(5, 2), (6, 2), (7, 2)]));
        check(&past, &[(7, Some(2))]);
    }

    #[test]
    fn who_has_led_knows_its_own_batches() {
        let past = Past::default();
        past.loaded(Term { epoch: Epoch(5), seq: Seq(100) });
        past.wrote(Epoch(5), Seq(100), Seq(103));
        past.wrote(Epoch(5), Seq(100), Seq(105));
        check(&past, &[(99, None), (100, Some(5)), (105, Some(5)), (106, None)]);
        past.wrote(Epoch(7), Seq(110), Seq(111));
        check(&past, &[(105, None), (110, Some(7))]);
        past.loaded(Term { epoch: Epoch(8), seq: Seq(112) });
        check(&past, &[(111, None), (112, Some(8))]);
    }
}
