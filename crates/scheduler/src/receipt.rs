//! Receipts: what requests with a key of their own came to, so that one that is sent again is answered again and not
//! done again. What was refused leaves none: nothing was done, so it may be tried again.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::book::later;
use crate::request::{Answer, Refusal, Request};
use crate::scheduler::Scheduler;

/// What a client calls one request of its own, and every repetition of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKey(Arc<str>);

impl RequestKey {
    /// Longest key, in bytes.
    pub const BYTES_MAX: usize = 255;

    /// A key of 1 to [`RequestKey::BYTES_MAX`] visible ASCII characters.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=Self::BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(text.into()))
    }

    /// As the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key, and a digest of what was asked under it: the same key for something else is a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// Which request.
    pub key: RequestKey,
    /// A digest of its content.
    pub digest: u128,
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which request.
    pub once: Once,
    /// When it was done.
    pub at: Timestamp,
    /// What it was answered. Of a set only that it was applied: what its jobs are can be looked up.
    pub answer: Answer,
}

impl Receipt {
    /// How long it is kept: a client that has not asked again by then has given up.
    pub const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
    /// At most so many are kept, the newest.
    pub const KEPT_MAX: usize = 10_000;
    /// Old ones that go for each new one, so that no step has much to remove and the number still falls.
    const REMOVED_AT_ONCE: usize = 2;

    fn is_over(&self, now: Timestamp) -> bool {
        later(self.at, Self::AGE_MAX) <= now
    }
}

/// Receipts by age.
pub(crate) type ByAge = BTreeSet<(Timestamp, RequestKey)>;

impl Scheduler {
    /// Does what is asked, unless it has been done.
    pub(crate) fn once(&mut self, once: Once, request: Request) -> Result<Answer, Refusal> {
        if let Some(answer) = self.answered_before(&once) {
            return answer;
        }
        let answer = self.request(request)?;
        self.keep_receipt(once, &answer);
        Ok(answer)
    }

    /// What the same request was answered when it was done; a refusal if the key is that of another one.
    pub(crate) fn answered_before(&self, once: &Once) -> Option<Result<Answer, Refusal>> {
        let receipt =
            self.book.state().receipts.get(&once.key).filter(|receipt| !receipt.is_over(self.now))?;
        Some(if receipt.once.digest == once.digest {
            Ok(Answer::Before(Box::new(receipt.answer.clone())))
        } else {
            Err(Refusal::KeyReused(once.key.clone()))
        })
    }

    pub(crate) fn keep_receipt(&mut self, once: Once, answer: &Answer) {
        let answer = match answer {
            Answer::Applied(_) => Answer::Applied(Vec::new()),
            answer => answer.clone(),
        };
        self.book.put_receipt(Receipt { once, at: self.now, answer });
        for _ in 0..Receipt::REMOVED_AT_ONCE {
            let Some((key, count)) = self.book.oldest_receipt() else { break };
            let over = self.book.state().receipts.get(&key).is_some_and(|receipt| receipt.is_over(self.now));
            if !over && count <= Receipt::KEPT_MAX {
                break;
            }
            self.book.remove_receipt(&key);
        }
    }
}
