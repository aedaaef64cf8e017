//! What the jobs and the notices about them show.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::finding::{Finding, good, look, wrong};

/// A slot that is later than this has been forgotten by someone.
const OVERDUE: SignedDuration = SignedDuration::from_mins(1);
/// Names in one finding.
const NAMES_MAX: usize = 5;

/// What became of messages to people. Of those that are still tried the notes tell.
pub(super) fn of_notices(given_up: &[Value]) -> Finding {
    let Some(last) = given_up.first() else {
        return good("notices", "every notice has arrived, or is on its way");
    };
    let why = last["error"].as_str().unwrap_or("nobody knows why");
    let what = format!("{} notice(s) were given up; the last because of: {why}", given_up.len());
    let advice = "`chronos notify list --state givenUp` lists them, `chronos notify retry ID` sends one again, \
        `chronos notify test` tries out the way";
    wrong("notices", what, advice)
}

/// Jobs that name somebody, on a server that can tell nobody.
pub(super) fn of_channels(status: &Value, jobs: &[Value]) -> Option<Finding> {
    // A version before this one does not say.
    let none = status["channels"].as_array().is_some_and(Vec::is_empty) && status["engine"] != "shadow";
    let names = |job: &&Value| job["owner"].as_str().is_some_and(|owner| owner.contains('@'));
    let count = jobs.iter().filter(names).count();
    (none && count > 0).then(|| {
        let what = format!("{count} job(s) have an owner with an address, and nobody is told: there is no channel");
        let advice = "start the server with --mail_server and --mail_from, or another channel, and try `chronos notify test`";
        look("notices", what, advice)
    })
}

/// What the list of jobs shows.
pub(super) fn of_jobs(jobs: &[Value], now: Timestamp) -> Vec<Finding> {
    let names = |found: Vec<&Value>| {
        let shown: Vec<&str> = found.iter().take(NAMES_MAX).filter_map(|job| job["name"].as_str()).collect();
        let more = found.len() - shown.len();
        let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
        (found.len(), shown.join(", ") + &rest)
    };
    let which = |holds: &dyn Fn(&Value) -> bool| names(jobs.iter().filter(|job| holds(job)).collect());
    let active = |job: &Value| job["disabled"] != true && job["paused"].is_null();
    let due = |job: &Value| job["next"].as_str().and_then(|next| next.parse::<Timestamp>().ok());
    let mut findings = vec![good("jobs", format!("{} jobs", jobs.len()))];
    let (count, list) =
        which(&|job| active(job) && due(job).is_some_and(|due| now.duration_since(due) > OVERDUE));
    if count > 0 {
        let what = format!("{count} job(s) have slots that are overdue: {list}");
        findings.push(wrong("slots", what, "`chronos why JOB` says what keeps them"));
    }
    let (count, list) = which(&|job| job["status"] == "failure");
    if count > 0 {
        let what = format!("{count} job(s) failed when they last ran: {list}");
        findings.push(look("failing", what, "`chronos logs JOB` shows what they said"));
    }
    let (count, list) = which(&|job| job["exhausted"] == true);
    if count > 0 {
        let what = format!("{count} job(s) have no slots left: {list}");
        findings.push(look("ended", what, "give them another schedule, or delete them"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::doctor::finding::Grade;

    #[test]
    fn owners_without_a_channel_are_told_of() {
        let jobs =
            [json!({ "name": "a", "owner": "ops@example.org" }), json!({ "name": "b", "owner": "ann" })];
        let mut status = json!({ "engine": "local" });
        assert!(of_channels(&status, &jobs).is_none(), "an older version says nothing of it");
        status["channels"] = json!([]);
        assert!(of_channels(&status, &jobs).is_some_and(|told| told.what.starts_with("1 job(s)")));
        assert!(of_channels(&status, &jobs[1..]).is_none());
        status["channels"] = json!(["mail"]);
        assert!(of_channels(&status, &jobs).is_none());
    }

    #[test]
    fn people_who_were_not_told() {
        assert_eq!(of_notices(&[]).grade, Grade::Good);
        let found = of_notices(&[json!({ "id": 7, "error": "550 no such user" }), json!({ "id": 3 })]);
        assert_eq!(found.grade, Grade::Wrong);
        assert!(
            found.what.starts_with("2 notice(s)") && found.what.ends_with("550 no such user"),
            "{found:?}"
        );
        assert!(found.advice.contains("chronos notify retry"));
    }

    #[test]
    fn jobs_that_need_someone() {
        let late = json!({ "name": "late", "next": "2029-12-31T23:00:00Z", "status": "fresh" });
        let mut paused = late.clone();
        paused["paused"] = json!({});
        let failing = json!({ "name": "bad", "next": "2031-01-01T00:00:00Z", "status": "failure" });
        let over = json!({ "name": "over", "exhausted": true, "disabled": true, "status": "success" });
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let findings = of_jobs(&[late, paused, failing, over], now);
        let told: Vec<_> =
            findings.iter().map(|found| (&*found.leg, found.grade, found.what.as_str())).collect();
        assert_eq!(
            told,
            [
                ("jobs", Grade::Good, "4 jobs"),
                ("slots", Grade::Wrong, "1 job(s) have slots that are overdue: late"),
                ("failing", Grade::Look, "1 job(s) failed when they last ran: bad"),
                ("ended", Grade::Look, "1 job(s) have no slots left: over"),
            ]
        );
    }
}
