//! One leg of a diagnosis: how bad it is, and what to do.

use std::borrow::Cow;

use serde_json::json;

use crate::cli::failure::{Failure, printable};
use crate::cli::{Format, out, out_json};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    Good,
    Look,
    Wrong,
}

/// One leg.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) leg: Cow<'static, str>,
    pub(super) grade: Grade,
    pub(super) what: String,
    /// What to do; empty where there is nothing to do.
    pub(super) advice: String,
}

pub(super) fn good(leg: &'static str, what: impl Into<String>) -> Finding {
    Finding { leg: leg.into(), grade: Grade::Good, what: what.into(), advice: String::new() }
}

pub(super) fn look(leg: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { leg: leg.into(), grade: Grade::Look, what: what.into(), advice: advice.into() }
}

pub(super) fn wrong(leg: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { leg: leg.into(), grade: Grade::Wrong, what: what.into(), advice: advice.into() }
}

pub(super) fn unreachable(failure: &Failure) -> Finding {
    wrong("server", told(failure), failure.hint.clone().unwrap_or_default())
}

/// A leg of which the server has not told.
pub(super) fn unseen(leg: &'static str, failure: &Failure) -> Finding {
    let advice = failure.hint.clone().unwrap_or("ask again when what is wrong above is mended".into());
    wrong(leg, format!("cannot be looked at: {}", told(failure)), advice)
}

fn told(failure: &Failure) -> String {
    let chain: Vec<String> = failure.error.chain().map(ToString::to_string).collect();
    chain.join(": ")
}

pub(super) fn tell(findings: &[Finding], format: Format) -> Result<(), Failure> {
    let word = |grade| match grade {
        Grade::Good => "good",
        Grade::Look => "look",
        Grade::Wrong => "wrong",
    };
    if format == Format::Json {
        let list = findings.iter().map(|finding| {
            let Finding { leg, grade, what, advice } = finding;
            json!({ "leg": leg, "grade": word(*grade), "what": what, "advice": advice })
        });
        return Ok(out_json(&list.collect())?);
    }
    for Finding { leg, grade, what, advice } in findings {
        // In a column, the advice below what it is about.
        let mark = match grade {
            Grade::Good => '✓',
            Grade::Look => '!',
            Grade::Wrong => '✗',
        };
        let mut lines = format!("{mark} {leg:<9} {}\n", printable(what));
        if !advice.is_empty() {
            lines.push_str(&format!("            {}\n", printable(advice)));
        }
        out(lines.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Exit;

    #[test]
    fn a_leg_that_cannot_be_looked_at_is_a_finding() {
        let failure =
            Failure::new(Exit::Unreachable, anyhow::anyhow!("this node has not read the store yet"));
        let found = unseen("jobs", &failure.hint("GET /ready says what it waits for"));
        assert_eq!((&*found.leg, found.grade), ("jobs", Grade::Wrong));
        assert_eq!(found.what, "cannot be looked at: this node has not read the store yet");
        assert_eq!(found.advice, "GET /ready says what it waits for");
    }
}
