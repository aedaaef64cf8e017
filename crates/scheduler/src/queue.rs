//! The queue: which of the runs that may start is the next, under the limits of the server.
//!
//! Where there is room for all that waits, they go by priority, then due time. Where a limit binds, it is shared fairly:
//! among the runs of a priority the owner with the fewest tasks goes first, see [`Fair`]. Runs that no limit tells
//! apart are kept together in a [`Cell`], and limits move whole cells: what a label holds back is parked under that
//! label, off the way of all others, and while the label has room, one of its cells at a time is let back in. So nothing
//! is looked at twice for each task that ends, however much is waiting.
//! **Invariant:** a label with room has no parked cell without another one being open on its behalf.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::ids::RunKey;
use crate::job::Rules;
use crate::limits::{Label, Limits, Rate};

/// Importance; everything of a higher one goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    High,
    Normal,
    /// Past slots go behind all that is due now.
    Low,
}

impl Rank {
    const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];
}

/// What limits see of a job: whose it is, and which of its labels are limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    owner: Arc<str>,
    labels: Box<[Label]>,
}

/// A run's place among those of its cell.
type Place = (Timestamp, RunKey);
type CellId = (Rank, Arc<Class>);

/// Runs that wait and that no limit tells apart. Never empty.
#[derive(Debug, Default)]
struct Cell {
    runs: BTreeSet<Place>,
    ward: Ward,
}

/// Where a cell waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Ward {
    /// For its turn.
    #[default]
    Open,
    /// For its turn, as the one that was let back in of those parked under a label.
    Guest(Label),
    /// For room under a label.
    Parked(Label),
}

/// The tasks that run of one label, and what waits for them to end.
#[derive(Debug, Default)]
struct Bucket {
    max: u32,
    running: u32,
    parked: Fair,
    guest: Option<CellId>,
}

pub(crate) struct Queue {
    limits: Limits,
    rate: Rate,
    running: u32,
    cells: BTreeMap<CellId, Cell>,
    open: Fair,
    /// The open cells once more, as they go while there is room for all.
    in_order: BTreeMap<(Rank, Place), CellId>,
    /// Runs in open cells.
    open_runs: usize,
    buckets: BTreeMap<Label, Bucket>,
    /// Labels of which a cell may have to be let back in.
    stirred: BTreeSet<Label>,
    /// The class of all jobs where there are no limits.
    plain: Arc<Class>,
}

impl Queue {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            rate: Rate::new(limits.launch_rate_max),
            limits,
            running: 0,
            cells: BTreeMap::new(),
            open: Fair::default(),
            in_order: BTreeMap::new(),
            open_runs: 0,
            buckets: BTreeMap::new(),
            stirred: BTreeSet::new(),
            plain: Arc::default(),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn class(&self, rules: &Rules) -> Arc<Class> {
        if self.limits.is_empty() {
            return self.plain.clone();
        }
        let limited = rules.labels().iter().filter(|label| self.limits.of_label(label).is_some());
        Arc::new(Class { owner: rules.owner(), labels: limited.cloned().collect() })
    }

    /// A run may start as soon as the limits allow it.
    pub(crate) fn insert(&mut self, rank: Rank, class: Arc<Class>, due: Timestamp, key: RunKey) {
        let id = (rank, class);
        let mut cell = self.take_cell(&id).unwrap_or_default();
        cell.runs.insert((due, key));
        self.put_cell(id, cell);
    }

    /// A run starts, or does not wait any more.
    pub(crate) fn remove(&mut self, rank: Rank, class: Arc<Class>, due: Timestamp, key: RunKey) {
        let id = (rank, class);
        let Some(mut cell) = self.take_cell(&id) else { return };
        cell.runs.remove(&(due, key));
        // The next run that is let in for the label may be another owner's.
        self.end_visit(&mut cell);
        if !cell.runs.is_empty() {
            self.put_cell(id, cell);
        }
    }

    /// A task begins to count.
    pub(crate) fn started(&mut self, class: &Class) {
        self.running += 1;
        self.open.started(&class.owner);
        for label in &class.labels {
            let bucket = self.bucket(label);
            bucket.running += 1;
            bucket.parked.started(&class.owner);
        }
    }

    /// A task counts no more.
    pub(crate) fn ended(&mut self, class: &Class) {
        self.running -= 1;
        self.open.ended(&class.owner);
        for label in &class.labels {
            let bucket = self.bucket(label);
            bucket.running -= 1;
            bucket.parked.ended(&class.owner);
            self.stirred.insert(label.clone());
        }
    }

    /// The run that shall start now, if any may. What turns out to be held by a label on the way is parked, at a cost of
    /// one of `budget` for each cell.
    pub(crate) fn next(&mut self, now: Timestamp, budget: &mut usize) -> Option<RunKey> {
        self.rate.observe(now);
        while *budget > 0 {
            self.let_in();
            let room = self.room(now);
            if room == 0 {
                return None;
            }
            let enough = usize::try_from(room).is_ok_and(|room| room >= self.open_runs);
            let first = if enough { self.in_order.values().next() } else { self.open.first() };
            let id = first?.clone();
            match id.1.labels.iter().find(|label| self.is_full(label)).cloned() {
                None => return self.cells.get(&id)?.runs.first().map(|(_, key)| *key),
                Some(label) => self.park(id, label),
            }
            *budget -= 1;
        }
        None
    }

    /// One of the launches that the rate allows is used up.
    pub(crate) fn spend(&mut self, now: Timestamp) {
        self.rate.spend(now);
    }

    /// When [`Queue::next`] may have something, if nothing ends before.
    pub(crate) fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        let full = self.limits.running_max.is_some_and(|max| self.running >= max.get());
        let nothing = self.cells.is_empty() || (self.in_order.is_empty() && self.stirred.is_empty());
        (!full && !nothing).then(|| self.rate.ready_at(now))
    }

    /// Nothing waits for its turn: what is left, if anything, is held by its labels.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_order.is_empty() && self.stirred.is_empty()
    }

    fn room(&self, now: Timestamp) -> u32 {
        let max = self.limits.running_max.map_or(u32::MAX, |max| max.get());
        max.saturating_sub(self.running).min(self.rate.room(now))
    }

    fn is_full(&self, label: &Label) -> bool {
        self.buckets.get(label).is_some_and(|bucket| bucket.running >= bucket.max)
    }

    fn bucket(&mut self, label: &Label) -> &mut Bucket {
        let max = self.limits.of_label(label).map_or(u32::MAX, |limit| limit.max.get());
        self.buckets.entry(label.clone()).or_insert_with(|| Bucket { max, ..Bucket::default() })
    }

    fn park(&mut self, id: CellId, label: Label) {
        let Some(mut cell) = self.take_cell(&id) else { return };
        self.end_visit(&mut cell);
        cell.ward = Ward::Parked(label);
        self.put_cell(id, cell);
    }

    /// Lets a parked cell back in for each label that has got room.
    fn let_in(&mut self) {
        while let Some(label) = self.stirred.pop_first() {
            let Some(bucket) = self.buckets.get(&label) else { continue };
            match bucket.parked.first().cloned() {
                Some(id) if bucket.running < bucket.max && bucket.guest.is_none() => {
                    let Some(mut cell) = self.take_cell(&id) else { continue };
                    cell.ward = Ward::Guest(label);
                    self.put_cell(id, cell);
                }
                None if bucket.running == 0 && bucket.guest.is_none() => drop(self.buckets.remove(&label)),
                _ => {}
            }
        }
    }

    /// A cell that is out of the queue is no guest any more: it is parked again, and another may come.
    fn end_visit(&mut self, cell: &mut Cell) {
        if let Ward::Guest(label) = &cell.ward {
            self.bucket(label).guest = None;
            self.stirred.insert(label.clone());
            cell.ward = Ward::Parked(label.clone());
        }
    }

    /// Takes a cell out of everything that leads to it.
    fn take_cell(&mut self, id: &CellId) -> Option<Cell> {
        let cell = self.cells.remove(id)?;
        let head = *cell.runs.first()?;
        match &cell.ward {
            Ward::Parked(label) => self.bucket(label).parked.remove(id, head),
            Ward::Open | Ward::Guest(_) => {
                self.open.remove(id, head);
                self.in_order.remove(&(id.0, head));
                self.open_runs -= cell.runs.len();
            }
        }
        Some(cell)
    }

    fn put_cell(&mut self, id: CellId, cell: Cell) {
        let Some(head) = cell.runs.first().copied() else { return };
        match &cell.ward {
            Ward::Parked(label) => self.bucket(label).parked.insert(&id, head),
            Ward::Open | Ward::Guest(_) => {
                self.open.insert(&id, head);
                self.in_order.insert((id.0, head), id.clone());
                self.open_runs += cell.runs.len();
            }
        }
        if let Ward::Guest(label) = &cell.ward {
            self.bucket(label).guest = Some(id.clone());
        }
        self.cells.insert(id, cell);
    }

    /// Says where the queue contradicts itself, or counts other tasks than one that has just been filled. Which cells
    /// are parked may differ, as it depends on the order in which things happened.
    pub(crate) fn check(&self, fresh: &Self) -> Result<(), String> {
        let same =
            |what: &str, same: bool| if same { Ok(()) } else { Err(format!("the queue's {what} is wrong")) };
        let runs = |queue: &Self| {
            queue.cells.iter().map(|(id, cell)| (id.clone(), cell.runs.len())).collect::<Vec<_>>()
        };
        let tasks = |queue: &Self| {
            let counted = queue.buckets.iter().filter(|(_, bucket)| bucket.running > 0);
            counted
                .map(|(label, bucket)| (label.clone(), bucket.running, bucket.parked.running.clone()))
                .collect::<Vec<_>>()
        };
        same("number of runs", runs(self) == runs(fresh))?;
        same("number of tasks", self.running == fresh.running && self.open.running == fresh.open.running)?;
        same("number of tasks by label", tasks(self) == tasks(fresh))?;
        let open = |cell: &&Cell| !matches!(cell.ward, Ward::Parked(_));
        let open_runs: usize = self.cells.values().filter(open).map(|cell| cell.runs.len()).sum();
        same("number of open runs", open_runs == self.open_runs)?;
        same("order", self.in_order.len() == self.cells.values().filter(open).count())?;
        same("order", self.open.len() == self.in_order.len())?;
        for (label, bucket) in &self.buckets {
            let parked = self.cells.values().filter(|cell| cell.ward == Ward::Parked(label.clone())).count();
            same("parking", parked == bucket.parked.len())?;
            let room = bucket.running < bucket.max && !self.stirred.contains(label);
            same("way back from parking", parked == 0 || !room || bucket.guest.is_some())?;
        }
        Ok(())
    }
}

/// The first runs of cells, fair between owners: of a rank, the owner with the fewest tasks goes first; of several such,
/// the one whose last turn is longest ago, or nobody with few would ever pass one with many where there is room for a
/// single task; of one owner, the earliest due time.
#[derive(Debug, Default)]
struct Fair {
    /// Tasks by owner.
    running: BTreeMap<Arc<str>, u32>,
    lanes: BTreeMap<(Rank, Arc<str>), BTreeMap<Place, CellId>>,
    /// The first of each lane.
    order: BTreeMap<(Rank, u32, u64, Place), CellId>,
    /// When an owner last had its turn, or came; kept while anybody waits.
    turns: BTreeMap<Arc<str>, u64>,
    turn: u64,
}

impl Fair {
    fn first(&self) -> Option<&CellId> {
        self.order.values().next()
    }

    fn len(&self) -> usize {
        self.lanes.values().map(BTreeMap::len).sum()
    }

    fn insert(&mut self, id: &CellId, head: Place) {
        let lane = (id.0, id.1.owner.clone());
        self.unplace(&lane);
        self.turns.entry(lane.1.clone()).or_insert(self.turn);
        self.lanes.entry(lane.clone()).or_default().insert(head, id.clone());
        self.place(&lane);
    }

    fn remove(&mut self, id: &CellId, head: Place) {
        let lane = (id.0, id.1.owner.clone());
        self.unplace(&lane);
        if let Some(heads) = self.lanes.get_mut(&lane) {
            heads.remove(&head);
            if heads.is_empty() {
                self.lanes.remove(&lane);
            }
        }
        self.place(&lane);
        if self.lanes.is_empty() {
            self.turns.clear();
        }
    }

    /// A task of the owner starts: it has had its turn.
    fn started(&mut self, owner: &Arc<str>) {
        let lanes = Rank::ALL.map(|rank| (rank, owner.clone()));
        lanes.iter().for_each(|lane| self.unplace(lane));
        *self.running.entry(owner.clone()).or_default() += 1;
        self.turn += 1;
        if !self.lanes.is_empty() {
            self.turns.insert(owner.clone(), self.turn);
        }
        lanes.iter().for_each(|lane| self.place(lane));
    }

    fn ended(&mut self, owner: &Arc<str>) {
        let lanes = Rank::ALL.map(|rank| (rank, owner.clone()));
        lanes.iter().for_each(|lane| self.unplace(lane));
        match self.running(owner) {
            0 | 1 => drop(self.running.remove(owner)),
            n => drop(self.running.insert(owner.clone(), n - 1)),
        }
        lanes.iter().for_each(|lane| self.place(lane));
    }

    fn running(&self, owner: &Arc<str>) -> u32 {
        self.running.get(owner).copied().unwrap_or(0)
    }

    fn standing(&self, (rank, owner): &(Rank, Arc<str>), head: Place) -> (Rank, u32, u64, Place) {
        (*rank, self.running(owner), self.turns.get(owner).copied().unwrap_or(0), head)
    }

    fn unplace(&mut self, lane: &(Rank, Arc<str>)) {
        if let Some(head) = self.lanes.get(lane).and_then(|heads| heads.keys().next()) {
            self.order.remove(&self.standing(lane, *head));
        }
    }

    fn place(&mut self, lane: &(Rank, Arc<str>)) {
        if let Some((head, id)) = self.lanes.get(lane).and_then(|heads| heads.first_key_value()) {
            self.order.insert(self.standing(lane, *head), id.clone());
        }
    }
}
