//! RecordIO: each record is its length in decimal digits, a newline, and so many bytes.

/// Longest record: about what a master sends of ten thousand offers.
const RECORD_MAX: usize = 64 * 1024 * 1024;
/// More digits than the longest record has.
const DIGITS_MAX: usize = 20;

/// Takes bytes as they come, gives whole records.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    bytes: Vec<u8>,
    /// What has been given already.
    begin: usize,
}

/// The bytes are no records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRecord {
    #[error("a record does not begin with its length")]
    Length,
    #[error("a record of {0} bytes is longer than any that makes sense")]
    TooLong(usize),
}

impl Decoder {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..std::mem::take(&mut self.begin));
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole record, if it is there.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, NoRecord> {
        let rest = &self.bytes[self.begin..];
        let Some(digits) = rest.iter().take(DIGITS_MAX).position(|byte| *byte == b'\n') else {
            return if rest.len() < DIGITS_MAX { Ok(None) } else { Err(NoRecord::Length) };
        };
        let length = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.trim().parse().ok());
        let length: usize = length.ok_or(NoRecord::Length)?;
        if length > RECORD_MAX {
            return Err(NoRecord::TooLong(length));
        }
        let from = self.begin + digits + 1;
        if self.bytes.len() - from < length {
            return Ok(None);
        }
        self.begin = from + length;
        Ok(Some(&self.bytes[from..from + length]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(decoder: &mut Decoder) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(record) = decoder.next().expect("records") {
            found.push(String::from_utf8_lossy(record).into_owned());
        }
        found
    }

    #[test]
    fn records_come_whole_however_the_bytes_are_cut() {
        let bytes = b"5\nhello0\n12\n{\"type\":\"x\"}3\na\nb";
        for cut in 1..bytes.len() {
            let (mut decoder, mut found) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                found.extend(all(&mut decoder));
            }
            assert_eq!(found, ["hello", "", "{\"type\":\"x\"}", "a\nb"], "in pieces of {cut}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for (bytes, refused) in [
            (&b"x\n"[..], NoRecord::Length),
            (b"-1\nx", NoRecord::Length),
            (b"99999999999999999999999", NoRecord::Length),
            (b"999999999\nx", NoRecord::TooLong(999_999_999)),
        ] {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            assert_eq!(decoder.next(), Err(refused));
        }
    }
}
