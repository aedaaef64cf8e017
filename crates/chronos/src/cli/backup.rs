//! `chronos backup` and `chronos restore`: everything that a server keeps, as one file.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use futures_util::stream;
use serde_json::Value;
use store::backup::{BackupError, Header, Line, Reader};
use tokio::sync::mpsc;

use super::failure::{Exit, Failure};
use super::progress::{Progress, Show, Unit, bytes};
use super::{ClientArgs, Format};

pub(super) const BACKUP_HELP: &str = "\
The file holds jobs, how far they have come, runs, and the history, as of one moment, in the same
form for every store. It is checked as it is written, and is whole or not there. It holds what
definitions hold, passwords in environment variables too: keep it as you keep those.

Examples:
  chronos backup /backups/chronos.jsonl.gz
  chronos backup - | ssh elsewhere 'cat > chronos.jsonl'
  chronos backup --no-history jobs-and-state.jsonl";

pub(super) const RESTORE_HELP: &str = "\
The file is read whole and checked before anything changes; then everything is replaced at once, or
nothing is. What was there is written to the server's data folder first, so that a restore can be
taken back. Tasks of runs that the backup does not know are ended; slots since the backup get their
outcome by `catchUp`. What an engine still knows of a task is what its run gets: nothing that it
remembers is run a second time.

Examples:
  chronos restore /backups/chronos.jsonl.gz --dry-run
  chronos restore /backups/chronos.jsonl.gz --yes";

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// Where to write it; compressed if the name ends in .gz; `-` is the standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Leave out the history of ended runs
    #[arg(long = "no_history")]
    no_history: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// What `chronos backup` has written, compressed or not; `-` is the standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only check the backup, and tell what is in it
    #[arg(long)]
    dry_run: bool,
    /// Replace what is there
    #[arg(long, short)]
    yes: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Pieces between the disk and the network.
const PIECES: usize = 8;
/// Bytes read at once.
const PIECE: usize = 64 * 1024;

pub(super) async fn backup(args: &BackupArgs) -> Result<(), Failure> {
    let client = super::client(&args.client)?;
    let query = [("history", (!args.no_history).to_string())];
    let mut answer = client.bytes(&["v1", "backup"], &query).await?;
    let mut target = Target::create(&args.file)?;
    let mut progress = Progress::new("backup", Unit::Things("records"), None, Show::unless(args.quiet));
    let mut reader = Reader::default();
    let mut size = 0;
    while let Some(piece) = client.piece(&mut answer).await? {
        let mut lines = 0;
        let mut header = None;
        reader
            .feed(&piece, |head: &Header, _: Line| {
                header.get_or_insert(head.lines);
                lines += 1;
                Ok::<_, BackupError>(())
            })
            .map_err(damaged)?;
        header.into_iter().for_each(|total| progress.set_total(total));
        progress.add(lines);
        size += piece.len() as u64;
        target.write_all(&piece).map_err(|e| target_failure(&args.file, e))?;
    }
    let header = reader.finish().map_err(damaged)?;
    target.finish().map_err(|e| target_failure(&args.file, e))?;
    drop(progress);
    told(args, &header, size)
}

fn told(args: &BackupArgs, header: &Header, size: u64) -> Result<(), Failure> {
    if args.file.as_os_str() == "-" {
        return Ok(());
    }
    if args.client.output == Format::Json {
        return Ok(super::out_json(&serde_json::json!({
            "file": args.file, "records": header.lines, "bytes": size, "seq": header.term.seq.0,
            "taken": header.taken.to_string(),
        }))?);
    }
    let (file, records, change) = (args.file.display(), header.lines, header.term.seq.0);
    let line = format!("wrote {file}: {records} records, {}, as of change {change}\n", bytes(size));
    Ok(super::out(line.as_bytes())?)
}

pub(super) fn damaged(problem: BackupError) -> Failure {
    Failure::new(Exit::Failed, problem)
        .context("the backup did not arrive whole, and was not kept")
        .hint("try again; the log of the server says what happened there")
}

pub(super) fn target_failure(path: &Path, cause: io::Error) -> Failure {
    let shown = format!("cannot write `{}`", path.display());
    Failure::from(cause).context(shown).hint("choose another place; a backup is whole or not there")
}

/// Where a backup goes: under another name until it is whole.
pub(super) enum Target {
    Stdout,
    Plain { file: File, draft: Draft },
    Compressed { file: GzEncoder<File>, draft: Draft },
}

/// A file that is removed unless it gets its name.
pub(super) struct Draft {
    path: PathBuf,
    name: PathBuf,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already where all went well.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Target {
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout);
        }
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".new-{}", std::process::id()));
        let draft = Draft { path: name.into(), name: path.into() };
        // It may hold secrets: for nobody but its owner.
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
        let file = options.open(&draft.path).map_err(|e| target_failure(path, e))?;
        Ok(if path.extension().is_some_and(|ending| ending == "gz") {
            Self::Compressed { file: GzEncoder::new(file, Compression::default()), draft }
        } else {
            Self::Plain { file, draft }
        })
    }

    pub(super) fn write_all(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => super::out(piece),
            Self::Plain { file, .. } => file.write_all(piece),
            Self::Compressed { file, .. } => file.write_all(piece),
        }
    }

    /// The file gets its name once it would survive the loss of power.
    pub(super) fn finish(self) -> io::Result<()> {
        let (file, draft) = match self {
            Self::Stdout => return Ok(()),
            Self::Plain { file, draft } => (file, draft),
            Self::Compressed { file, draft } => (file.finish()?, draft),
        };
        file.sync_all()?;
        std::fs::rename(&draft.path, &draft.name)?;
        let folder = draft.name.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

pub(super) async fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let client = super::client(&args.client)?;
    let source = open(&args.file).map_err(|e| {
        Failure::new(Exit::Usage, e).context(format!("cannot read `{}`", args.file.display()))
    })?;
    let broken = Arc::new(Mutex::new(None));
    let body = send(source, Show::unless(args.quiet), broken.clone());
    let query = [("replace", args.yes.to_string()), ("dryRun", args.dry_run.to_string())];
    let sent = client.send(&["v1", "restore"], &query, "application/x-ndjson", body).await;
    // What was wrong with our own file says more than what the server made of it.
    if let Some(cause) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let shown = format!("cannot read `{}`", args.file.display());
        return Err(Failure::new(Exit::Failed, cause).context(shown).hint("nothing was restored"));
    }
    let answer = sent?.body;
    if args.client.output == Format::Json {
        return Ok(super::out_json(&answer)?);
    }
    Ok(super::out(restored(&answer).as_bytes())?)
}

fn restored(answer: &Value) -> String {
    let count = |key: &str| answer[key].as_u64().unwrap_or_default();
    let (jobs, records) = (count("jobs"), count("records"));
    let taken = answer["taken"].as_str().unwrap_or_default();
    let held = format!("{jobs} jobs and {records} records of the history, as of {taken}");
    if answer["dryRun"] == true {
        return format!(
            "the backup is good: {held}\nit would replace {} jobs; nothing was changed\n",
            count("replaced")
        );
    }
    let mut lines = format!("restored {held}\n");
    if let Some(undo) = answer["undo"].as_str() {
        lines.push_str(&format!("what was there before is in {undo} on the server\n"));
    }
    lines
}

type Source = Box<dyn Read + Send>;

fn open(path: &Path) -> io::Result<(Source, Option<u64>)> {
    let (mut file, size): (Source, _) = if path.as_os_str() == "-" {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        (Box::new(file), Some(size))
    };
    // What a file is, is seen in it: a backup from a pipe has no name.
    let mut first = [0; 2];
    let got = fill(&mut file, &mut first)?;
    let whole: Source = Box::new(io::Cursor::new(first).take(got as u64).chain(file));
    if first == [0x1f, 0x8b] { Ok((Box::new(MultiGzDecoder::new(whole)), None)) } else { Ok((whole, size)) }
}

/// As many bytes as fit or as there are.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match from.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

/// A body that is read as it is sent. After an error it ends, which the server takes for a backup that was cut.
fn send(
    (mut source, size): (Source, Option<u64>),
    show: Show,
    broken: Arc<Mutex<Option<io::Error>>>,
) -> reqwest::Body {
    let (to, from) = mpsc::channel::<Vec<u8>>(PIECES);
    std::thread::spawn(move || {
        let mut progress = Progress::new("restore", Unit::Bytes, size, show);
        loop {
            let mut piece = vec![0; PIECE];
            match fill(&mut source, &mut piece) {
                Ok(0) => return,
                Ok(n) => {
                    piece.truncate(n);
                    progress.add(n as u64);
                    if to.blocking_send(piece).is_err() {
                        return; // The server has answered already.
                    }
                }
                Err(e) => {
                    *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                    return;
                }
            }
        }
    });
    let pieces = stream::unfold(from, |mut from| async move {
        let piece = from.recv().await?;
        Some((Ok::<_, Infallible>(piece), from))
    });
    reqwest::Body::wrap_stream(pieces)
}
