//! Frames on the socket between server and supervisor.
//!
//! A frame is its length, the length of its message (both `u32`, little-endian), the message as JSON, and raw bytes
//! up to the end of the frame. A frame that breaks these rules ends the connection and nothing else.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Raised with every change that the other side would misread.
pub(super) const PROTOCOL: u32 = 3;

/// Longest frame: a job definition is at most 64 KiB, a piece of output too; JSON may need six bytes for one.
const FRAME_MAX: usize = 1024 * 1024;
/// What is read at once.
const CHUNK: usize = 64 * 1024;

/// Appends a frame to `buffer`.
/// # Errors
/// If the message is longer than the bound.
pub(super) fn put<M: Serialize>(buffer: &mut Vec<u8>, message: &M, payload: &[u8]) -> io::Result<()> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 8]);
    let written = serde_json::to_writer(&mut *buffer, message).map_err(io::Error::other);
    let json = buffer.len() - start - 8;
    buffer.extend_from_slice(payload);
    let total = buffer.len() - start - 4;
    if let Err(error) = written.and_then(|()| if total <= FRAME_MAX { Ok(()) } else { Err(too_long(total)) })
    {
        buffer.truncate(start);
        return Err(error);
    }
    buffer[start..start + 4].copy_from_slice(&(total as u32).to_le_bytes());
    buffer[start + 4..start + 8].copy_from_slice(&(json as u32).to_le_bytes());
    Ok(())
}

/// Takes frames off a connection.
pub(super) struct FrameReader<R> {
    from: R,
    buffer: Vec<u8>,
    at: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: Vec::new(), at: 0 }
    }

    /// The next message and its raw bytes; `None` when the other side has closed.
    /// # Errors
    /// If the connection breaks, in the middle of a frame too, or if what came is not a frame.
    pub(super) async fn next<M: DeserializeOwned>(&mut self) -> io::Result<Option<(M, Vec<u8>)>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            self.buffer.reserve(CHUNK);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    fn take<M: DeserializeOwned>(&mut self) -> io::Result<Option<(M, Vec<u8>)>> {
        let rest = &self.buffer[self.at..];
        let Some((total, json)) = lengths(rest) else { return Ok(None) };
        if !(4..=FRAME_MAX).contains(&total) || json > total - 4 {
            return Err(too_long(total));
        }
        let Some(frame) = rest.get(8..4 + total) else { return Ok(None) };
        let message = serde_json::from_slice(&frame[..json]).map_err(io::Error::other)?;
        let payload = frame[json..].to_vec();
        self.at += 4 + total;
        Ok(Some((message, payload)))
    }
}

fn lengths(bytes: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    Some((number(0)? as usize, number(4)? as usize))
}

fn too_long(length: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes is not valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut reader = FrameReader::new(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn frames_come_back_as_they_were() {
        let mut bytes = Vec::new();
        put(&mut bytes, &"one", b"").expect("short");
        put(&mut bytes, &"two", b"\xff\0").expect("short");
        let expected = vec![("one".to_owned(), vec![]), ("two".to_owned(), b"\xff\0".to_vec())];
        assert_eq!(read(&bytes).await.expect("valid"), expected);
        // Cut anywhere but between frames, it is an error, and nothing worse.
        for end in 1..bytes.len() {
            assert_eq!(read(&bytes[..end]).await.is_ok(), end == 13, "{end}");
        }
    }

    #[tokio::test]
    async fn garbage_is_an_error() {
        for garbage in
            [&[0xff; 64][..], &[0; 64], b"GET / HTTP/1.1\r\n\r\n", &[8, 0, 0, 0, 99, 0, 0, 0, 1, 2, 3, 4]]
        {
            assert!(read(garbage).await.is_err(), "{garbage:?}");
        }
        assert!(put(&mut Vec::new(), &"x".repeat(FRAME_MAX), b"").is_err());
    }
}
