//! The time zones that a program knows: those compiled in, or those of its machine, handed in once.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::ScheduleError;
use super::calendar::{self, Zone};
use crate::state::ZoneData;

/// The time zones that schedules are read in, with the version of their data. Cheap to clone; never changes.
///
/// The core looks at no disk: where a machine's own zones are wanted, the shell reads them and hands them in. They are
/// held in memory, so that an update of the machine cannot change the rules within a term.
#[derive(Clone, Debug)]
pub struct Zones {
    source: Source,
    data: ZoneData,
}

#[derive(Clone, Debug)]
enum Source {
    Bundled,
    /// By lower-case name.
    Given(Arc<BTreeMap<String, TimeZone>>),
}

impl Zones {
    /// Those compiled in: all nodes that run the same program agree on every slot.
    pub fn bundled() -> Self {
        Self { source: Source::Bundled, data: ZoneData::compiled_in() }
    }

    /// These, of which those without a name of their own are left out.
    pub fn given(zones: impl IntoIterator<Item = TimeZone>, data: ZoneData) -> Self {
        let named = |zone: TimeZone| Some((zone.iana_name()?.to_ascii_lowercase(), zone));
        Self { source: Source::Given(Arc::new(zones.into_iter().filter_map(named).collect())), data }
    }

    /// The version of their data, which is stored with the due times that were computed with it.
    pub fn data(&self) -> ZoneData {
        self.data
    }

    /// Looks `name` up, without regard to case. Empty, `Z` and `UTC` are UTC; `+05:30`, `-0800` and `+01` are fixed
    /// offsets, with or without `UTC` or `GMT` before them.
    /// # Errors
    /// [`ScheduleError::Zone`] with the nearest known name.
    pub fn named(&self, name: &str) -> Result<Zone, ScheduleError> {
        if let Some(zone) = calendar::fixed_zone(name) {
            return Ok(zone);
        }
        let found = match &self.source {
            _ if !name.is_ascii() => None,
            Source::Bundled => TimeZoneDatabase::bundled().get(name).ok(),
            Source::Given(zones) => zones.get(&name.to_ascii_lowercase()).cloned(),
        };
        found.filter(|zone| !zone.is_unknown()).map(Zone::of).ok_or_else(|| ScheduleError::Zone {
            name: calendar::clip(name).into(),
            suggestion: calendar::nearest(name, self.names()),
        })
    }

    fn names(&self) -> Vec<String> {
        match &self.source {
            Source::Bundled => {
                TimeZoneDatabase::bundled().available().map(|name| name.as_str().to_owned()).collect()
            }
            Source::Given(zones) => {
                zones.values().filter_map(|zone| zone.iana_name().map(ToOwned::to_owned)).collect()
            }
        }
    }
}
