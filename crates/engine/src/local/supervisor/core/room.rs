//! How many tasks there may be at once, and when servers are to hold back.

/// Descriptors that a task needs here: two pipes, two files, the socket of its first stage, two in passing.
const DESCRIPTORS_PER_TASK: u64 = 7;
/// Descriptors for all else: the journal, servers, `/proc`.
const DESCRIPTORS_OF_OURS: u64 = 64;
/// This part of all places is for orders that are on their way when a server hears that it is to hold back.
const FOR_LATECOMERS: usize = 8;
/// This part of the rest has to become free before a server hears that there is room again: else it would with every end.
const FREE_AGAIN: usize = 64;

/// See the module.
pub(super) struct Room {
    max: usize,
    full: bool,
}

impl Room {
    /// As much as so many descriptors allow.
    pub(super) fn new(descriptors: u64) -> Self {
        let max = descriptors.saturating_sub(DESCRIPTORS_OF_OURS) / DESCRIPTORS_PER_TASK;
        Self { max: usize::try_from(max).unwrap_or(usize::MAX).max(1), full: false }
    }

    /// Whether there is a place for one more than these.
    pub(super) fn admits(&self, active: usize) -> bool {
        active < self.max
    }

    /// Why servers are to hold back, if they are, while there are so many tasks.
    pub(super) fn look(&mut self, active: usize) -> Option<String> {
        if active >= self.most() {
            self.full = true;
        } else if active + (self.most() / FREE_AGAIN).max(1) <= self.most() {
            self.full = false;
        }
        self.full.then(|| self.reason())
    }

    pub(super) fn reason(&self) -> String {
        format!(
            "{} local tasks run at once, and the limit of open files (ulimit -n, LimitNOFILE) allows no more; \
             the next one begins when some have ended",
            self.most()
        )
    }

    fn most(&self) -> usize {
        self.max - self.max / FOR_LATECOMERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_full_stays_so_until_there_is_room_for_several() {
        let mut room = Room::new(65_536);
        assert_eq!((room.max, room.most()), (9353, 8184));
        assert_eq!(room.look(8183), None);
        assert!(room.look(8184).is_some_and(|reason| reason.starts_with("8184 local tasks")));
        assert!(room.admits(9352) && !room.admits(9353), "who was on the way is taken");
        assert!(room.look(9353).is_some() && room.look(8100).is_some());
        assert_eq!(room.look(8184 - 8184 / 64), None);
        assert_eq!(room.look(8100), None);
    }

    #[test]
    fn there_is_room_for_one_at_least() {
        let mut room = Room::new(10);
        assert!(room.admits(0) && !room.admits(1));
        assert_eq!([0, 1, 0].map(|active| room.look(active).is_some()), [false, true, false]);
    }
}
