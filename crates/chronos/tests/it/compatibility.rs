//! `docs/compatibility.md`: every row names a test that exists, or says why there is none.

use std::collections::BTreeSet;
use std::path::Path;

/// Names of all tests of the project's own sources.
fn tests(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.extend(named_tests(&text));
            // What all stores or all engines have to do is no test by itself: theirs call it.
            if path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("conformance")) {
                let cases =
                    text.split("pub async fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
                found.extend(cases.map(str::to_owned));
            }
        }
    }
}

/// Functions with `#[test]` or the like among the attributes above them.
fn named_tests(text: &str) -> Vec<String> {
    let mut is_test = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim_start) {
        let attribute = line.strip_prefix("#[").map(|rest| rest.split([']', '(']).next().unwrap_or_default());
        if let Some(attribute) = attribute {
            is_test |= matches!(attribute, "test" | "tokio::test");
        } else if let Some((before, rest)) = line.split_once("fn ") {
            if is_test && matches!(before, "" | "async " | "pub " | "pub async ") {
                found.extend(rest.split(['(', '<']).next().map(str::to_owned));
            }
            is_test = false;
        } else if !line.starts_with("//") && !line.is_empty() && line.ends_with([';', '}', '{']) {
            is_test = false;
        }
    }
    found
}

#[test]
fn only_a_test_holds_a_row() {
    let text = "fn helper() {}\n#[test]\nfn one() {\n}\n#[tokio::test(start_paused = true)]\nasync fn two() {\n}\n\
        #[test]\n#[expect(clippy::x, reason = \"fn y\")]\n// why\nfn three(a: u8) {\n  #[test_only]\n  fn four() {}\n}\n";
    assert_eq!(named_tests(text), ["one", "two", "three"]);
}

#[test]
fn every_row_of_the_compatibility_table_names_what_holds_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut known = BTreeSet::new();
    tests(&root.join("crates"), &mut known);
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
