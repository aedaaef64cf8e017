//! Sets of jobs that are too large for one batch: written beside the jobs first, then decided by one small change, then
//! put among the jobs before anything else happens.
//!
//! Until it is decided nothing has changed, and a leader that finds such a set throws it away: nobody was told of it.
//! Once it is decided it will be whole, under this leader or the next: no slot is taken, no child is told, nothing is
//! launched and nothing is asked before that.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::apply::{BATCH_BYTES_MAX, ENDS_MAX, Set, fitting};
use crate::audit::{Author, authored};
use crate::door::Origin;
use crate::ids::JobName;
use crate::receipt::Once;
use crate::request::{Answer, Definition, Manner, Refusal, Request, RequestId, Verdict};
use crate::scheduler::{Effect, Scheduler};

/// Bytes written beside the jobs in one step.
const STAGED_AT_ONCE: usize = 32 * 1024;
/// Definitions thrown away in one step.
const DROPPED_AT_ONCE: usize = 64;

/// A set on its way, as far as only this leader knows of it.
#[derive(Default)]
pub(crate) struct Staging {
    /// Who asked for it, and in which order to answer; `None` for one that was found.
    asker: Option<Asker>,
    /// Jobs that are still to be put, the next one last; `None` until that has been found out.
    order: Option<Vec<JobName>>,
}

struct Asker {
    id: RequestId,
    once: Option<Once>,
    author: Author,
    names: Vec<JobName>,
    /// What is still to be written beside the jobs, the next one last.
    left: Vec<Arc<Definition>>,
    verdicts: BTreeMap<JobName, Verdict>,
}

impl Scheduler {
    /// Answers a request, now or, with `None`, later.
    pub(crate) fn ask(&mut self, id: RequestId, request: Request) -> Option<Result<Answer, Refusal>> {
        if self.is_applying() {
            return Some(Err(Refusal::SetUnderWay));
        }
        let (author, request) = authored(request);
        self.ask_as(author, |this| this.answer(id, request))
    }

    fn answer(&mut self, id: RequestId, request: Request) -> Option<Result<Answer, Refusal>> {
        let (once, request) = match request {
            Request::Once { once, request } if matches!(*request, Request::Apply { .. }) => {
                if let Some(answer) = self.answered_before(&once) {
                    return Some(answer);
                }
                (Some(once), *request)
            }
            request => (None, request),
        };
        match request {
            Request::Apply { definitions, manner: Manner::Do } if !self.fits_one_batch(&definitions) => {
                self.stage(id, once, definitions).err().map(Err)
            }
            request => Some(match once {
                Some(once) => self.once(once, request),
                None => self.request(request),
            }),
        }
    }

    /// Whether a set has been decided and is not whole yet. What is asked meanwhile is refused.
    pub fn is_applying(&self) -> bool {
        self.book.state().meta.applying.is_some()
    }

    fn stage(
        &mut self,
        id: RequestId,
        once: Option<Once>,
        definitions: Vec<Definition>,
    ) -> Result<(), Refusal> {
        if self.staging.asker.is_some() || !self.book.state().staged.is_empty() {
            return Err(Refusal::SetUnderWay);
        }
        let names = definitions.iter().map(|definition| definition.name.clone()).collect();
        let set = fitting(definitions)?;
        self.check_set(&set)?;
        let left = set.into_values().rev().collect();
        let author = self.author.clone();
        self.staging.asker = Some(Asker { id, once, author, names, left, verdicts: BTreeMap::new() });
        Ok(())
    }

    /// Whether the set that is on its way wants the next step at once.
    pub(crate) fn is_staging(&self) -> bool {
        self.staging.asker.is_some() || !self.book.state().staged.is_empty() || self.is_applying()
    }

    /// Brings a set that is not decided yet one step further.
    pub(crate) fn prepare_set(&mut self) {
        let Some(asker) = &mut self.staging.asker else { return self.drop_staged() };
        let mut bytes = 0;
        while bytes < STAGED_AT_ONCE
            && let Some(definition) = asker.left.pop()
        {
            bytes += definition.bytes();
            self.book.stage(definition);
        }
        if bytes == 0 {
            self.decide_set();
        }
    }

    /// All of it is durable, or will be before what follows: now it is done, or refused.
    fn decide_set(&mut self) {
        let set: Set = self.book.state().staged.clone();
        match self.check_set(&set) {
            Ok(mut order) => {
                order.reverse();
                self.staging.order = Some(order);
                let author = self.staging.asker.as_ref().map(|asker| asker.author.clone());
                // Whichever leader makes it whole does so in the name of whoever asked for it.
                self.book.note_applying(Some(author.unwrap_or_default()));
                // Whoever asks again is told so, whichever leader makes it whole.
                if let Some(once) = self.staging.asker.as_ref().and_then(|asker| asker.once.clone()) {
                    self.keep_receipt(once, &Answer::Applied(Vec::new()));
                }
            }
            Err(refusal) => {
                if let Some(Asker { id, .. }) = self.staging.asker.take() {
                    self.effects.push(Effect::Answer { id, answer: Err(refusal) });
                }
            }
        }
    }

    fn drop_staged(&mut self) {
        let names: Vec<_> = self.book.state().staged.keys().take(DROPPED_AT_ONCE).cloned().collect();
        names.iter().for_each(|name| self.book.unstage(name));
    }

    /// Puts the next jobs of a decided set.
    pub(crate) fn put_staged(&mut self) {
        self.author = self.book.state().meta.applying.as_deref().cloned().unwrap_or_default();
        self.put_next();
        self.author = Author::default();
    }

    fn put_next(&mut self) {
        let mut order = match self.staging.order.take() {
            Some(order) => order,
            None => self.order_left(),
        };
        let (mut jobs, mut bytes, mut ends) = (0, 0, 0);
        while let Some(name) = order.last() {
            let Some(definition) = self.book.state().staged.get(name).cloned() else {
                order.pop();
                continue;
            };
            (jobs, bytes, ends) = (jobs + 1, bytes + definition.bytes(), ends + self.ends_with(&definition));
            let full = jobs > self.settings.set_batch || bytes > BATCH_BYTES_MAX || ends > ENDS_MAX;
            if jobs > 1 && full {
                break;
            }
            let Some(name) = order.pop() else { break };
            self.book.unstage(&name);
            // Checked when it was decided, and nothing has changed since.
            let put = self.put(Arc::unwrap_or_clone(definition), Origin::Set);
            debug_assert!(put.is_ok(), "{put:?}");
            if let (Ok(Answer::Put { uid, version, changed }), Some(asker)) = (put, &mut self.staging.asker) {
                asker.verdicts.insert(name.clone(), Verdict { job: name, uid: Some(uid), version, changed });
            }
        }
        if !order.is_empty() {
            self.staging.order = Some(order);
            return;
        }
        self.book.note_applying(None);
        if let Some(Asker { id, names, mut verdicts, .. }) = self.staging.asker.take() {
            let answer = Ok(Answer::Applied(names.iter().filter_map(|name| verdicts.remove(name)).collect()));
            self.effects.push(Effect::Answer { id, answer });
        }
    }

    /// The order of what a former leader has left to be put.
    fn order_left(&self) -> Vec<JobName> {
        let left: Set = self.book.state().staged.clone();
        // What is left of a set without cycles has none.
        let mut order = self.order(&left).unwrap_or_else(|_| left.keys().cloned().collect());
        order.reverse();
        order
    }
}
