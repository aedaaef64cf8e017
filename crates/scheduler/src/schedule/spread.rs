//! `H`: a value of a cron field that follows from the name of the job, so that a thousand nightly jobs do not begin
//! in the same minute and each of them keeps its own.

use super::Field;
use super::fields::{self, Steps};

/// What a job draws its `H` from. It follows from the name alone: restart, replace, export and import change nothing.
///
/// The numbers are part of what is stored, since the schedule of a job means what they say; a test holds some of them.
/// # Source
/// FNV-1a over the bytes of the name, then the finaliser of SplitMix64, once for each field. Not the hash of the
/// standard library, which may change with any of its versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread(u64);

impl Spread {
    /// That of the job with this name.
    pub fn of(name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash)
    }

    /// A number below `bound`, another one for each field.
    fn draw(self, field: Field, bound: u8) -> u8 {
        let salt = match field {
            Field::Second => 1_u64,
            Field::Minute => 2,
            Field::Hour => 3,
            Field::Day => 4,
            Field::Month => 5,
            Field::Weekday => 6,
        };
        let mut mixed = self.0.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let drawn = (mixed ^ (mixed >> 31)) % u64::from(bound.max(1));
        u8::try_from(drawn).unwrap_or(0)
    }

    /// The field with every `H` replaced by what it stands for; `None` if it has none.
    /// # Errors
    /// What is wrong with an `H`, as a clause.
    pub(super) fn resolve(self, field: Field, text: &str) -> Result<Option<String>, String> {
        if !text.split(',').any(is_spread) {
            return Ok(None);
        }
        let item = |item: &str| if is_spread(item) { self.item(field, item) } else { Ok(item.into()) };
        let items: Result<Vec<String>, String> = text.split(',').map(item).collect();
        Ok(Some(items?.join(",")))
    }

    /// `H` and `H(0-29)` are one number, `H/15` and `H(0-29)/10` a step that begins with one below the step.
    fn item(self, field: Field, item: &str) -> Result<String, String> {
        let item = item.to_ascii_uppercase();
        let wrong = || format!("`{item}`: H stands alone or as in H/15, H(0-29) or H(0-29)/10");
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(fields::step(step)?)),
            None => (item.as_str(), None),
        };
        let (first, last) = match range.strip_prefix('H').ok_or_else(wrong)? {
            "" => everywhere(field),
            range => {
                let range = range.strip_prefix('(').and_then(|range| range.strip_suffix(')'));
                let (first, last) = range.and_then(|range| range.split_once('-')).ok_or_else(wrong)?;
                let Steps { first, last, .. } = fields::range(field, first, last)?;
                (first, last)
            }
        };
        let width = last - first + 1;
        Ok(match step {
            None => (first + self.draw(field, width)).to_string(),
            Some(step) => {
                let begin = u8::try_from(step).map_or(width, |step| step.min(width));
                format!("{}-{last}/{step}", first + self.draw(field, begin))
            }
        })
    }
}

/// Whether an item of a list is an `H`: no name begins with that letter.
pub(super) fn is_spread(item: &str) -> bool {
    item.starts_with(['H', 'h'])
}

/// Where an `H` without bounds may fall: days that every month has, and Sunday once.
fn everywhere(field: Field) -> (u8, u8) {
    match field {
        Field::Day => (1, 28),
        Field::Weekday => (0, 6),
        _ => fields::bounds(field),
    }
}
