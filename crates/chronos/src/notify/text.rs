//! What a notice says, for people: a subject and a plain text. Everything that comes from a job is data here: names,
//! messages and output are put into lines of their own, never into a header as they are.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use scheduler::ids::TaskId;
use scheduler::notice::{Alert, AlertKind, Notice};
use scheduler::run::{Attempt, AttemptEnd};

/// What else is known when a notice about one alert is sent.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The zone of the job's schedule and its name, where it has one.
    pub zone: Option<(String, TimeZone)>,
    /// The attempts of the run.
    pub attempts: Vec<Attempt>,
    /// The end of what the run wrote last, one line each.
    pub output: Vec<String>,
    /// Where this server is reached: `host:port`, or `https://host:port`.
    pub server: Option<String>,
}

/// One line, without line breaks or other control characters.
pub fn subject(cluster: &str, notice: &Notice) -> String {
    let mut subject = if cluster.is_empty() { String::new() } else { format!("[{}] ", plain(cluster)) };
    subject.push_str("[Chronos] ");
    match notice.alerts.as_slice() {
        [alert] if notice.count() == 1 => subject.push_str(&headline(alert)),
        _ => {
            let _ = write!(subject, "{} alerts: {}", notice.count(), counts(notice));
        }
    }
    subject
}

/// The text of the message.
pub fn body(notice: &Notice, facts: &Facts) -> String {
    let mut text = match notice.alerts.as_slice() {
        [alert] if notice.count() == 1 => one(alert, facts),
        _ => many(notice),
    };
    if let Some(server) = &facts.server {
        let scheme = if server.contains("://") { "" } else { "http://" };
        let _ = write!(text, "\nServer:    {scheme}{server}\n");
    }
    text
}

fn headline(alert: &Alert) -> String {
    let name = plain(alert.name.as_str());
    match alert.kind {
        // The words of Chronos, which filters of mail may know.
        AlertKind::Failed => format!("job '{name}' failed!"),
        AlertKind::Disabled => format!("job '{name}' disabled"),
        AlertKind::Recovered => format!("job '{name}' recovered"),
        AlertKind::Missed if alert.slots == 1 => format!("job '{name}' missed a slot"),
        AlertKind::Missed => format!("job '{name}' missed {} slots", alert.slots),
        AlertKind::Killed => format!("job '{name}' was killed"),
        AlertKind::Late => format!("job '{name}' is late"),
        AlertKind::LongRunning => format!("job '{name}' runs long"),
        AlertKind::Deleted => format!("Your job '{name}' was deleted!"),
        AlertKind::Exhausted => format!("job '{name}' has no slot left"),
    }
}

fn one(alert: &Alert, facts: &Facts) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{:<10} {value}", format!("{label}:"));
    };
    line("Job", &plain(alert.name.as_str()));
    line("What", &plain(&alert.detail));
    if let Some(run) = alert.run {
        line("Run", &run.to_string());
    }
    line("Due", &in_zone(alert.due, facts.zone.as_ref()));
    line("Noticed", &in_zone(alert.at, facts.zone.as_ref()));
    if !facts.attempts.is_empty() {
        text.push_str("\nAttempts:\n");
        for attempt in &facts.attempts {
            let _ = writeln!(
                text,
                "  {}  {} to {}  {}",
                attempt.number,
                utc(attempt.started.unwrap_or(attempt.launched)),
                utc(attempt.ended),
                end(&attempt.end)
            );
        }
    }
    if let (AlertKind::Failed | AlertKind::Disabled, Some(run), Some(last)) =
        (alert.kind, alert.run, facts.attempts.last())
    {
        // The words of Chronos, which scripts may look for; the retries are those that were made.
        let (retries, task) = (facts.attempts.len() - 1, TaskId::of(&alert.name, run, last.number));
        let _ = write!(text, "\nRetries attempted: {retries}.\nTask id: {task}\n");
    }
    if !facts.output.is_empty() {
        text.push_str("\nLast lines of output:\n");
        for output in &facts.output {
            let _ = writeln!(text, "  {}", plain(output));
        }
    }
    text.push_str("\nTo look further:\n");
    match alert.run {
        Some(run) => {
            let _ = writeln!(text, "  chronos why {run}\n  chronos logs {run}");
        }
        None => {
            let _ = writeln!(text, "  chronos runs {}", plain(alert.name.as_str()));
        }
    }
    text
}

fn many(notice: &Notice) -> String {
    let mut text = format!("{} alerts: {}.\n\n", notice.count(), counts(notice));
    for alert in &notice.alerts {
        let run = alert.run.map(|run| format!(", run {run}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "{}: {}, due {}{run}\n  {}",
            plain(alert.name.as_str()),
            alert.kind.word(),
            utc(alert.due),
            plain(&alert.detail)
        );
    }
    let more = notice.count() - notice.alerts.len() as u64;
    if more > 0 {
        let _ = writeln!(text, "and {more} more.");
    }
    // Runs are listed by their due times, which are before anything could be told of them.
    let from = utc(notice.alerts.iter().map(|alert| alert.due).fold(notice.created, Ord::min));
    let _ = write!(
        text,
        "\nTo look further:\n  chronos runs --outcome failed,timedOut,lost,missed,killed --from {from}\n"
    );
    text
}

fn counts(notice: &Notice) -> String {
    let each = notice.counts.iter().map(|(kind, count)| format!("{count} {}", kind.word()));
    each.collect::<Vec<_>>().join(", ")
}

fn end(end: &AttemptEnd) -> String {
    match end {
        AttemptEnd::Succeeded => "succeeded".into(),
        AttemptEnd::Failed { exit: Some(exit), .. } => format!("exit status {exit}"),
        AttemptEnd::Failed { signal: Some(signal), .. } => format!("signal {signal}"),
        AttemptEnd::Failed { message, .. } => format!("failed: {}", plain(message)),
        AttemptEnd::Killed => "killed".into(),
        AttemptEnd::TimedOut => "timed out".into(),
        AttemptEnd::Lost { message } => format!("lost: {}", plain(message)),
    }
}

/// In the job's zone, where it has one, and in UTC.
fn in_zone(at: Timestamp, zone: Option<&(String, TimeZone)>) -> String {
    let Some((name, zone)) = zone else { return utc(at) };
    let local = at.to_zoned(zone.clone());
    format!("{} {} ({})", local.strftime("%Y-%m-%d %H:%M:%S %:z"), plain(name), utc(at))
}

fn utc(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// Without anything that could end a line or move a cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
