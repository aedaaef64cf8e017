//! Which notice goes next: one lane for each address, so that a receiver hears of things in order, and of a storm in
//! few messages. An index of [`Book`](crate::book::Book); it decides nothing that is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::book::later;
use crate::notice::{Address, Notice, NoticeId, NoticeState};

/// A settled notice is shown so long.
const KEPT_FOR: Duration = Duration::from_secs(7 * 86_400);

/// The notices that there are, by what they wait for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outbox {
    lanes: BTreeMap<Address, Lane>,
    /// When to look at a notice: heads of lanes that wait, and settled ones that are to go.
    due: BTreeSet<(Timestamp, NoticeId)>,
    /// By when they were settled.
    settled: BTreeSet<(Timestamp, NoticeId)>,
    unsettled: usize,
}

/// The notices to one address.
#[derive(Clone, Debug, Default, PartialEq)]
struct Lane {
    /// Those that are not settled, and until when they wait; `None` for one that is under way.
    open: BTreeMap<NoticeId, Option<Timestamp>>,
    /// All that have been sent, by when that was the last time.
    tried: BTreeSet<(Timestamp, NoticeId)>,
    /// Its entry in `due`.
    head: Option<(Timestamp, NoticeId)>,
}

impl Outbox {
    pub(crate) fn insert(&mut self, notice: &Notice) {
        match notice.state {
            NoticeState::Waiting { until } => self.open(notice, Some(until)),
            NoticeState::Sending => self.open(notice, None),
            NoticeState::Delivered { at } | NoticeState::GivenUp { at } => {
                self.settled.insert((at, notice.id));
                self.due.insert((later(at, KEPT_FOR), notice.id));
            }
        }
        if let Some(at) = notice.tried {
            self.lane(notice).tried.insert((at, notice.id));
        }
        self.refresh(&notice.address);
    }

    pub(crate) fn remove(&mut self, notice: &Notice) {
        match notice.state {
            NoticeState::Waiting { .. } | NoticeState::Sending => {
                self.unsettled -= 1;
                self.lane(notice).open.remove(&notice.id);
            }
            NoticeState::Delivered { at } | NoticeState::GivenUp { at } => {
                self.settled.remove(&(at, notice.id));
                self.due.remove(&(later(at, KEPT_FOR), notice.id));
            }
        }
        if let Some(at) = notice.tried {
            self.lane(notice).tried.remove(&(at, notice.id));
        }
        self.refresh(&notice.address);
    }

    /// The first notice that something is to be done about.
    pub(crate) fn first(&self) -> Option<(Timestamp, NoticeId)> {
        self.due.first().copied()
    }

    /// The last notice to an address that is not settled.
    pub(crate) fn last_to(&self, address: &Address) -> Option<NoticeId> {
        self.lanes.get(address)?.open.last_key_value().map(|(id, _)| *id)
    }

    /// When something was last sent there, as far as is known.
    pub(crate) fn tried(&self, address: &Address) -> Option<Timestamp> {
        self.lanes.get(address)?.tried.last().map(|(at, _)| *at)
    }

    pub(crate) fn unsettled(&self) -> usize {
        self.unsettled
    }

    pub(crate) fn settled(&self) -> usize {
        self.settled.len()
    }

    /// The one that was settled first.
    pub(crate) fn oldest_settled(&self) -> Option<NoticeId> {
        self.settled.first().map(|(_, id)| *id)
    }

    fn open(&mut self, notice: &Notice, until: Option<Timestamp>) {
        self.unsettled += 1;
        self.lane(notice).open.insert(notice.id, until);
    }

    fn lane(&mut self, notice: &Notice) -> &mut Lane {
        self.lanes.entry(notice.address.clone()).or_default()
    }

    /// Only the head of a lane waits for its time; those behind it wait for the head.
    fn refresh(&mut self, address: &Address) {
        let Some(lane) = self.lanes.get_mut(address) else { return };
        let head = lane.open.first_key_value().and_then(|(id, until)| until.map(|until| (until, *id)));
        if let Some(old) = std::mem::replace(&mut lane.head, head) {
            self.due.remove(&old);
        }
        self.due.extend(head);
        if lane.open.is_empty() && lane.tried.is_empty() {
            self.lanes.remove(address);
        }
    }
}
