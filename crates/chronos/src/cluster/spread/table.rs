//! What is known of tasks on other nodes: whom to ask for which of them, and what of the answers is news. A value: where
//! tasks are and what was answered goes in, questions and news come out; there is no clock, lock or network here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use engine::{Known, TaskEvent};
use scheduler::ids::TaskId;

/// Who did not answer is not asked again for so long: its tasks may be many questions, and each would be waited for.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// Where the state has a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The engine of this node knows of it.
    Here,
    /// On another node.
    There {
        node: Arc<str>,
        /// Whether it runs in a container, which outlives its server.
        contained: bool,
    },
    /// It was given up on another node, and may be heard of there again.
    GivenUp { node: Arc<str> },
    /// Nowhere: its run is over, or it is yet to be launched again.
    Nowhere,
}

impl Place {
    /// The other node that is asked for it.
    pub(super) fn elsewhere(&self) -> Option<&Arc<str>> {
        match self {
            Self::There { node, .. } | Self::GivenUp { node } => Some(node),
            Self::Here | Self::Nowhere => None,
        }
    }

    /// Whether it has been launched somewhere else since it was known to be there.
    fn has_left(&self, node: &str) -> bool {
        *self == Self::Here || self.elsewhere().is_some_and(|other| **other != *node)
    }
}

/// What it means that a node does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// Nobody can tell.
    Open,
    /// It ends its tasks when it is cut off for so long.
    CutOff,
    /// An operator says that it will not come back.
    Forgotten,
}

impl Silence {
    /// What is known of a task there. Of one that nobody waits for silence says nothing new.
    pub(super) fn known(self, node: &str, place: &Place) -> Known {
        let Place::There { contained, .. } = place else { return Known::Unknown };
        let why = match self {
            Self::Forgotten => "an operator said that its node will not come back",
            Self::CutOff if !contained => "its node was cut off, and ends its tasks then",
            Self::CutOff | Self::Open => return Known::Unknown,
        };
        Known::GivenUp { message: format!("node {node}: {why}").into() }
    }
}

/// Tasks that one node is asked for, and where the state has each.
pub(super) type Question = Vec<(TaskId, Place)>;

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    /// Tasks of other nodes whose end is awaited.
    watched: BTreeMap<TaskId, Watched>,
    /// Those of which there is something to tell, each once, in the order in which it was heard.
    news: VecDeque<TaskId>,
    /// Nodes that are being asked.
    asked: BTreeSet<Arc<str>>,
    /// Nodes that have not answered, and until when they are left alone.
    silent: BTreeMap<Arc<str>, Duration>,
    /// Nodes that an operator says will not come back, and since when.
    forgotten: BTreeMap<String, Duration>,
}

struct Watched {
    node: Arc<str>,
    known: Known,
    /// Whether that waits to be told.
    is_news: bool,
}

impl Table {
    /// What was heard in another term is asked anew, and what was given up is in the state. The word of an operator
    /// outlives it.
    pub(super) fn begin_term(&mut self) {
        *self = Self { forgotten: std::mem::take(&mut self.forgotten), ..Self::default() };
    }

    /// What somebody who has asked for a task is told: from here on its end is awaited. Nothing is to be awaited of what
    /// never began there, nor of what has been launched elsewhere meanwhile.
    pub(super) fn note(&mut self, task: &TaskId, node: &Arc<str>, known: &Known, place: &Place) {
        if place.elsewhere() != Some(node) {
            return;
        }
        self.forget_task(task);
        if *known != Known::NeverBegan {
            let watched = Watched { node: node.clone(), known: known.clone(), is_news: false };
            self.watched.insert(task.clone(), watched);
        }
    }

    /// It is launched here: what is still heard of it elsewhere is of no concern any more.
    pub(super) fn launched(&mut self, task: &TaskId) {
        self.forget_task(task);
    }

    /// Its end is durable. Who told it is told so.
    pub(super) fn acknowledged(&mut self, task: &TaskId) -> Option<Arc<str>> {
        self.forget_task(task)
    }

    /// Where a task is watched.
    pub(super) fn node_of(&self, task: &TaskId) -> Option<&Arc<str>> {
        self.watched.get(task).map(|watched| &watched.node)
    }

    /// Whom to ask for what now. Who is still being asked is not asked again before [`Table::has_been_asked`].
    pub(super) fn questions(&mut self, place: impl Fn(&TaskId) -> Place) -> BTreeMap<Arc<str>, Question> {
        let mut questions: BTreeMap<Arc<str>, Question> = BTreeMap::new();
        let mut left = Vec::new();
        for (task, watched) in &self.watched {
            let place = place(task);
            if place.has_left(&watched.node) {
                left.push(task.clone());
            } else if watched.known != Known::NeverBegan && !self.asked.contains(&watched.node) {
                questions.entry(watched.node.clone()).or_default().push((task.clone(), place));
            }
        }
        for task in left {
            self.forget_task(&task);
        }
        self.asked.extend(questions.keys().cloned());
        questions
    }

    pub(super) fn has_been_asked(&mut self, node: &str) {
        self.asked.remove(node);
    }

    /// What a node answers to a question. Some of it may be news.
    pub(super) fn answered(&mut self, task: &TaskId, node: &str, known: Known) {
        let Some(watched) = self.watched.get_mut(task).filter(|watched| *watched.node == *node) else {
            return;
        };
        // An end is told until it is acknowledged, and that nobody waits until nobody does.
        if watched.known == known && !matches!(known, Known::Ended(_) | Known::GivenUp { .. }) {
            return;
        }
        watched.known = known;
        if !watched.is_news {
            watched.is_news = true;
            self.news.push_back(task.clone());
        }
    }

    /// The oldest news, at most so many. What was launched elsewhere meanwhile has none.
    pub(super) fn take(&mut self, max: usize, place: impl Fn(&TaskId) -> Place) -> Vec<TaskEvent> {
        let mut events = Vec::new();
        while events.len() < max
            && let Some(task) = self.news.pop_front()
        {
            let Some(watched) = self.watched.get_mut(&task) else { continue };
            watched.is_news = false;
            let known = watched.known.clone();
            let has_left = place(&task).has_left(&watched.node);
            // It is launched again, and then it is asked for where that is.
            if has_left || known == Known::NeverBegan {
                self.watched.remove(&task);
            }
            if !has_left {
                events.push(TaskEvent { task, known });
            }
        }
        events
    }

    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// It has not answered.
    pub(super) fn falls_silent(&mut self, node: &Arc<str>, now: Duration) {
        self.silent.insert(node.clone(), now + SILENT_FOR);
    }

    /// Whether it is no use to ask a node.
    pub(super) fn leaves_alone(&self, node: &str, now: Duration) -> bool {
        self.is_forgotten(node) || self.silent.get(node).is_some_and(|until| now < *until)
    }

    /// An operator says that a node will not come back.
    pub(super) fn forget(&mut self, node: &str, now: Duration) {
        self.forgotten.insert(node.to_owned(), now);
    }

    pub(super) fn is_forgotten(&self, node: &str) -> bool {
        self.forgotten.contains_key(node)
    }

    /// Nobody waits for anything there any more: what is launched there later is a new life.
    pub(super) fn is_settled(&mut self, node: &str) {
        self.forgotten.remove(node);
    }

    /// For how long each node has been silent, as of now. Who was heard of since it was forgotten has come back.
    pub(super) fn heard<'a>(&mut self, nodes: impl Iterator<Item = (&'a str, Duration)>, now: Duration) {
        for (node, silent_for) in nodes {
            if self.forgotten.get(node).is_some_and(|since| silent_for < now.saturating_sub(*since)) {
                self.forgotten.remove(node);
            }
        }
    }

    fn forget_task(&mut self, task: &TaskId) -> Option<Arc<str>> {
        let watched = self.watched.remove(task)?;
        if watched.is_news {
            self.news.retain(|other| other != task);
        }
        Some(watched.node)
    }
}

#[cfg(test)]
mod tests;
