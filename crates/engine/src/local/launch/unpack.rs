//! Archives, unpacked beside themselves. What leads out of the folder, and what grows beyond bounds, is refused.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, Stdio};

use flate2::read::MultiGzDecoder;
use tar::EntryType;

/// Most bytes that come out of one archive, so that a small one cannot fill the disk.
const BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Most files that come out of one archive.
const FILES_MAX: usize = 200_000;

/// Unpacks the archive into its folder, if its name says that it is one; else it is left as it is.
pub(super) fn unpack(archive: &Path) -> io::Result<()> {
    let name = archive.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let folder = archive.parent().unwrap_or(Path::new(""));
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    if ends(&[".tar"]) {
        untar(File::open(archive)?, folder)
    } else if ends(&[".tar.gz", ".tgz"]) {
        untar(MultiGzDecoder::new(File::open(archive)?), folder)
    } else if ends(&[".tar.bz2", ".tbz2", ".tbz"]) {
        untar_by("bzip2", archive, folder)
    } else if ends(&[".tar.xz", ".txz"]) {
        untar_by("xz", archive, folder)
    } else if ends(&[".zip"]) {
        unzip(File::open(archive)?, folder)
    } else {
        Ok(())
    }
}

/// Formats that few use are left to the machine's own program.
fn untar_by(program: &str, archive: &Path, folder: &Path) -> io::Result<()> {
    let mut child = Command::new(program);
    let child = child.arg("-dc").stdin(File::open(archive)?).stdout(Stdio::piped()).spawn();
    let mut child: Child = child.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("it takes the program `{program}`, which cannot be started: {error}"),
        )
    })?;
    let outcome = match child.stdout.take() {
        Some(stdout) => untar(stdout, folder),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    };
    let status = child.wait()?;
    outcome?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("`{program}` ended with {status}"))) }
}

fn untar(from: impl Read, folder: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(Bounded { from, left: BYTES_MAX });
    archive.set_preserve_permissions(false);
    for (number, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        bound_files(number)?;
        inside(&path)?;
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse | EntryType::Directory => {}
            EntryType::Symlink => {
                let link = entry.link_name()?.unwrap_or_default().into_owned();
                inside(&path.parent().unwrap_or(Path::new("")).join(&link))?;
            }
            EntryType::Link => inside(&entry.link_name()?.unwrap_or_default())?,
            EntryType::XGlobalHeader | EntryType::XHeader => continue,
            kind => return Err(refused(&path, &format!("is of a kind that is not unpacked ({kind:?})"))),
        }
        // Checks once more that no link on the way leads out.
        if !entry.unpack_in(folder)? {
            return Err(refused(&path, "leads out of the folder"));
        }
    }
    // What follows the end of the archive is padding; who writes it shall not meet a closed pipe.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

fn unzip(from: File, folder: &Path) -> io::Result<()> {
    let mut archive = zip::ZipArchive::new(from).map_err(io::Error::other)?;
    let mut left = BYTES_MAX;
    for number in 0..archive.len() {
        bound_files(number)?;
        let mut entry = archive.by_index(number).map_err(io::Error::other)?;
        let path = PathBuf::from(entry.name());
        inside(&path)?;
        if entry.is_symlink() {
            return Err(refused(&path, "is a link, which is not unpacked from a zip file"));
        }
        let target = folder.join(&path);
        if entry.is_dir() {
            fs::create_dir_all(&target)?;
            continue;
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let mode = entry.unix_mode().unwrap_or(0o644);
        let mut bounded = Bounded { from: &mut entry, left };
        let mut file = File::create(&target)?;
        io::copy(&mut bounded, &mut file)?;
        left = bounded.left;
        let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    }
    Ok(())
}

/// Whether a path stays in its folder, wherever its steps lead.
fn inside(path: &Path) -> io::Result<()> {
    let mut depth = 0_i32;
    for part in path.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth -= 1,
            Component::RootDir | Component::Prefix(_) => depth = -1,
        }
        if depth < 0 {
            return Err(refused(path, "leads out of the folder"));
        }
    }
    Ok(())
}

fn bound_files(number: usize) -> io::Result<()> {
    if number < FILES_MAX {
        Ok(())
    } else {
        Err(io::Error::other(format!("it holds more than {FILES_MAX} files")))
    }
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::other(format!("`{}` {why}", path.display()))
}

/// Fails instead of giving more than so many bytes.
struct Bounded<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other(format!("more than {} GiB come out of it", BYTES_MAX >> 30)))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tar file with one entry whose name and link are written as they are, good or bad.
    fn tar_of(kind: EntryType, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, content).expect("in memory");
        builder.into_inner().expect("in memory")
    }

    #[test]
    fn what_is_inside_comes_out() {
        let folder = tempfile::tempdir().expect("a folder");
        untar(tar_of(EntryType::Regular, "sub/a", "", b"x").as_slice(), folder.path()).expect("unpacked");
        assert_eq!(fs::read(folder.path().join("sub/a")).expect("there"), b"x");
        untar(tar_of(EntryType::Symlink, "sub/l", "a", b"").as_slice(), folder.path()).expect("unpacked");
        assert_eq!(fs::read(folder.path().join("sub/l")).expect("there"), b"x");
    }

    #[test]
    fn what_leads_out_is_refused() {
        let outside = tempfile::tempdir().expect("a folder");
        let folder = outside.path().join("work");
        fs::create_dir(&folder).expect("made");
        for (kind, name, link) in [
            (EntryType::Regular, "../evil", ""),
            (EntryType::Regular, "/evil", ""),
            (EntryType::Symlink, "l", ".."),
            (EntryType::Symlink, "l", "/etc"),
            (EntryType::Symlink, "sub/l", "../../x"),
            (EntryType::Link, "l", "../evil"),
            (EntryType::Fifo, "f", ""),
            (EntryType::Char, "c", ""),
        ] {
            let archive = tar_of(kind, name, link, b"");
            assert!(untar(archive.as_slice(), &folder).is_err(), "{kind:?} {name} {link}");
        }
        // A link that was there before, as from an archive before it.
        std::os::unix::fs::symlink("..", folder.join("up")).expect("made");
        assert!(untar(tar_of(EntryType::Regular, "up/evil", "", b"x").as_slice(), &folder).is_err());
        assert_eq!(fs::read_dir(outside.path()).expect("there").count(), 1, "nothing came out");
    }

    #[test]
    fn a_bomb_is_ended() {
        let mut bounded = Bounded { from: io::repeat(0), left: 1000 };
        let error = io::copy(&mut bounded, &mut io::sink()).expect_err("it never ends");
        assert!(error.to_string().contains("GiB come out"));
        assert!(bound_files(FILES_MAX).is_err());
    }

    #[test]
    fn a_zip_file_is_no_way_out_either() {
        let folder = tempfile::tempdir().expect("a folder");
        let zip = |name: &str| {
            let path = folder.path().join("a.zip");
            let mut writer = zip::ZipWriter::new(File::create(&path).expect("made"));
            let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
            writer.start_file(name, options).expect("written");
            io::Write::write_all(&mut writer, b"x").expect("written");
            writer.finish().expect("written");
            path
        };
        unpack(&zip("sub/tool")).expect("unpacked");
        assert_eq!(fs::read(folder.path().join("sub/tool")).expect("there"), b"x");
        assert!(unpack(&zip("../evil")).is_err());
    }
}
