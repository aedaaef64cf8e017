//! What all lists have in common: in which order they are, where a page begins, and how the few rows of a page are found
//! among many without sorting all.
//!
//! `sort` names a field, with a `-` before it for the other way round; rows that agree in it are sorted by what
//! identifies them. `cursor` is the place where a page ended, and belongs to its order: what is before that place is
//! on no later page, whatever has changed since.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use jiff::Timestamp;
use store::HistoryOrder;

use super::error::ApiError;

/// Between the parts of a cursor: neither names of jobs nor keys of runs have it, and URLs carry it as it is.
const BETWEEN: char = '~';

/// The fields that a list can be sorted by.
pub(super) trait Field: Copy + PartialEq + 'static {
    /// All of them, by their names.
    const ALL: &'static [(&'static str, Self)];
    /// The one that no two rows share, if the list has one that is a text.
    const NAME: Option<Self> = None;
}

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order<F> {
    /// By which field.
    pub(super) field: F,
    /// Which way.
    pub(super) way: Way,
}

/// Which value comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The least.
    Up,
    /// The greatest.
    Down,
}

impl From<Way> for HistoryOrder {
    /// Of times, of which the greatest is the newest.
    fn from(way: Way) -> Self {
        match way {
            Way::Down => Self::NewestFirst,
            Way::Up => Self::OldestFirst,
        }
    }
}

impl<F: Field> Order<F> {
    /// What `sort` says; `default` where it says nothing.
    pub(super) fn of(sort: Option<&str>, default: (F, Way)) -> Result<Self, ApiError> {
        let Some(text) = sort.map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(Self { field: default.0, way: default.1 });
        };
        let (way, name) = text.strip_prefix('-').map_or((Way::Up, text), |name| (Way::Down, name));
        let found = F::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, field)| Self { field: *field, way }).ok_or_else(|| {
            let message = format!("`sort`: `{}` is none of {}", clipped(name), names(F::ALL));
            ApiError::invalid("sort", message).hint("a `-` before it turns the order round")
        })
    }

    fn text(self) -> String {
        let name = F::ALL.iter().find(|(_, field)| *field == self.field).map_or("", |(name, _)| name);
        if self.way == Way::Down { format!("-{name}") } else { name.into() }
    }

    /// Where a number stands in this order; without one, at the end whichever way it goes.
    pub(super) fn number(self, value: Option<i64>) -> Key {
        match (value, self.way) {
            (None, _) => Key::Absent,
            (Some(n), Way::Up) => Key::Number(n),
            (Some(n), Way::Down) => Key::Number(!n),
        }
    }

    /// Where an instant stands.
    pub(super) fn time(self, at: Option<Timestamp>) -> Key {
        self.number(at.map(|at| at.as_millisecond()))
    }

    /// Where a text stands; an empty one is none.
    pub(super) fn text_of(self, value: &Arc<str>) -> Key {
        match self.way {
            _ if value.is_empty() => Key::Absent,
            Way::Up => Key::Text(value.clone()),
            Way::Down => Key::Down(Reverse(value.clone())),
        }
    }

    /// Where a name stands that identifies the row.
    pub(super) fn identity(self, name: &str) -> Key {
        if self.way == Way::Up { Key::Same } else { Key::Down(Reverse(name.into())) }
    }

    /// The cursor of a page that ended here.
    pub(super) fn cursor(self, key: &Key, id: &impl Display) -> String {
        let text = self.text();
        match key {
            // The plain order by name: whoever wants to begin in the middle may name a job.
            Key::Same => id.to_string(),
            Key::Number(n) => format!("{text}{BETWEEN}{n}{BETWEEN}{id}"),
            Key::Text(value) | Key::Down(Reverse(value)) => format!("{text}{BETWEEN}={value}{BETWEEN}{id}"),
            Key::Absent => format!("{text}{BETWEEN}{BETWEEN}{id}"),
        }
    }

    /// The place that a cursor of this order names.
    pub(super) fn place<I>(
        self,
        cursor: Option<&str>,
        id: impl Fn(&str) -> Option<I>,
    ) -> Result<Option<(Key, I)>, ApiError> {
        let read = |text: &str| {
            let Some(rest) = text.strip_prefix(&self.text()).and_then(|rest| rest.strip_prefix(BETWEEN))
            else {
                let plain = F::NAME == Some(self.field) && self.way == Way::Up;
                return id(text).filter(|_| plain).map(|id| (Key::Same, id));
            };
            let (key, name) = rest.rsplit_once(BETWEEN)?;
            let key = match key.strip_prefix('=') {
                Some(value) if self.way == Way::Down => Key::Down(Reverse(value.into())),
                Some(value) => Key::Text(value.into()),
                None if key.is_empty() => Key::Absent,
                None => Key::Number(key.parse().ok()?),
            };
            Some((key, id(name)?))
        };
        cursor.map(|text| read(text).ok_or_else(wrong_cursor)).transpose()
    }
}

pub(super) fn wrong_cursor() -> ApiError {
    ApiError::invalid("cursor", "`cursor` is not one of this list in this order")
        .hint("send `next` of the page before, with the same `sort`")
}

/// Where a row stands among the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// Where all others do: the identity decides.
    Same,
    Number(i64),
    Text(Arc<str>),
    Down(Reverse<Arc<str>>),
    /// After all that have a value.
    Absent,
}

/// The first rows after a place, of all that are offered: holds no more than a page and one.
pub(super) struct Page<I, T> {
    after: Option<(Key, I)>,
    limit: usize,
    rows: BTreeMap<(Key, I), T>,
    /// How many were offered.
    pub(super) total: usize,
}

impl<I: Ord + Clone + Display, T> Page<I, T> {
    pub(super) fn new(after: Option<(Key, I)>, limit: usize) -> Self {
        Self { after, limit, rows: BTreeMap::new(), total: 0 }
    }

    /// Takes a row in if it is on this page, as far as is known by now.
    pub(super) fn offer(&mut self, key: Key, id: &I, row: impl FnOnce() -> T) {
        self.total += 1;
        let is_after = |(other, than): &(Key, I)| (&key, id) > (other, than);
        let full = self.rows.len() > self.limit;
        if self.after.as_ref().is_some_and(|place| !is_after(place))
            || (full && self.rows.last_key_value().is_some_and(|(last, _)| is_after(last)))
        {
            return;
        }
        self.rows.insert((key, id.clone()), row());
        if full {
            self.rows.pop_last();
        }
    }

    /// The rows in order, and one more if there is one.
    pub(super) fn rows(self) -> impl Iterator<Item = T> {
        self.rows.into_values()
    }

    /// The rows in order, and the cursor of the next page if there is one.
    pub(super) fn told<F: Field>(mut self, order: Order<F>) -> (Vec<T>, Option<String>) {
        let more = self.rows.len() > self.limit;
        if more {
            self.rows.pop_last();
        }
        let last = self.rows.last_key_value().filter(|_| more);
        let next = last.map(|((key, id), _)| order.cursor(key, id));
        (self.rows.into_values().collect(), next)
    }
}

/// The values that a parameter names, separated by commas; none where it names none.
pub(super) fn words<T: Copy>(
    field: &str,
    text: Option<&str>,
    known: &[(&'static str, T)],
) -> Result<Vec<T>, ApiError> {
    let wanted = text.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty());
    let value = |word: &str| {
        let found = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
        found.map(|(_, value)| *value).ok_or_else(|| {
            ApiError::invalid(field, format!("`{field}`: `{}` is none of {}", clipped(word), names(known)))
        })
    };
    wanted.map(value).collect()
}

fn names<T>(known: &[(&'static str, T)]) -> String {
    known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn clipped(word: &str) -> String {
    word.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum By {
        Name,
        Size,
        Owner,
    }

    impl Field for By {
        const ALL: &'static [(&'static str, Self)] =
            &[("name", Self::Name), ("size", Self::Size), ("owner", Self::Owner)];
        const NAME: Option<Self> = Some(Self::Name);
    }

    /// Names, sizes and owners; the owner has in it what is between the parts of a cursor.
    const ROWS: [(&str, Option<i64>, &str); 6] = [
        ("c", Some(-3), "x~=y"),
        ("a", Some(5), ""),
        ("f", None, "x~=y"),
        ("b", Some(5), "z"),
        ("e", Some(9), ""),
        ("d", None, "a"),
    ];

    fn pages(sort: &str, limit: usize) -> String {
        let order: Order<By> = Order::of(Some(sort), (By::Name, Way::Up)).expect("it is known");
        let (mut seen, mut cursor) = (String::new(), None::<String>);
        loop {
            let place = order.place(cursor.as_deref(), |id| Some(id.to_owned())).expect("it is ours");
            let mut page = Page::new(place, limit);
            for (name, size, owner) in ROWS {
                let key = match order.field {
                    By::Name => order.identity(name),
                    By::Size => order.number(size),
                    By::Owner => order.text_of(&owner.into()),
                };
                page.offer(key, &name.to_owned(), || name);
            }
            assert_eq!(page.total, ROWS.len());
            let (rows, next) = page.told(order);
            assert!(rows.len() <= limit);
            seen.extend(rows);
            cursor = next;
            if cursor.is_none() {
                return seen;
            }
        }
    }

    #[test]
    fn pages_of_any_size_are_the_list_in_its_order() {
        for (sort, all) in [
            ("", "abcdef"),
            ("-name", "fedcba"),
            ("size", "cabedf"),
            ("-size", "eabcdf"),
            ("owner", "dcfbae"),
            ("-owner", "bcfdae"),
        ] {
            for limit in [1, 2, 3, 5, 6, 7] {
                assert_eq!(pages(sort, limit), all, "{sort} by {limit}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        let refused = |sort: &str| {
            let error = Order::<By>::of(Some(sort), (By::Name, Way::Up)).expect_err("it is unknown");
            (error.body.field, error.body.message)
        };
        assert_eq!(refused("-sise"), ("sort".into(), "`sort`: `sise` is none of name, size, owner".into()));
        let by = |sort| Order::<By>::of(Some(sort), (By::Name, Way::Up)).expect("it is known");
        let cursor = by("-size").cursor(&by("-size").number(Some(7)), &"job");
        let only = |id: &str| scheduler::ids::JobName::new(id).ok();
        assert!(by("-size").place(Some(&cursor), only).is_ok());
        for other in ["size", "name", "owner"] {
            let error = by(other).place(Some(&cursor), only).expect_err("it is of another order");
            assert_eq!(error.body.field, "cursor");
        }
        assert!(by("name").place(Some("job"), only).is_ok(), "a page may begin after any name");
        assert!(by("-name").place(Some("job"), only).is_err());
    }
}
