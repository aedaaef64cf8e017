//! What an old Chronos has left in ZooKeeper, read as it is and written as it was: `<zk_path>/state/J_<job>` and
//! `frameworkId`, each a protobuf of Mesos around JSON or around another protobuf.
//!
//! The server reads it once and never writes it; going back is an order of an operator. What jobs mean is said by whoever
//! reads their JSON.

use std::collections::BTreeMap;

use zookeeper_client::{Acls, CreateMode, Error};

use super::Options;
use super::session::{Sessions, all, children, data, patiently};
use crate::StoreError;

/// Largest entry that an old Chronos stores.
const ENTRY_MAX: usize = 1024 * 1024;
const JOB: &str = "J_";
const TASK: &str = "T_";
const FRAMEWORK: &str = "frameworkId";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Old {
    /// By name of the node, so by name.
    pub jobs: Vec<OldJob>,
    /// The framework id, if there is one that can be read.
    pub framework_id: Option<String>,
    /// What could not be read. It is still there.
    pub unread: Vec<Unread>,
    /// Nodes of tasks, which versions 2 have left; none of them means anything.
    pub tasks: usize,
}

/// A job as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldJob {
    /// What its node says: the name without the mark.
    pub name: String,
    /// An object, as text.
    pub json: String,
    /// Of the last change of its node: another one means that an old Chronos has written since.
    pub mzxid: i64,
}

/// A node that could not be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Its path.
    pub path: String,
    /// For people.
    pub why: String,
}

/// Reads what is there; nothing where there is nothing.
/// # Errors
/// [`StoreError::Unavailable`]; also for options that cannot be meant.
pub async fn read(options: Options) -> Result<Old, StoreError> {
    let sessions = Sessions::new(options.checked()?);
    let client = sessions.looking().await?;
    let meaning = |error: Error| sessions.meaning(&error);
    let dir = dir(&sessions);
    let mut names = children(&client, &dir).await.map_err(meaning)?;
    names.sort();
    let mut old = Old { tasks: names.iter().filter(|name| name.starts_with(TASK)).count(), ..Old::default() };
    names.retain(|name| !name.starts_with(TASK));
    let found = all(&names, async |name| data(&client, &format!("{dir}/{name}")).await).await;
    for (node, found) in names.iter().zip(found.map_err(meaning)?) {
        // One that has just been deleted is no job.
        let Some((entry, stat)) = found else { continue };
        match take(node, &entry) {
            Ok(Taken::Job { name, json }) => old.jobs.push(OldJob { name, json, mzxid: stat.mzxid }),
            Ok(Taken::Framework(id)) => old.framework_id = id,
            Err(why) => old.unread.push(Unread { path: format!("{dir}/{node}"), why }),
        }
    }
    Ok(old)
}

/// Makes what is there what an old Chronos would go on from: these jobs, by name, and no others. Returns the mzxid of
/// each node that was written or left as it was, by name of the job.
/// # Errors
/// [`StoreError::TooLarge`] for a job beyond what it reads, before anything is written; [`StoreError::Unavailable`],
/// after which it may be done in part: do it again.
pub async fn write(
    options: Options,
    jobs: &BTreeMap<String, String>,
    framework_id: Option<&str>,
) -> Result<BTreeMap<String, i64>, StoreError> {
    let sessions = Sessions::new(options.checked()?);
    let mut entries = BTreeMap::new();
    for (name, json) in jobs {
        let node = format!("{JOB}{name}");
        if name.is_empty() || name.contains('/') || name.chars().any(char::is_control) {
            let why = format!("job `{name}` cannot be a node of ZooKeeper: its name must have no slash");
            return Err(StoreError::Unavailable(why));
        }
        let entry = write_entry(&node, json.as_bytes())?;
        if entry.len() > ENTRY_MAX {
            let why =
                format!("job `{name}` has {} bytes, of {ENTRY_MAX} that an old Chronos reads", entry.len());
            return Err(StoreError::TooLarge(why));
        }
        entries.insert(node, entry);
    }
    if let Some(id) = framework_id {
        entries.insert(FRAMEWORK.into(), write_entry(FRAMEWORK, &field(1, id.as_bytes()))?);
    }
    let client = sessions.looking().await?;
    let meaning = |error: Error| sessions.meaning(&error);
    let dir = dir(&sessions);
    // Directories are open to all, as those of an old Chronos.
    let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
    patiently(&client, || client.mkdir(&dir, &open)).await.map_err(meaning)?;
    let there = children(&client, &dir).await.map_err(meaning)?;
    let surplus = there.iter().filter(|node| node.starts_with(JOB) && !entries.contains_key(*node));
    let removed = all(surplus, async |node| {
        let path = format!("{dir}/{node}");
        match patiently(&client, || client.delete(&path, None)).await {
            Err(Error::NoNode) => Ok(()),
            done => done,
        }
    });
    removed.await.map_err(meaning)?;
    let options = sessions.persistent();
    let written = all(&entries, async |(node, entry)| {
        let path = format!("{dir}/{node}");
        patiently(&client, || async {
            match client.set_data(&path, entry, None).await {
                Err(Error::NoNode) => client.create(&path, entry, &options).await.map(|(stat, _)| stat.mzxid),
                done => done.map(|stat| stat.mzxid),
            }
        })
        .await
    });
    let written = written.await.map_err(meaning)?;
    let named = entries.keys().zip(written);
    Ok(named.filter_map(|(node, mzxid)| Some((node.strip_prefix(JOB)?.to_owned(), mzxid))).collect())
}

fn dir(sessions: &Sessions) -> String {
    format!("{}/state", sessions.options.path)
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Job { name: String, json: String },
    Framework(Option<String>),
}

/// Reads the entry of a node; or says why not.
fn take(node: &str, entry: &[u8]) -> Result<Taken, String> {
    let Entry { name, value } = read_entry(entry)?;
    if name != node {
        return Err(format!("its entry is that of `{name}`"));
    }
    if node == FRAMEWORK {
        if value.is_empty() {
            return Ok(Taken::Framework(None));
        }
        let id = fields(value)?.into_iter().rev().find_map(|(number, bytes)| (number == 1).then_some(bytes));
        let id = id.flatten().ok_or("it holds no framework id")?;
        let id = std::str::from_utf8(id).map_err(|_| "its framework id is no text")?;
        return Ok(Taken::Framework(Some(id).filter(|id| !id.is_empty()).map(str::to_owned)));
    }
    let name = node.strip_prefix(JOB).ok_or("no old Chronos makes a node of this name")?;
    let json = std::str::from_utf8(value).map_err(|_| "its value is no text")?;
    match serde_json::from_str(json) {
        Ok(serde_json::Value::Object(_)) => Ok(Taken::Job { name: name.into(), json: json.into() }),
        Ok(_) => Err("its value is JSON, but no object".into()),
        Err(error) => Err(format!("its value is no JSON: {error}")),
    }
}

/// `mesos.internal.state.Entry`: name, a random id, value.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    name: &'a str,
    value: &'a [u8],
}

fn read_entry(bytes: &[u8]) -> Result<Entry<'_>, String> {
    let (mut name, mut uuid, mut value) = (None, None, None);
    for (number, bytes) in fields(bytes)? {
        match number {
            1 => name = bytes,
            2 => uuid = bytes,
            3 => value = bytes,
            _ => {}
        }
    }
    let name = name.ok_or("it is no entry of Mesos: it has no name")?;
    let name = std::str::from_utf8(name).map_err(|_| "the name in its entry is no text")?;
    uuid.ok_or("it is no entry of Mesos: it has no id")?;
    Ok(Entry { name, value: value.ok_or("it is no entry of Mesos: it has no value")? })
}

/// Number of a field, and its bytes where it has a length.
type Field<'a> = (u64, Option<&'a [u8]>);

/// The fields of a protobuf message, in their order, with the bytes of those that have a length.
/// Source: <https://protobuf.dev/programming-guides/encoding/>
fn fields(message: &[u8]) -> Result<Vec<Field<'_>>, String> {
    let cut = || "it is no protobuf message, or was cut".to_owned();
    let mut rest = message;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest).ok_or_else(cut)?;
        let bytes = match key & 7 {
            0 => {
                varint(&mut rest).ok_or_else(cut)?;
                None
            }
            1 => {
                rest.split_off(..8).ok_or_else(cut)?;
                None
            }
            2 => {
                let length = varint(&mut rest).and_then(|n| usize::try_from(n).ok()).ok_or_else(cut)?;
                Some(rest.split_off(..length).ok_or_else(cut)?)
            }
            5 => {
                rest.split_off(..4).ok_or_else(cut)?;
                None
            }
            _ => return Err(cut()),
        };
        if key >> 3 == 0 {
            return Err(cut());
        }
        fields.push((key >> 3, bytes));
    }
    Ok(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for place in 0..10 {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f).checked_shl(7 * place).unwrap_or(0);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn write_entry(node: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid)
        .map_err(|error| StoreError::Unavailable(format!("the system has no random numbers: {error}")))?;
    Ok([field(1, node.as_bytes()), field(2, &uuid), field(3, value)].concat())
}

/// A field with a length.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification, byte for byte.
    const ENTRY: &[u8] = b"\x0a\x03J_a\x12\x10\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x1a\x0c{\"name\":\"a\"}";

    fn job(name: &str, json: &str) -> Result<Taken, String> {
        Ok(Taken::Job { name: name.into(), json: json.into() })
    }

    #[test]
    fn an_entry_is_read() {
        assert_eq!(take("J_a", ENTRY), job("a", "{\"name\":\"a\"}"));
        // Unknown fields of each type, and order, do not matter; of two the last one counts.
        let strange = [
            &b"\x1a\x03old"[..],
            b"\x20\x96\x01",
            b"\x29\0\0\0\0\0\0\0\0",
            b"\x35\0\0\0\0",
            b"\x3a\x02hi",
            ENTRY,
        ]
        .concat();
        assert_eq!(take("J_a", &strange), job("a", "{\"name\":\"a\"}"));
        // Names of versions 2 have blanks and more.
        let node = "J_nightly #2 report";
        let entry = write_entry(node, b"{}").expect("random numbers");
        assert_eq!(take(node, &entry), job("nightly #2 report", "{}"));
        let long = format!("{{\"command\":\"{}\"}}", "x".repeat(70_000));
        let entry = write_entry("J_long", long.as_bytes()).expect("random numbers");
        assert_eq!(take("J_long", &entry), job("long", &long));
    }

    #[test]
    fn a_framework_id_is_read() {
        let read = |value: &[u8]| take(FRAMEWORK, &write_entry(FRAMEWORK, value).expect("random numbers"));
        let id = "2f6c6c5e-1d9b-4a0e-8a53-000000000001-0000";
        assert_eq!(read(&field(1, id.as_bytes())), Ok(Taken::Framework(Some(id.into()))));
        assert_eq!(read(b""), Ok(Taken::Framework(None)));
        assert_eq!(read(b"\x0a\x00"), Ok(Taken::Framework(None)));
        assert!(read(b"\x0a\x05ab").is_err());
        assert!(read(b"\x10\x05").is_err());
        assert!(read(b"\x0a\x01\xff").is_err());
    }

    #[test]
    fn what_is_no_entry_is_told_and_harms_nobody() {
        for cut in 0..ENTRY.len() {
            assert!(take("J_a", &ENTRY[..cut]).is_err(), "cut at {cut}");
        }
        for place in 0..ENTRY.len() {
            for bit in 0..8 {
                let mut flipped = ENTRY.to_vec();
                flipped[place] ^= 1 << bit;
                // Read or refused, but nothing else.
                let _ = take("J_a", &flipped);
            }
        }
        let of = |value: &[u8]| take("J_a", &write_entry("J_a", value).expect("random numbers"));
        for value in [&b""[..], b"[]", b"null", b"{", b"\xff{}", b"{} x"] {
            assert!(of(value).is_err(), "{value:?}");
        }
        assert_eq!(take("J_b", ENTRY), Err("its entry is that of `J_a`".into()));
        let huge = b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        for bytes in
            [&huge[..], b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x00\x00", b"\x0b"]
        {
            assert!(take("J_a", bytes).is_err(), "{bytes:?}");
        }
    }
}
