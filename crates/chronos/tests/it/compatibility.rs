//! `docs/compatibility.md`: every row names a test that exists, or says why there is none.

use std::collections::BTreeSet;
use std::path::Path;

/// Names of all functions of the project's own sources.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn every_row_of_the_compatibility_table_names_what_holds_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut known = BTreeSet::new();
    functions(&root.join("crates"), &mut known);
    let table = std::fs::read_to_string(root.join("docs/compatibility.md")).unwrap();
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).collect();
    let rows = rows.iter().filter(|row| !row.starts_with("| ---") && !row.ends_with("| held by |"));
    let mut defects = BTreeSet::new();
    for row in rows.clone() {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{row}");
        defects.extend(cells[0].strip_prefix("D-").and_then(|rest| rest[..2].parse::<u32>().ok()));
        let held = cells[4];
        let tests: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        assert!(
            held.starts_with("— ") || !tests.is_empty(),
            "nothing holds this row, and nothing says why: {row}"
        );
        for test in tests {
            assert!(known.contains(test), "there is no test `{test}`: {row}");
        }
    }
    assert!(rows.count() > 150, "the table is not read to its end");
    assert_eq!(defects, (1..=62).collect(), "every known defect has its row");
}
