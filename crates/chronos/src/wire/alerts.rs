//! What a job says about telling people: `alerts`, and `owner`, which is who is told.

use std::sync::Arc;

use scheduler::notice::{AlertKind, AlertKinds, AlertRules};
use serde_json::{Map, Value};

use super::duration;
use super::shape::{Problem, Shape, optional};

const SPAN: Shape = Shape::Span(std::time::Duration::from_secs(1), super::shape::SPAN_MAX);

/// The shape of `alerts`.
pub(super) const ALERTS: Shape = Shape::Object(&[
    optional(
        "on",
        Shape::List(&Shape::Word(&[
            "failed",
            "recovered",
            "missed",
            "disabled",
            "killed",
            "late",
            "longRunning",
            "deleted",
            "exhausted",
        ])),
    ),
    optional("lateAfter", SPAN),
    optional("longRunningAfter", SPAN),
    optional("to", Shape::List(&Shape::Text)),
]);

/// What the scheduler shall know of it. `None` where nobody is named and nothing is said.
pub(super) fn rules(
    fields: &Map<String, Value>,
    warnings: &mut Vec<String>,
) -> Result<Option<Arc<AlertRules>>, Problem> {
    let owner = fields.get("owner").and_then(Value::as_str).unwrap_or_default();
    let alerts = fields.get("alerts").and_then(Value::as_object);
    let span = |key: &str| alerts?.get(key)?.as_str().and_then(duration::parse);
    let (late_after, long_running_after) = (span("lateAfter"), span("longRunningAfter"));
    let on = match alerts.and_then(|alerts| alerts.get("on")).and_then(Value::as_array) {
        Some(words) => words.iter().filter_map(Value::as_str).filter_map(AlertKind::of).collect(),
        None => AlertKinds::default(),
    };
    for (kind, length, given) in [
        (AlertKind::Late, "lateAfter", late_after.is_some()),
        (AlertKind::LongRunning, "longRunningAfter", long_running_after.is_some()),
    ] {
        if on.contains(kind) && !given {
            let message = format!("`alerts.on` names {}, but `alerts.{length}` is missing", kind.word());
            let hint = format!("say after how long, as in \"{length}\": \"10m\"");
            return Err(Problem::invalid("alerts.on", message, &hint));
        }
    }
    let to = match alerts.and_then(|alerts| alerts.get("to")).and_then(Value::as_array) {
        Some(to) => {
            for (i, text) in to.iter().filter_map(Value::as_str).enumerate() {
                if !is_address(text) {
                    let message = format!("`alerts.to[{i}]`: {} is not a mail address", clip(text));
                    return Err(Problem::invalid("alerts.to", message, "write it like ops@example.org"));
                }
            }
            unique(to.iter().filter_map(Value::as_str))
        }
        None => owners(owner, warnings),
    };
    if to.len() > AlertRules::RECIPIENTS_MAX {
        let field =
            if alerts.is_some_and(|alerts| alerts.contains_key("to")) { "alerts.to" } else { "owner" };
        let message = format!(
            "`{field}` names {} addresses; at most {} are told",
            to.len(),
            AlertRules::RECIPIENTS_MAX
        );
        return Err(Problem::invalid(field, message, "make a mailing list of them"));
    }
    let rules = AlertRules { on, late_after, long_running_after, to };
    Ok((rules != AlertRules::default()).then(|| rules.into()))
}

/// Chronos split at commas and took whatever it found; blanks and semicolons stand between addresses too.
fn owners(owner: &str, warnings: &mut Vec<String>) -> Vec<Arc<str>> {
    // `Ops <ops@example.org>` is an address with a name before it.
    let bare = |part| str::strip_prefix(part, '<').and_then(|part| part.strip_suffix('>')).unwrap_or(part);
    let parts = owner.split([',', ';']).flat_map(str::split_whitespace).map(bare);
    let (good, bad): (Vec<&str>, Vec<&str>) = parts.partition(|part| is_address(part));
    if !bad.is_empty() {
        let told = if good.is_empty() { "nobody" } else { "only the others" };
        warnings.push(format!(
            "`owner`: {} is not a mail address: {told} will be told by mail",
            clip(&bad.join(" "))
        ));
    }
    unique(good.into_iter())
}

fn is_address(text: &str) -> bool {
    text.len() <= 254 && text.parse::<lettre::Address>().is_ok()
}

fn unique<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Arc<str>> {
    let mut seen: Vec<Arc<str>> = Vec::new();
    for text in texts {
        if !seen.iter().any(|known| **known == *text) {
            seen.push(text.into());
        }
    }
    seen
}

fn clip(text: &str) -> String {
    let clipped: String = text.chars().take(60).collect();
    format!("{clipped:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(fields: Value) -> (Result<Option<Arc<AlertRules>>, String>, Vec<String>) {
        let mut warnings = Vec::new();
        let fields = fields.as_object().expect("an object").clone();
        (rules(&fields, &mut warnings).map_err(|problem| problem.message), warnings)
    }

    #[track_caller]
    fn told(fields: Value, to: &[&str], warns: &[&str]) {
        let (rules, warnings) = read(fields);
        let rules = rules.expect("it is taken").map_or_else(Vec::new, |rules| rules.to.clone());
        assert_eq!(rules.iter().map(|to| &**to).collect::<Vec<_>>(), to);
        assert_eq!(warnings, warns);
    }

    #[test]
    fn the_owner_is_told_unless_somebody_else_is_named() {
        told(json!({}), &[], &[]);
        told(json!({"owner": ""}), &[], &[]);
        told(json!({"owner": " a@x.org,b@x.org a@x.org;c@x.org, "}), &["a@x.org", "b@x.org", "c@x.org"], &[]);
        told(json!({"owner": "a@x.org", "alerts": {"to": ["b@x.org"]}}), &["b@x.org"], &[]);
        told(json!({"owner": "a@x.org", "alerts": {"to": []}}), &[], &[]);
        told(
            json!({"owner": "Ops <a@x.org>"}),
            &["a@x.org"],
            &["`owner`: \"Ops\" is not a mail address: only the others will be told by mail"],
        );
        told(
            json!({"owner": "ops team"}),
            &[],
            &["`owner`: \"ops team\" is not a mail address: nobody will be told by mail"],
        );
        told(
            json!({"owner": "a@x.org, ops\r\nBcc:x@y"}),
            &["a@x.org"],
            &["`owner`: \"ops Bcc:x@y\" is not a mail address: only the others will be told by mail"],
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |fields: Value, why: &str| {
            let error = read(fields).0.expect_err("it should be refused");
            assert!(error.contains(why), "{error}");
        };
        refused(json!({"alerts": {"on": ["late"]}}), "`alerts.lateAfter` is missing");
        refused(json!({"alerts": {"on": ["longRunning"]}}), "`alerts.longRunningAfter` is missing");
        refused(json!({"alerts": {"to": ["ops"]}}), "`alerts.to[0]`: \"ops\" is not a mail address");
        let crowd: Vec<String> = (0..9).map(|n| format!("{n}@x.org")).collect();
        refused(json!({ "owner": crowd.join(",") }), "`owner` names 9 addresses; at most 8");
    }

    #[test]
    fn a_length_turns_its_kind_on_and_defaults_cost_nothing() {
        let (rules, _) = read(json!({"alerts": {"lateAfter": "10m"}}));
        let rules = rules.expect("it is taken").expect("it says something");
        assert!(
            rules.wants(AlertKind::Late) && rules.wants(AlertKind::Failed) && !rules.wants(AlertKind::Killed)
        );
        assert_eq!(read(json!({"alerts": {}})).0, Ok(None));
        let (rules, _) = read(json!({"alerts": {"on": []}}));
        assert!(!rules.expect("it is taken").expect("it says something").wants(AlertKind::Failed));
    }
}
