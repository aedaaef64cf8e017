//! What the leader tells and asks the engine of another node, as JSON: one call, in the order of the fields.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use engine::{Known, Output};
use scheduler::ids::{Epoch, TaskId};
use scheduler::run::AttemptEnd;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the leader of a term wants of the engine of another node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Asked {
    /// The term in whose name it is asked; another than that of the store is refused.
    pub(crate) epoch: u64,
    /// Refuse what earlier terms order from now on.
    pub(crate) begin_term: bool,
    /// End these tasks, politely at first.
    pub(crate) kill: Vec<String>,
    /// How long they may take, in milliseconds.
    pub(crate) grace_ms: u64,
    /// The ends of these tasks are durable.
    pub(crate) acknowledge: Vec<String>,
    /// What is known of these tasks?
    pub(crate) reconcile: Vec<String>,
    /// A piece of the output of a task.
    pub(crate) output: Option<Piece>,
}

/// A piece of the output of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Piece {
    pub(crate) task: String,
    /// Standard error instead of standard output.
    pub(crate) stderr: bool,
    /// The first byte that is wanted.
    pub(crate) offset: u64,
}

/// What the engine of a node answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Told {
    /// What is known of the tasks that were asked for, in their order.
    pub(crate) known: Vec<State>,
    /// The piece of output; not there where that task has none here.
    pub(crate) output: Option<PieceTold>,
}

/// A piece of the output of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PieceTold {
    /// In base64.
    bytes: String,
    /// Where the next piece begins.
    next: u64,
    /// Bytes that were not kept.
    dropped: u64,
    /// Whether nothing follows.
    complete: bool,
}

/// What is known of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum State {
    Waiting,
    Placed { node: String },
    Running,
    Succeeded,
    Failed { exit: Option<i32>, signal: Option<i32>, message: String },
    Killed,
    TimedOut,
    Lost { message: String },
    NeverBegan,
    Unknown,
}

impl Asked {
    /// Nothing yet, in the name of a term.
    pub(super) fn of(epoch: Epoch) -> Self {
        Self { epoch: epoch.0, ..Self::default() }
    }

    pub(super) fn names(tasks: &[TaskId]) -> Vec<String> {
        tasks.iter().map(ToString::to_string).collect()
    }

    /// How long tasks that are ended may take.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }
}

impl From<Known> for State {
    fn from(known: Known) -> Self {
        match known {
            Known::Waiting => Self::Waiting,
            Known::Placed { node } => Self::Placed { node: node.to_string() },
            Known::Running => Self::Running,
            Known::NeverBegan => Self::NeverBegan,
            Known::Unknown => Self::Unknown,
            Known::Ended(AttemptEnd::Succeeded) => Self::Succeeded,
            Known::Ended(AttemptEnd::Failed { exit, signal, message }) => {
                Self::Failed { exit, signal, message: message.to_string() }
            }
            Known::Ended(AttemptEnd::Killed) => Self::Killed,
            Known::Ended(AttemptEnd::TimedOut) => Self::TimedOut,
            // A node says so of its own tasks never.
            Known::GivenUp { message } | Known::Ended(AttemptEnd::Lost { message }) => {
                Self::Lost { message: message.to_string() }
            }
        }
    }
}

impl From<State> for Known {
    fn from(state: State) -> Self {
        // What another node says may be longer than what is kept.
        let cut = |message: String| AttemptEnd::cut(&message).into();
        Self::Ended(match state {
            State::Waiting => return Self::Waiting,
            State::Placed { node } => return Self::Placed { node: node.into() },
            State::Running => return Self::Running,
            State::NeverBegan => return Self::NeverBegan,
            State::Unknown => return Self::Unknown,
            State::Succeeded => AttemptEnd::Succeeded,
            State::Failed { exit, signal, message } => {
                AttemptEnd::Failed { exit, signal, message: cut(message) }
            }
            State::Killed => AttemptEnd::Killed,
            State::TimedOut => AttemptEnd::TimedOut,
            State::Lost { message } => AttemptEnd::Lost { message: cut(message) },
        })
    }
}

impl From<Output> for PieceTold {
    fn from(Output { bytes, next, dropped, complete }: Output) -> Self {
        Self { bytes: BASE64.encode(bytes), next, dropped, complete }
    }
}

impl From<PieceTold> for Output {
    fn from(PieceTold { bytes, next, dropped, complete }: PieceTold) -> Self {
        Self { bytes: BASE64.decode(bytes).unwrap_or_default(), next, dropped, complete }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_goes_over_the_wire_and_back() {
        for known in [
            Known::Waiting,
            Known::Placed { node: "there".into() },
            Known::Running,
            Known::NeverBegan,
            Known::Unknown,
            Known::Ended(AttemptEnd::Succeeded),
            Known::Ended(AttemptEnd::Failed { exit: Some(3), signal: None, message: "no".into() }),
            Known::Ended(AttemptEnd::Killed),
            Known::Ended(AttemptEnd::TimedOut),
            Known::Ended(AttemptEnd::Lost { message: "gone".into() }),
        ] {
            let text = serde_json::to_string(&State::from(known.clone())).expect("it is JSON");
            let state: State = serde_json::from_str(&text).expect("it is read back");
            assert_eq!(Known::from(state), known, "{text}");
        }
        let output = Output { bytes: vec![0, 255, 7], next: 9, dropped: 6, complete: true };
        assert_eq!(Output::from(PieceTold::from(output.clone())), output);
    }
}
