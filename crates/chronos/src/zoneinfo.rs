//! The machine's own time zones, read once at the start for `--tzdata system`.
//!
//! All of them are read into memory: the rules must not change within a term, whatever the machine's package manager
//! does meanwhile. An update counts from the next start on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use scheduler::schedule::Zones;
use scheduler::state::ZoneData;

/// Where systems keep them; `TZDIR` comes before these, as in the C library.
const FOLDERS: [&str; 3] = ["/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo"];
/// Copies of all zones in another way of counting, and links to one zone.
const NOT_ZONES: [&str; 5] = ["posix", "right", "posixrules", "localtime", "leapseconds"];
/// `America/Argentina/Buenos_Aires` is the deepest there is; links in a circle end here.
const DEPTH_MAX: usize = 4;
/// Ten times the largest there is.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Ten times what there is.
const ZONES_MAX: usize = 10_000;
/// What the core keeps of a version.
const VERSION_BYTES_MAX: usize = 8;

/// Why the machine's zones cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ZoneinfoError {
    /// There is no such folder, or it has no zones.
    #[error("`tzdata` is system, but this machine has no time zones in {}", looked.join(", "))]
    None {
        /// Where they were looked for.
        looked: Vec<String>,
    },
    /// A folder or file is there and cannot be read.
    #[error("cannot read the time zones in `{}`", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// So many files are no zone database.
    #[error("`{}` has more than {ZONES_MAX} zones", path.display())]
    TooMany {
        /// Where.
        path: PathBuf,
    },
}

impl ZoneinfoError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::None { .. } => {
                "install them (apt-get install tzdata), name their folder in TZDIR, or use --tzdata bundled"
            }
            Self::Unreadable { .. } => "see to it that this user may read it, or use --tzdata bundled",
            Self::TooMany { .. } => "check TZDIR, or use --tzdata bundled",
        }
    }
}

/// The zones of this machine. `tzdir` is what the environment says in `TZDIR`.
/// # Errors
/// See [`ZoneinfoError`].
pub fn system(tzdir: Option<OsString>) -> Result<Zones, ZoneinfoError> {
    let folders: Vec<PathBuf> = match tzdir.filter(|folder| !folder.is_empty()) {
        Some(folder) => vec![folder.into()],
        None => FOLDERS.iter().map(PathBuf::from).collect(),
    };
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let files = files(folder)?;
        let zones: Vec<TimeZone> =
            files.iter().filter_map(|(name, bytes)| TimeZone::tzif(name, bytes).ok()).collect();
        if !zones.is_empty() {
            return Ok(Zones::given(zones, version(folder, &files)));
        }
    }
    Err(ZoneinfoError::None { looked: folders.iter().map(|folder| folder.display().to_string()).collect() })
}

/// All files of the database by the name of their zone.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, ZoneinfoError> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(String::new(), folder.to_path_buf(), 0)];
    while let Some((prefix, path, depth)) = folders.pop() {
        let unreadable = |cause| ZoneinfoError::Unreadable { path: path.clone(), cause };
        for entry in path.read_dir().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if NOT_ZONES.contains(&name.as_str()) {
                continue;
            }
            let (name, path) = (format!("{prefix}{name}"), entry.path());
            // Follows links: many zones are links to others. One that leads nowhere is no zone.
            let Ok(about) = path.metadata() else { continue };
            if about.is_dir() && depth + 1 < DEPTH_MAX {
                folders.push((format!("{name}/"), path, depth + 1));
            } else if about.is_file() && about.len() <= FILE_BYTES_MAX {
                let bytes =
                    std::fs::read(&path).map_err(|cause| ZoneinfoError::Unreadable { path, cause })?;
                if bytes.starts_with(b"TZif") {
                    found.insert(name, bytes);
                }
            }
            if found.len() > ZONES_MAX {
                return Err(ZoneinfoError::TooMany { path: folder.into() });
            }
        }
    }
    Ok(found)
}

/// The version that the database says it has, else one made of what is in it.
fn version(folder: &Path, files: &BTreeMap<String, Vec<u8>>) -> ZoneData {
    let first_line = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).ok()?;
        Some(text.lines().next()?.trim_start_matches("# version ").trim().to_owned())
    };
    let sane = |version: &String| {
        (1..=VERSION_BYTES_MAX).contains(&version.len()) && version.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let said = first_line("tzdata.zi").filter(sane).or_else(|| first_line("+VERSION").filter(sane));
    ZoneData::named(&said.unwrap_or_else(|| fingerprint(files)))
}

/// Tells one state of a database from another; no key.
/// # Source
/// FNV-1a, of which 28 bits fit beside the mark that it is no version.
fn fingerprint(files: &BTreeMap<String, Vec<u8>>) -> String {
    let bytes = files.iter().flat_map(|(name, bytes)| name.bytes().chain([0]).chain(bytes.iter().copied()));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("~{:07x}", hash >> 36)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One type of local time, so many seconds from UTC, for ever: the least a zone file can say (RFC 8536).
    fn tzif(offset: i32) -> Vec<u8> {
        let mut block = b"TZif2".to_vec();
        block.extend([0; 15]);
        for count in [0_u32, 0, 0, 0, 1, 4] {
            block.extend(count.to_be_bytes());
        }
        block.extend(offset.to_be_bytes());
        block.extend([0, 0]);
        block.extend(b"XXX\0");
        let mut file = block.clone();
        file.extend(block);
        file.extend(format!("\nXXX{}\n", -offset / 3600).bytes());
        file
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("Europe")).expect("a folder");
        std::fs::create_dir_all(folder.path().join("right/Europe")).expect("a folder");
        std::fs::write(folder.path().join("Europe/Berlin"), tzif(7200)).expect("a file");
        std::fs::write(folder.path().join("right/Europe/Paris"), tzif(0)).expect("a file");
        std::fs::write(folder.path().join("README"), "no zone").expect("a file");
        folder
    }

    fn read(folder: &Path) -> Result<Zones, ZoneinfoError> {
        system(Some(folder.into()))
    }

    #[test]
    fn the_zones_of_a_folder_are_found_by_name_and_no_others() {
        let folder = folder();
        let zones = read(folder.path()).expect("zones");
        assert_eq!(zones.named("europe/berlin").expect("a zone").to_string(), "Europe/Berlin");
        assert_eq!(zones.named("UTC").expect("a zone").to_string(), "UTC");
        assert!(zones.named("Europe/Paris").is_err());
        let error = zones.named("Europe/Berlon").expect_err("no such zone");
        assert_eq!(error.hint(), "did you mean Europe/Berlin?");
    }

    #[test]
    fn the_version_is_what_the_folder_says_else_it_follows_from_the_contents() {
        let folder = folder();
        let version = || read(folder.path()).expect("zones").data().name();
        let first = version();
        assert!(first.starts_with('~') && first.len() == 8, "{first}");
        assert_eq!(version(), first);
        std::fs::write(folder.path().join("Europe/Berlin"), tzif(3600)).expect("a file");
        assert_ne!(version(), first);
        std::fs::write(folder.path().join("+VERSION"), "2031b\n").expect("a file");
        assert_eq!(version(), "2031b");
        std::fs::write(folder.path().join("tzdata.zi"), "# version 2031c\nR d 1916 o\n").expect("a file");
        assert_eq!(version(), "2031c");
    }

    #[test]
    fn a_machine_without_zones_is_told_what_to_install() {
        let empty = tempfile::tempdir().expect("a folder");
        for folder in [empty.path(), Path::new("/nonexistent/zoneinfo")] {
            let error = read(folder).expect_err("there are none");
            assert!(error.to_string().contains(&folder.display().to_string()), "{error}");
            assert!(error.hint().contains("apt-get install tzdata"));
        }
    }
}
