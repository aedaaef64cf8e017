//! What users read, kept as files beside the tests. `UPDATE_GOLDEN=1` writes them anew, to be reviewed like code.

use std::path::Path;

/// Compares with `tests/it/golden/<name>`.
#[track_caller]
pub(crate) fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == found,
        "{name} has changed (UPDATE_GOLDEN=1 accepts it)\n--- kept\n{kept}\n--- found\n{found}"
    );
}
