//! More jobs than the server takes at once, in as few sets as it allows, each with all of a chain.

use std::collections::BTreeMap;

use scheduler::{SET_BYTES_MAX, SET_MAX};

use super::apply::Written;

/// Sets within the bounds of the server, but for a chain that is beyond them by itself, which is one too: the server says so.
pub(super) fn sets<J: AsRef<Written>>(jobs: Vec<J>) -> Vec<Vec<J>> {
    // Each job leads to one of its chain, the same for all of them.
    let place: BTreeMap<&str, usize> =
        jobs.iter().enumerate().map(|(i, job)| (job.as_ref().name.as_str(), i)).collect();
    let mut leads: Vec<usize> = (0..jobs.len()).collect();
    let end = |leads: &[usize], mut i: usize| {
        while leads[i] != i {
            i = leads[i];
        }
        i
    };
    for (i, job) in jobs.iter().enumerate() {
        for parent in job.as_ref().parents.iter().filter_map(|parent| place.get(parent.as_str())) {
            let (a, b) = (end(&leads, i), end(&leads, *parent));
            let (low, high) = (a.min(b), a.max(b));
            leads[high] = low;
            // The way there stays short for those that come after.
            leads[i] = low;
        }
    }
    let mut chains: BTreeMap<usize, Vec<J>> = BTreeMap::new();
    for (i, job) in jobs.into_iter().enumerate() {
        chains.entry(end(&leads, i)).or_default().push(job);
    }
    let mut sets: Vec<(usize, Vec<J>)> = Vec::new();
    for chain in chains.into_values() {
        let bytes: usize = chain.iter().map(|job| job.as_ref().definition.to_string().len()).sum();
        match sets.last_mut() {
            Some((size, set)) if *size + bytes <= SET_BYTES_MAX && set.len() + chain.len() <= SET_MAX => {
                *size += bytes;
                set.extend(chain);
            }
            _ => sets.push((bytes, chain)),
        }
    }
    sets.into_iter().map(|(_, set)| set).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(name: String, parents: &[&str]) -> Written {
        Written::new(name, json!({ "parents": parents }), String::new())
    }

    #[test]
    fn chains_stay_together() {
        let mut jobs: Vec<Written> = (0..SET_MAX).map(|i| job(format!("s{i}"), &[])).collect();
        jobs.push(job("last".into(), &["s9999", "s0", "elsewhere"]));
        let sets = sets(jobs);
        assert_eq!(sets.iter().map(Vec::len).collect::<Vec<_>>(), [SET_MAX, 1]);
        assert!(["s0", "s9999", "last"].iter().all(|name| sets[0].iter().any(|job| job.name == *name)));
        assert_eq!(sets[1][0].name, "s9998");
    }

    #[test]
    fn a_set_has_so_many_bytes_at_most() {
        let definition = json!("x".repeat(SET_BYTES_MAX / 4));
        let large = |i: usize| Written::new(format!("j{i}"), definition.clone(), String::new());
        assert_eq!(sets((0..7).map(large).collect()).iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    }
}
