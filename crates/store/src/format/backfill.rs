//! Backfills, as stored.

use scheduler::backfill::{Backfill, Children, Order, Rate, Redo};
use scheduler::ids::BackfillId;
use serde::{Deserialize, Serialize};

use super::job::StoredTimetable;
use super::value::{Key, Ms, Span, StoredSlot, Uid, is_default};

/// Which backfill.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct StoredBackfillId {
    job: Uid,
    number: u32,
}

/// See [`Backfill`].
#[derive(Serialize, Deserialize)]
pub(super) struct StoredBackfill {
    #[serde(flatten)]
    id: StoredBackfillId,
    what: StoredRedo,
    #[serde(default, skip_serializing_if = "StoredChildren::follow")]
    children: StoredChildren,
    parallel: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<StoredRate>,
    created: Ms,
    slots: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<StoredSlot>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    except: Vec<(Ms, Ms)>,
    #[serde(default, skip_serializing_if = "is_default")]
    begun: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    succeeded: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    failed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Ms>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<Ms>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    under_way: Vec<Ms>,
    #[serde(default, skip_serializing_if = "is_default")]
    cancelled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<Ms>,
}

/// See [`Redo`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredRedo {
    Slots { table: Box<StoredTimetable>, from: Ms, to: Ms, order: StoredOrder },
    Run(Key),
}

/// See [`Order`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredOrder {
    OldestFirst,
    NewestFirst,
}

/// See [`Children`].
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredChildren {
    #[default]
    Follow,
    Stay,
}

impl StoredChildren {
    fn follow(&self) -> bool {
        matches!(self, Self::Follow)
    }
}

/// See [`Rate`].
#[derive(Serialize, Deserialize)]
struct StoredRate {
    count: u32,
    per: Span,
}

impl From<BackfillId> for StoredBackfillId {
    fn from(BackfillId { job, number }: BackfillId) -> Self {
        Self { job: Uid(job), number }
    }
}

impl From<StoredBackfillId> for BackfillId {
    fn from(StoredBackfillId { job, number }: StoredBackfillId) -> Self {
        Self { job: job.0, number }
    }
}

impl From<&Redo> for StoredRedo {
    fn from(what: &Redo) -> Self {
        match what {
            Redo::Slots { table, from, to, order } => Self::Slots {
                table: Box::new(table.into()),
                from: Ms(*from),
                to: Ms(*to),
                order: match order {
                    Order::OldestFirst => StoredOrder::OldestFirst,
                    Order::NewestFirst => StoredOrder::NewestFirst,
                },
            },
            Redo::Run(key) => Self::Run(Key(*key)),
        }
    }
}

impl From<StoredRedo> for Redo {
    fn from(stored: StoredRedo) -> Self {
        match stored {
            StoredRedo::Slots { table, from, to, order } => Self::Slots {
                table: (*table).into(),
                from: from.0,
                to: to.0,
                order: match order {
                    StoredOrder::OldestFirst => Order::OldestFirst,
                    StoredOrder::NewestFirst => Order::NewestFirst,
                },
            },
            StoredRedo::Run(key) => Self::Run(key.0),
        }
    }
}

impl From<&Backfill> for StoredBackfill {
    fn from(backfill: &Backfill) -> Self {
        let Backfill {
            id,
            what,
            children,
            parallel,
            rate,
            created,
            slots,
            next,
            except,
            begun,
            succeeded,
            failed,
            last,
            hold,
            under_way,
            cancelled,
            ended,
        } = backfill;
        Self {
            id: (*id).into(),
            what: what.into(),
            children: match children {
                Children::Follow => StoredChildren::Follow,
                Children::Stay => StoredChildren::Stay,
            },
            parallel: *parallel,
            rate: rate.map(|Rate { count, per }| StoredRate { count, per: Span(per) }),
            created: Ms(*created),
            slots: *slots,
            next: next.map(StoredSlot),
            except: except.iter().map(|(first, last)| (Ms(*first), Ms(*last))).collect(),
            begun: *begun,
            succeeded: *succeeded,
            failed: *failed,
            last: last.map(Ms),
            hold: hold.map(Ms),
            under_way: under_way.iter().map(|due| Ms(*due)).collect(),
            cancelled: *cancelled,
            ended: ended.map(Ms),
        }
    }
}

impl From<StoredBackfill> for Backfill {
    fn from(stored: StoredBackfill) -> Self {
        Self {
            id: stored.id.into(),
            what: stored.what.into(),
            children: match stored.children {
                StoredChildren::Follow => Children::Follow,
                StoredChildren::Stay => Children::Stay,
            },
            parallel: stored.parallel,
            rate: stored.rate.map(|StoredRate { count, per: Span(per) }| Rate { count, per }),
            created: stored.created.0,
            slots: stored.slots,
            next: stored.next.map(|slot| slot.0),
            except: stored.except.into_iter().map(|(first, last)| (first.0, last.0)).collect(),
            begun: stored.begun,
            succeeded: stored.succeeded,
            failed: stored.failed,
            last: stored.last.map(|at| at.0),
            hold: stored.hold.map(|at| at.0),
            under_way: stored.under_way.into_iter().map(|due| due.0).collect(),
            cancelled: stored.cancelled,
            ended: stored.ended.map(|at| at.0),
        }
    }
}
