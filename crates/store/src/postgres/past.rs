//! The past that whoever follows goes on from. A database that has lost its end in a fail-over goes on with another
//! one, in which the same numbers are other batches, of a later epoch.

use std::sync::{Mutex, MutexGuard, PoisonError};

use scheduler::ids::{Epoch, Seq};

use crate::{Applied, Term};

/// What a handle knows of the batches that it has told or written last, and of the term that was seen with them.
#[derive(Debug, Default)]
pub(super) struct Past {
    stretch: Mutex<Option<Stretch>>,
    led: Mutex<Option<Led>>,
}

/// Whose term it is: where its beginning is lost, another may begin one of the same epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Led {
    pub(super) epoch: Epoch,
    /// Of the attempt to lead.
    pub(super) token: String,
}

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

    /// Whether this is another term than the one that is known of this epoch.
    pub(super) fn is_another(&self, seen: &Led) -> bool {
        self.led().as_ref().is_some_and(|led| led.epoch == seen.epoch && led.token != seen.token)
    }

    /// What is told goes on in this term; nothing is known of it where it was given back.
    pub(super) fn goes_on_in(&self, seen: Option<Led>) {
        if seen.is_some() {
            *self.led() = seen;
        }
    }

    /// Everything was read anew, as of the last batch of a term: what was known before is of no use.
    pub(super) fn loaded(&self, term: Term, led: Option<Led>) {
        *self.led() = led;
        *self.known() = Some(Stretch { epoch: term.epoch, first: term.seq, last: term.seq });
    }

    /// Our own batches have been applied, from the one that began the term to this one. Our own state goes on from them
    /// when the term is over.
    pub(super) fn wrote(&self, epoch: Epoch, token: &str, began: Seq, last: Seq) {
        self.goes_on_in(Some(Led { epoch, token: token.into() }));
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
        self.stretch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn led(&self) -> MutexGuard<'_, Option<Led>> {
        self.led.lock().unwrap_or_else(PoisonError::into_inner)
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
        past.loaded(Term { epoch: Epoch(3), seq: Seq(7) }, None);
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
    fn a_term_is_told_from_another_of_its_epoch() {
        let past = Past::default();
        let led = |epoch, token: &str| Led { epoch: Epoch(epoch), token: token.into() };
        let others = |past: &Past| [led(3, "a"), led(3, "b"), led(4, "b")].map(|it| past.is_another(&it));
        assert_eq!(others(&past), [false; 3]);
        past.goes_on_in(Some(led(3, "a")));
        past.goes_on_in(None);
        assert_eq!(others(&past), [false, true, false]);
        past.wrote(Epoch(4), "a", Seq(7), Seq(8));
        assert_eq!(others(&past), [false, false, true]);
        past.loaded(Term { epoch: Epoch(4), seq: Seq(9) }, Some(led(4, "b")));
        assert_eq!(others(&past), [false; 3]);
    }

    #[test]
    fn who_has_led_knows_its_own_batches() {
        let past = Past::default();
        past.loaded(Term { epoch: Epoch(5), seq: Seq(100) }, None);
        past.wrote(Epoch(5), "a", Seq(100), Seq(103));
        past.wrote(Epoch(5), "a", Seq(100), Seq(105));
        check(&past, &[(99, None), (100, Some(5)), (105, Some(5)), (106, None)]);
        past.wrote(Epoch(7), "b", Seq(110), Seq(111));
        check(&past, &[(105, None), (110, Some(7))]);
        past.loaded(Term { epoch: Epoch(8), seq: Seq(112) }, None);
        check(&past, &[(111, None), (112, Some(8))]);
    }
}
