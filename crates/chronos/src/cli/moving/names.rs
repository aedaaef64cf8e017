//! Names that an old Chronos took and that cannot be kept.
//!
//! Chronos 2 had names with blanks and `#`. What such a job is called here follows from the names of all jobs alone, so
//! that it is the same each time they are looked at.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::ids::JobName;

use crate::cli::crontab::naming::fingerprint;

/// The names here of those jobs that cannot keep theirs.
pub(super) fn mapped<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, String> {
    let (kept, lost): (BTreeSet<&str>, BTreeSet<&str>) = names.partition(|name| JobName::new(name).is_ok());
    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    for name in &lost {
        *wanted.entry(plain(name)).or_default() += 1;
    }
    let new = |name: &str| {
        let plain = plain(name);
        // Whoever kept its name has it.
        let alone = wanted.get(&plain) == Some(&1) && !kept.contains(plain.as_str());
        if alone { plain } else { marked(&plain, name) }
    };
    lost.iter().map(|name| ((*name).to_owned(), new(name))).collect()
}

/// The name with every character replaced that cannot be in one.
pub(super) fn plain(name: &str) -> String {
    let path = name.is_empty() || name == "." || name == "..";
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-') || (c == '.' && !path);
    let plain: String = name.chars().map(|c| if keep(c) { c } else { '_' }).collect();
    match plain.len() {
        0 => "_".into(),
        1..=JobName::LEN_MAX => plain,
        _ => marked(&plain, name),
    }
}

/// Told apart from others by a mark that follows from the old name.
fn marked(plain: &str, name: &str) -> String {
    let mark = fingerprint(&[name]);
    let room = JobName::LEN_MAX - mark.len() - 1;
    format!("{}-{mark}", &plain[..plain.len().min(room)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(name: &str, all: &[&str]) -> String {
        mapped(all.iter().copied()).get(name).cloned().unwrap_or_else(|| name.into())
    }

    #[test]
    fn what_can_be_kept_is_kept() {
        assert!(mapped(["a", "a.b-c_D9", ".hidden"].into_iter()).is_empty());
        assert_eq!(name_of("my job #2", &["my job #2"]), "my_job__2");
        assert_eq!(name_of("..", &[".."]), "__");
        assert_eq!(name_of("größe", &["größe"]), "gr__e");
    }

    #[test]
    fn nobody_gets_the_name_of_another() {
        let all = ["my job", "my#job", "my_job"];
        let names: BTreeSet<_> = all.iter().map(|name| name_of(name, &all)).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names.contains("my_job"), "who had it keeps it");
        assert_eq!(
            name_of("my job", &all),
            name_of("my job", &["my_job", "my job", "z"]),
            "whoever is there"
        );
    }

    proptest::proptest! {
        #[test]
        fn every_new_name_is_one(name in proptest::prelude::any::<String>(), times in 1usize..40) {
            let name = name.repeat(times);
            let new = name_of(&name, &[&name, "_"]);
            proptest::prop_assert!(JobName::new(&new).is_ok(), "{new:?}");
        }
    }
}
