//! What is written to disk and sent over the socket: types of their own, converted at the edge.

use std::collections::BTreeSet;
use std::time::Duration;

use scheduler::ids::{Epoch, TaskId};
use serde::{Deserialize, Serialize};

pub(super) use crate::capped::Written;
pub(super) use crate::end::End;
use crate::{EngineError, Known, Launch, Stream, TaskSpec};

/// All that stays of an ended task besides its output: the content of the file `end`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndFile {
    pub(super) end: End,
    pub(super) output_max: u64,
    pub(super) stdout: Written,
    pub(super) stderr: Written,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Record {
    /// A supervisor began to write, in this boot of the machine.
    Boot(String),
    /// Orders of earlier epochs are refused.
    Epoch(u64),
    /// The task is about to be spawned. Durable before it is.
    #[serde(rename_all = "camelCase")]
    Begin { task: String, output_max: u64 },
    /// It was not spawned after all, and may be launched again.
    Withdrawn(String),
    /// It is this process, which started between these times since boot.
    #[serde(rename_all = "camelCase")]
    Spawned { task: String, pid: i32, after_ms: u64, before_ms: u64 },
    /// It is over. Durable before it is told.
    End { task: String, file: EndFile },
    /// Its end is durable elsewhere.
    Acknowledged(String),
    /// Its folder was removed.
    Forgotten(String),
}

/// What the server asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Request {
    BeginTerm {
        epoch: u64,
    },
    Launch {
        epoch: u64,
        task: String,
        spec: Box<Spec>,
        not_after: Duration,
    },
    Kill {
        epoch: u64,
        task: String,
        grace: Duration,
        not_after: Duration,
    },
    Reconcile {
        epoch: u64,
        tasks: Vec<String>,
    },
    Acknowledge {
        tasks: Vec<String>,
    },
    Output {
        task: String,
        stderr: bool,
        offset: u64,
    },
    Forget {
        task: String,
    },
    Running,
    /// Until this time since boot the server is in touch with the store; `None`: there is no such thing here.
    Lease {
        until: Option<Duration>,
    },
}

/// What the server sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum FromServer {
    /// The first message, and no other.
    Hello { protocol: u32 },
    /// All after it. Answers carry the same number and come in any order.
    Call { id: u64, request: Request },
}

/// What the supervisor sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum FromSupervisor {
    /// The first message. With another protocol than the server's it is also the last.
    Hello {
        protocol: u32,
        pid: u32,
    },
    Answer {
        id: u64,
        answer: Answer,
    },
    /// Ends that nobody has acknowledged.
    Ends(Vec<(String, End)>),
    /// Why nothing can be started, or `None`; and what cannot be done although all is well.
    Health {
        reason: Option<String>,
        notes: Vec<String>,
    },
}

/// An answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    Done,
    Known(Vec<What>),
    /// The bytes follow the message in the same frame.
    Output {
        next: u64,
        dropped: u64,
        complete: bool,
    },
    Tasks(Vec<String>),
    Deposed {
        ours: u64,
        newest: u64,
    },
    TooLate,
    Unknown(String),
    Refused(String),
    NoSuchTask,
}

/// What is known of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum What {
    Running,
    Ended(End),
    NeverBegan,
    /// Its folder cannot be read.
    Unknown,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) command: String,
    pub(super) shell: bool,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) output_max: u64,
    pub(super) user: Option<String>,
    pub(super) limits: Limits,
    pub(super) fetches: Vec<Fetch>,
    pub(super) secrets: Vec<Secret>,
}

/// What a task may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Limits {
    pub(super) cpu_millis: Option<u32>,
    pub(super) memory_max: Option<u64>,
}

/// A file to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Fetch {
    pub(super) uri: String,
    pub(super) executable: bool,
    pub(super) extract: bool,
    pub(super) output_file: Option<String>,
}

impl From<crate::Fetch> for Fetch {
    fn from(crate::Fetch { uri, executable, extract, output_file, cache: _ }: crate::Fetch) -> Self {
        Self { uri, executable, extract, output_file }
    }
}

/// A variable, and where its value is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Secret {
    pub(super) name: String,
    pub(super) from: Source,
}

/// Where a secret value is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Source {
    File(String),
    Env(String),
}

impl Spec {
    /// The secrets, as the contract knows them.
    pub(super) fn secrets(&self) -> Vec<crate::Secret> {
        let secret = |Secret { name, from }: &Secret| {
            let source = match from.clone() {
                Source::File(path) => crate::SecretSource::File(path),
                Source::Env(variable) => crate::SecretSource::Env(variable),
            };
            crate::Secret { name: name.clone(), source }
        };
        self.secrets.iter().map(secret).collect()
    }

    /// The variables to set, each once: the first of a name wins.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut seen = BTreeSet::new();
        self.environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(move |(n, _)| seen.insert(*n))
    }
}

impl Request {
    pub(super) fn launch(epoch: Epoch, launch: &Launch) -> Self {
        let spec = Box::new(Spec::from((*launch.spec).clone()));
        Self::Launch { epoch: epoch.0, task: launch.task.to_string(), spec, not_after: launch.not_after }
    }

    pub(super) fn output(task: &TaskId, stream: Stream, offset: u64) -> Self {
        Self::Output { task: task.to_string(), stderr: stream == Stream::Stderr, offset }
    }
}

impl From<TaskSpec> for Spec {
    fn from(spec: TaskSpec) -> Self {
        let TaskSpec {
            command,
            shell,
            arguments,
            environment,
            output_max,
            user,
            limits,
            fetches,
            secrets,
            container: _,
            // One machine sets nothing aside, and there is no other to choose.
            share: _,
            constraints: _,
            title: _,
            labels: _,
            user_elsewhere: _,
            executor: _,
        } = spec;
        let crate::Limits { cpu_millis, memory_max } = limits;
        let secret = |crate::Secret { name, source }| {
            let from = match source {
                crate::SecretSource::File(path) => Source::File(path),
                crate::SecretSource::Env(variable) => Source::Env(variable),
            };
            Secret { name, from }
        };
        Self {
            command,
            shell,
            arguments,
            environment,
            output_max,
            user,
            limits: Limits { cpu_millis, memory_max },
            fetches: fetches.into_iter().map(Fetch::from).collect(),
            secrets: secrets.into_iter().map(secret).collect(),
        }
    }
}

impl Answer {
    /// The error that the answer is, if it is one.
    pub(super) fn into_result(self, task: Option<&TaskId>) -> Result<Self, EngineError> {
        match (self, task) {
            (Self::Deposed { ours, newest }, _) => {
                Err(EngineError::Deposed { ours: Epoch(ours), newest: Epoch(newest) })
            }
            (Self::TooLate, _) => Err(EngineError::TooLate),
            (Self::Unknown(reason), _) => Err(EngineError::Unknown(reason)),
            (Self::Refused(reason), _) => Err(EngineError::Refused(reason)),
            (Self::NoSuchTask, Some(task)) => Err(EngineError::NoSuchTask(task.clone())),
            (answer, _) => Ok(answer),
        }
    }
}

impl From<What> for Known {
    fn from(what: What) -> Self {
        match what {
            What::Running => Self::Running,
            What::Ended(end) => Self::Ended(end.into()),
            What::NeverBegan => Self::NeverBegan,
            What::Unknown => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(record: &Record, text: &str) {
        assert_eq!(serde_json::to_string(record).expect("it can be written"), text);
        assert_eq!(&serde_json::from_str::<Record>(text).expect("it can be read"), record);
    }

    /// A journal outlives the binary that wrote it.
    #[test]
    fn journal_lines_stay_as_they_are() {
        let task = || "a-0".to_owned();
        check(&Record::Boot("b".into()), r#"{"boot":"b"}"#);
        check(&Record::Epoch(7), r#"{"epoch":7}"#);
        check(&Record::Begin { task: task(), output_max: 9 }, r#"{"begin":{"task":"a-0","outputMax":9}}"#);
        check(&Record::Withdrawn(task()), r#"{"withdrawn":"a-0"}"#);
        let spawned = Record::Spawned { task: task(), pid: 5, after_ms: 1, before_ms: 2 };
        check(&spawned, r#"{"spawned":{"task":"a-0","pid":5,"afterMs":1,"beforeMs":2}}"#);
        let stdout = Written { total: 3, kept_until: None };
        let stderr = Written { total: 4, kept_until: Some(1) };
        let end = End::Failed { exit: Some(1), signal: None, message: "exit status 1".into() };
        let end = Record::End { task: task(), file: EndFile { end, output_max: 9, stdout, stderr } };
        check(
            &end,
            r#"{"end":{"task":"a-0","file":{"end":{"failed":{"exit":1,"signal":null,"message":"exit status 1"}},"outputMax":9,"stdout":{"total":3},"stderr":{"total":4,"keptUntil":1}}}}"#,
        );
        check(&Record::Acknowledged(task()), r#"{"acknowledged":"a-0"}"#);
        check(&Record::Forgotten(task()), r#"{"forgotten":"a-0"}"#);
    }

    #[test]
    fn the_first_of_a_name_wins() {
        let pairs = [("A", "1"), ("B", "2"), ("A", "3")];
        let environment = pairs.map(|(n, v)| (n.into(), v.into())).to_vec();
        let spec = Spec::from(TaskSpec { environment, ..TaskSpec::default() });
        assert_eq!(spec.variables().collect::<Vec<_>>(), [("A", "1"), ("B", "2")]);
    }
}
