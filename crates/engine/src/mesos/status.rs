//! What a task's state in Mesos means to its run.

use std::sync::Arc;

use scheduler::run::AttemptEnd;
use serde::Deserialize;

use super::wire::Status;

/// States of a task, as Mesos names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum TaskState {
    TaskStaging,
    TaskStarting,
    TaskRunning,
    TaskKilling,
    TaskFinished,
    TaskFailed,
    TaskKilled,
    TaskError,
    TaskLost,
    TaskDropped,
    TaskUnreachable,
    TaskGone,
    TaskGoneByOperator,
    TaskUnknown,
    /// One that a later Mesos has.
    #[default]
    #[serde(other)]
    Other,
}

/// What is to be made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is on an agent.
    Runs,
    /// It is over.
    Ended(AttemptEnd),
    /// It has not begun and will not; nobody but us can begin it.
    NeverBegan,
    /// Its agent is away, or nobody knows of it; it may come back.
    Unknown,
    /// Another of that name is there already: what became of that one must be asked.
    Duplicate,
}

/// What a status means.
pub(super) fn meaning(status: &Status) -> Meaning {
    let message = status.message.trim();
    let reason = status.reason.as_str();
    Meaning::Ended(match status.state {
        TaskState::TaskStaging
        | TaskState::TaskStarting
        | TaskState::TaskRunning
        | TaskState::TaskKilling => {
            return Meaning::Runs;
        }
        TaskState::TaskUnreachable | TaskState::TaskUnknown | TaskState::Other => return Meaning::Unknown,
        // Its agent cannot make a place for it, as for a user that is not there: launched again it would fail again.
        TaskState::TaskDropped if reason == "REASON_EXECUTOR_TERMINATED" => {
            AttemptEnd::failed(told("its executor could not be started", reason, message))
        }
        TaskState::TaskDropped => return Meaning::NeverBegan,
        TaskState::TaskFinished => AttemptEnd::Succeeded,
        TaskState::TaskFailed | TaskState::TaskKilled if reason == "REASON_MAX_COMPLETION_TIME_REACHED" => {
            AttemptEnd::TimedOut
        }
        TaskState::TaskKilled => AttemptEnd::Killed,
        TaskState::TaskFailed => {
            let (exit, signal) = (
                number_after(message, "exited with status "),
                number_after(message, "terminated with signal "),
            );
            AttemptEnd::Failed { exit, signal, message: told("the task failed", reason, message) }
        }
        TaskState::TaskError if message.to_ascii_lowercase().contains("duplicate") => {
            return Meaning::Duplicate;
        }
        TaskState::TaskError => AttemptEnd::failed(told("Mesos refused the task", reason, message)),
        TaskState::TaskLost => AttemptEnd::Lost { message: told("Mesos has lost the task", reason, message) },
        TaskState::TaskGone => {
            AttemptEnd::Lost { message: told("the task is gone from its agent", reason, message) }
        }
        TaskState::TaskGoneByOperator => AttemptEnd::Lost {
            message: told("an operator said that its agent is gone for good", reason, message),
        },
    })
}

/// At most [`AttemptEnd::MESSAGE_MAX`] bytes for people.
fn told(what: &str, reason: &str, message: &str) -> Arc<str> {
    let text = match (message, reason) {
        ("", "") => what.to_owned(),
        ("", reason) => format!("{what} ({reason})"),
        (message, "" | "REASON_COMMAND_EXECUTOR_FAILED") => message.to_owned(),
        (message, reason) => format!("{message} ({reason})"),
    };
    AttemptEnd::cut(&text).into()
}

/// The number behind these words. Executors say by words alone how a command ended.
fn number_after(message: &str, words: &str) -> Option<i32> {
    let rest = &message[message.find(words)? + words.len()..];
    let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(state: &str, reason: &str, message: &str, meant: Meaning) {
        let status = serde_json::json!({
            "task_id": {"value": "a-0"}, "state": state, "reason": reason, "message": message, "more": {},
        });
        let status: Status = serde_json::from_value(status).expect(state);
        assert_eq!(meaning(&status), meant, "{state} {reason} {message}");
    }

    fn lost(message: &str) -> Meaning {
        Meaning::Ended(AttemptEnd::Lost { message: message.into() })
    }

    fn failed(exit: Option<i32>, signal: Option<i32>, message: &str) -> Meaning {
        Meaning::Ended(AttemptEnd::Failed { exit, signal, message: message.into() })
    }

    #[test]
    fn every_state_has_its_meaning() {
        for state in ["TASK_STAGING", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLING"] {
            check(state, "", "", Meaning::Runs);
        }
        for state in ["TASK_UNREACHABLE", "TASK_UNKNOWN", "TASK_OF_NEXT_YEAR"] {
            check(state, "", "", Meaning::Unknown);
        }
        check("TASK_FINISHED", "", "", Meaning::Ended(AttemptEnd::Succeeded));
        check("TASK_KILLED", "", "", Meaning::Ended(AttemptEnd::Killed));
        check("TASK_DROPPED", "REASON_INVALID_OFFERS", "", Meaning::NeverBegan);
        check(
            "TASK_DROPPED",
            "REASON_EXECUTOR_TERMINATED",
            "No such user 'x'",
            failed(None, None, "No such user 'x' (REASON_EXECUTOR_TERMINATED)"),
        );
        check(
            "TASK_LOST",
            "REASON_SLAVE_REMOVED",
            "",
            lost("Mesos has lost the task (REASON_SLAVE_REMOVED)"),
        );
        check("TASK_GONE", "", "", lost("the task is gone from its agent"));
        check("TASK_GONE_BY_OPERATOR", "", "", lost("an operator said that its agent is gone for good"));
    }

    #[test]
    fn how_a_command_ended_is_read_from_what_its_executor_says() {
        let reason = "REASON_COMMAND_EXECUTOR_FAILED";
        check(
            "TASK_FAILED",
            reason,
            "Command exited with status 3",
            failed(Some(3), None, "Command exited with status 3"),
        );
        let signal = "Command terminated with signal 9";
        check("TASK_FAILED", reason, signal, failed(None, Some(9), signal));
        let memory = "Memory limit exceeded (REASON_CONTAINER_LIMITATION_MEMORY)";
        check(
            "TASK_FAILED",
            "REASON_CONTAINER_LIMITATION_MEMORY",
            "Memory limit exceeded",
            failed(None, None, memory),
        );
        check("TASK_FAILED", "", "", failed(None, None, "the task failed"));
        for state in ["TASK_FAILED", "TASK_KILLED"] {
            check(state, "REASON_MAX_COMPLETION_TIME_REACHED", "", Meaning::Ended(AttemptEnd::TimedOut));
        }
    }

    #[test]
    fn a_task_that_mesos_refuses_has_failed_unless_another_of_its_name_may_run() {
        check(
            "TASK_ERROR",
            "REASON_TASK_INVALID",
            "Task uses more resources than there are",
            failed(None, None, "Task uses more resources than there are (REASON_TASK_INVALID)"),
        );
        check("TASK_ERROR", "REASON_TASK_INVALID", "Task has duplicate ID: a-0", Meaning::Duplicate);
    }

    #[test]
    fn a_long_message_is_cut_between_letters() {
        let long = "ä".repeat(AttemptEnd::MESSAGE_MAX);
        assert_eq!(told("", "", &format!("x{long}")).len(), AttemptEnd::MESSAGE_MAX - 1);
    }
}
