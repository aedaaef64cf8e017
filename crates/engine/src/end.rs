//! How a task ended, as it is written to disk.

use scheduler::run::AttemptEnd;
use serde::{Deserialize, Serialize};

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum End {
    Succeeded,
    Failed { exit: Option<i32>, signal: Option<i32>, message: String },
    Killed,
    TimedOut,
    Lost { message: String },
}

impl From<End> for AttemptEnd {
    fn from(end: End) -> Self {
        match end {
            End::Succeeded => Self::Succeeded,
            End::Failed { exit, signal, message } => Self::Failed { exit, signal, message: message.into() },
            End::Killed => Self::Killed,
            End::TimedOut => Self::TimedOut,
            End::Lost { message } => Self::Lost { message: message.into() },
        }
    }
}

impl End {
    /// A failure without a status. The message is cut to the bound of the core.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed { exit: None, signal: None, message: AttemptEnd::cut(&message.into()).into() }
    }

    /// A loss. The message is cut to the bound of the core.
    pub(crate) fn lost(message: impl Into<String>) -> Self {
        Self::Lost { message: AttemptEnd::cut(&message.into()).into() }
    }
}
