//! Definitions of jobs: what is taken at any door is, read again as it is written, the same job.

#![no_main]

use chronos::wire::job::{Door, as_written, read, read_value};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use scheduler::request::PlanText;
use scheduler::schedule::Zones;
use serde_json::Value;

thread_local! {
    static ZONES: Zones = Zones::bundled();
}

fuzz_target!(|document: &[u8]| {
    let now = Timestamp::from_second(1_900_000_000).expect("an instant");
    ZONES.with(|zones| {
        for door in [Door::Schedule, Door::Dependency, Door::Imported, Door::Any] {
            let Ok(first) = read(document, door, zones, now) else { continue };
            let (job, parents) = first.definition.draft();
            let mut written = as_written(&job, |_| None);
            if matches!(first.definition.plan, PlanText::Parents(_)) {
                written.insert("parents".into(), parents.iter().map(|parent| parent.as_str()).collect());
                if parents.is_empty() {
                    // Only the door of dependents takes it.
                    continue;
                }
            }
            let written = Value::Object(written);
            let again = read_value(&written, Door::Any, zones, now)
                .unwrap_or_else(|problem| panic!("{problem}: {written}"));
            assert_eq!(again.definition.rules, first.definition.rules, "{written}");
            assert_eq!(again.definition.plan, first.definition.plan, "{written}");
        }
    });
});
