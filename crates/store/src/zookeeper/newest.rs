//! The newest batch that a handle has seen applied, as a leader or as a standby: an ensemble that ends before it has lost
//! some of what it acknowledged.

use std::sync::Mutex;

use super::locked;

#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// The id of the store.
    store: String,
    seq: u64,
    /// Servers found to end before it, one after the other.
    behind: usize,
}

/// What is to be thought of a server by the last batch that it has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has all that was seen.
    Whole,
    /// So many are missing, and another server may have them.
    Behind(u64),
    /// So many are missing, and no server has them.
    Gone(u64),
}

impl Newest {
    /// This store is there. Another one than before may well have fewer batches.
    pub(super) fn is_of(&self, store: &str) {
        let mut seen = locked(&self.0);
        if seen.store != store {
            *seen = Seen { store: store.into(), ..Seen::default() };
        }
    }

    /// This batch was seen to be applied.
    pub(super) fn saw(&self, seq: u64) {
        let mut seen = locked(&self.0);
        seen.seq = seen.seq.max(seq);
    }

    /// What was seen is not to be relied on: the ensemble refuses who goes by it.
    pub(super) fn forget(&self) {
        locked(&self.0).seq = 0;
    }

    /// Whether a server that has batches up to this one, out of so many servers that are asked in turn, has lost some.
    pub(super) fn judge(&self, seq: u64, servers: usize) -> Verdict {
        let mut seen = locked(&self.0);
        let lost = seen.seq.saturating_sub(seq);
        seen.behind = if lost == 0 { 0 } else { seen.behind + 1 };
        if lost == 0 {
            Verdict::Whole
        } else if seen.behind < servers {
            Verdict::Behind(lost)
        } else {
            // Said once; from now on that is all there is.
            (seen.seq, seen.behind) = (seq, 0);
            Verdict::Gone(lost)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_asked_before_a_batch_is_given_up() {
        let newest = Newest::default();
        newest.is_of("one");
        assert_eq!(newest.judge(0, 3), Verdict::Whole);
        newest.saw(7);
        newest.saw(5);
        assert_eq!(newest.judge(7, 3), Verdict::Whole);
        assert_eq!(newest.judge(6, 3), Verdict::Behind(1));
        assert_eq!(newest.judge(4, 3), Verdict::Behind(3));
        assert_eq!(newest.judge(8, 3), Verdict::Whole, "the last one has it");
        assert_eq!(newest.judge(6, 3), Verdict::Behind(1));
        assert_eq!(newest.judge(6, 3), Verdict::Behind(1));
        assert_eq!(newest.judge(6, 3), Verdict::Gone(1));
        assert_eq!(newest.judge(6, 3), Verdict::Whole, "it has been said");
        assert_eq!(newest.judge(5, 1), Verdict::Gone(1), "there is no other to ask");
    }

    #[test]
    fn another_store_owes_nothing() {
        let newest = Newest::default();
        newest.is_of("one");
        newest.saw(7);
        newest.is_of("one");
        assert_eq!(newest.judge(6, 3), Verdict::Behind(1));
        newest.is_of("two");
        assert_eq!(newest.judge(1, 3), Verdict::Whole);
        newest.saw(9);
        newest.forget();
        assert_eq!(newest.judge(2, 3), Verdict::Whole);
    }
}
