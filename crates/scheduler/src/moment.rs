//! An instant in as little space as it needs: a million jobs keep several each.

use std::fmt;
use std::num::NonZeroI64;

use jiff::Timestamp;

/// An instant of whole milliseconds: 8 bytes, also where there may be none. A [`Timestamp`] takes 16, and 24 then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(NonZeroI64);

impl Moment {
    /// Above the last millisecond of any timestamp, so that none is 0; and their order stays.
    const SHIFT: i64 = 1 << 62;

    /// The instant.
    pub fn at(self) -> Timestamp {
        // The last one can be said of a timestamp, but makes none.
        Timestamp::from_millisecond(self.0.get() - Self::SHIFT).unwrap_or(Timestamp::MAX)
    }
}

impl From<Timestamp> for Moment {
    /// Drops what is below a millisecond.
    fn from(at: Timestamp) -> Self {
        Self(NonZeroI64::new(at.as_millisecond() + Self::SHIFT).unwrap_or(NonZeroI64::MIN))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_millisecond_is_kept_and_in_order() {
        let instants = [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX].map(Moment::from);
        assert!(instants.is_sorted());
        for instant in instants {
            assert_eq!(Moment::from(instant.at()), instant);
        }
        assert_eq!(Moment::from(Timestamp::UNIX_EPOCH).at(), Timestamp::UNIX_EPOCH);
        assert_eq!(size_of::<Option<Moment>>(), 8);
    }
}
