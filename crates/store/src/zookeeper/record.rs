//! Records of the store about itself: what it is, its term, who its nodes are, and the entries of its log.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use scheduler::ids::{Epoch, Seq};
use serde::{Deserialize, Serialize};

use crate::{Applied, BATCH_BYTES_MAX, StoreError, Term, format};

/// Grows when an older binary would misread how a newer one lays out the tree.
pub(super) const LAYOUT: u32 = 1;
/// Entries of the log above this are compressed: below, it is not worth the time.
const PLAIN_MAX: usize = 4 * 1024;
/// What an entry of the log may be when read: a group of batches, each with its number.
const ENTRY_MAX: u64 = 4 * BATCH_BYTES_MAX as u64;

/// What the store is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct About {
    /// Random; another id means another store, whatever its path.
    pub(super) id: String,
    pub(super) layout: u32,
    /// The stored format, see [`format::VERSION`].
    pub(super) format: u32,
}

impl About {
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.layout > LAYOUT {
            return Err(StoreError::Newer { found: self.layout, ours: LAYOUT });
        }
        if self.format > format::VERSION {
            return Err(StoreError::Newer { found: self.format, ours: format::VERSION });
        }
        Ok(())
    }
}

/// The record that every commit moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TermRecord {
    pub(super) epoch: u64,
    /// The batch that began the term.
    pub(super) began: u64,
    pub(super) seq: u64,
    /// Which generation of the records is the present one.
    pub(super) generation: u64,
    /// The member of the latch that leads.
    pub(super) by: String,
    /// A batch that is in the log, but not yet in all of its records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unfinished: Option<u64>,
}

impl TermRecord {
    pub(super) fn term(&self) -> Term {
        Term { epoch: Epoch(self.epoch), seq: Seq(self.seq) }
    }
}

/// What a node says of itself.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredMember {
    /// As [`format::write_candidate`] writes it.
    pub(super) candidate: String,
    pub(super) news: String,
}

/// See `Line::Kept` of a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredKept {
    pub(super) job: u64,
    pub(super) name: String,
    pub(super) since: i64,
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types have text keys")
}

pub(super) fn read<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| {
        StoreError::Damaged(format!("the record `{what}` in ZooKeeper cannot be read: {error}"))
    })
}

/// An entry of the log.
#[derive(Debug)]
pub(super) enum Entry {
    /// Batches, oldest first.
    Batches(Vec<(Seq, Epoch, Vec<u8>)>),
    /// Everything was replaced with this batch: what was before is no past of what is now.
    Restored(Seq),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Head {
    Batch { seq: u64, epoch: u64, bytes: usize },
    Restored { seq: u64 },
}

impl Entry {
    /// Writes batches as the data of an entry.
    pub(super) fn write<'a>(batches: impl Iterator<Item = (u64, u64, &'a [u8])>) -> Vec<u8> {
        let mut plain = Vec::new();
        for (seq, epoch, text) in batches {
            plain.extend(json(&Head::Batch { seq, epoch, bytes: text.len() }));
            plain.push(b'\n');
            plain.extend_from_slice(text);
        }
        pack(plain)
    }

    pub(super) fn restored(seq: u64) -> Vec<u8> {
        let mut plain = json(&Head::Restored { seq });
        plain.push(b'\n');
        pack(plain)
    }

    pub(super) fn read(data: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged("an entry of the log in ZooKeeper cannot be read".into());
        let plain = unpack(data).ok_or_else(damaged)?;
        let mut rest = &plain[..];
        let mut batches = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(damaged)?;
            let head: Head = serde_json::from_slice(&rest[..end]).map_err(|_| damaged())?;
            rest = &rest[end + 1..];
            match head {
                Head::Restored { seq } => return Ok(Self::Restored(Seq(seq))),
                Head::Batch { seq, epoch, bytes } => {
                    let text = rest.get(..bytes).ok_or_else(damaged)?.to_vec();
                    rest = &rest[bytes..];
                    batches.push((Seq(seq), Epoch(epoch), text));
                }
            }
        }
        if batches.is_empty() { Err(damaged()) } else { Ok(Self::Batches(batches)) }
    }
}

/// A batch of the log as followers get it.
pub(super) fn applied((seq, epoch, text): (Seq, Epoch, Vec<u8>)) -> Result<Applied, StoreError> {
    let changes = format::read_batch(&text).map_err(|error| StoreError::Damaged(error.to_string()))?;
    Ok(Applied { seq, epoch, changes })
}

/// The first byte says how the rest is written.
fn pack(plain: Vec<u8>) -> Vec<u8> {
    if plain.len() <= PLAIN_MAX {
        return [b"p", &plain[..]].concat();
    }
    let mut encoder = DeflateEncoder::new(vec![b'z'], Compression::fast());
    encoder.write_all(&plain).and_then(|()| encoder.finish()).expect("a Vec takes every byte")
}

fn unpack(data: &[u8]) -> Option<Vec<u8>> {
    let (how, rest) = data.split_first()?;
    match how {
        b'p' => Some(rest.to_vec()),
        b'z' => {
            let mut plain = Vec::new();
            DeflateDecoder::new(rest).take(ENTRY_MAX + 1).read_to_end(&mut plain).ok()?;
            (plain.len() as u64 <= ENTRY_MAX).then_some(plain)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let large = b"{\"run_gone\":\"1-i1\"}\n".repeat(20_000);
        let batches: Vec<(u64, u64, &[u8])> = vec![(7, 2, b""), (8, 2, b"x\n"), (9, 2, &large)];
        for n in 1..=3 {
            let data = Entry::write(batches[..n].iter().copied());
            assert!(data.len() < 10_000, "{} bytes", data.len());
            let Ok(Entry::Batches(read)) = Entry::read(&data) else { panic!("entry of {n}") };
            let read: Vec<_> = read.iter().map(|(seq, epoch, text)| (seq.0, epoch.0, &text[..])).collect();
            assert_eq!(read, batches[..n]);
        }
        assert!(matches!(Entry::read(&Entry::restored(5)), Ok(Entry::Restored(Seq(5)))));
    }

    #[test]
    fn what_is_no_entry_is_damage() {
        let bomb = pack(vec![b'x'; usize::try_from(ENTRY_MAX).expect("a small number") + 10]);
        let cut = Entry::write([(1, 1, &b"abc"[..])].into_iter());
        for data in [&b""[..], b"p", b"q", b"p{}\n", b"z123", b"pabc", &bomb, &cut[..cut.len() - 1]] {
            assert!(matches!(Entry::read(data), Err(StoreError::Damaged(_))));
        }
    }
}
