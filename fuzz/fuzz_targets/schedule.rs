//! Schedules and zones: `schedule`, a line feed, `zone`. Whatever they are, they are refused or their slots are in order.

#![no_main]

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use scheduler::schedule::{DstPolicy, Schedule, Spread, Zones};

thread_local! {
    static ZONES: Zones = Zones::bundled();
}

/// So many slots are looked at: enough for a year of weeks.
const SLOTS: usize = 60;

fuzz_target!(|text: &str| {
    let (text, zone) = text.split_once('\n').unwrap_or((text, ""));
    let now = Timestamp::from_second(1_900_000_000).expect("an instant");
    ZONES.with(|zones| {
        let (dst, spread) = (DstPolicy::default(), Spread::of("job"));
        let Ok(schedule) = Schedule::parse(zones, text, zone, dst, now, spread) else { return };
        let slots: Vec<_> = schedule.upcoming(now).take(SLOTS).collect();
        assert!(slots.windows(2).all(|pair| pair[0].due < pair[1].due), "{slots:?}");
        for slot in &slots {
            assert!(slot.due > now, "{slot:?}");
            assert_eq!(schedule.last_until(slot.due), Some(*slot));
            assert_eq!(schedule.due(slot.nominal), Some(slot.due));
        }
        for pair in slots.windows(2) {
            assert_eq!(schedule.after(pair[0].nominal), Some(pair[1]));
        }
        schedule.lints();
    });
});
