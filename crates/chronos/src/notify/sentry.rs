//! Sentry: one event for each notice, with the tags and extras that Chronos sent through Raven. The id of an event follows
//! from that of the notice, so a repeat is known as one.

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use scheduler::notice::{AlertKind, Notice};
use serde_json::{Map, Value, json};

use super::Letter;
use super::webhook::{COUNTED, alert_json, as_text, uris};

/// Longest message that is sent: Sentry cuts off what is longer.
const MESSAGE_MAX: usize = 8000;
/// Longest value of a tag: Sentry refuses longer ones.
const TAG_MAX: usize = 200;

/// An event about a notice: its first job as tags, the counters after what happened as extras.
pub(super) fn event(
    cluster: &str,
    notice: &Notice,
    letter: &Letter,
    job: Option<&Map<String, Value>>,
) -> Value {
    let field = |key: &str| job.and_then(|job| job.get(key)).map(as_text).unwrap_or_default();
    let name = notice.alerts.first().map_or("", |alert| alert.name.as_str()).to_owned();
    let tags = [("owner", field("owner")), ("job", name), ("command", field("command"))];
    let tags: Map<String, Value> = tags
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), clipped(&value.replace('\n', " "), TAG_MAX).into()))
        .collect();
    let mut extra = Map::new();
    for key in COUNTED {
        extra.insert(key.into(), field(key).into());
    }
    extra.insert("uris".into(), job.map(uris).unwrap_or_default().into());
    extra.insert("alerts".into(), notice.alerts.iter().map(alert_json).collect());
    // Where nothing is wrong any more, Chronos said nothing.
    let well =
        |kind: &AlertKind| matches!(kind, AlertKind::Recovered | AlertKind::Exhausted | AlertKind::Deleted);
    let level = if notice.counts.keys().all(well) { "info" } else { "error" };
    whole(letter, level, &fingerprint(cluster, notice), tags, extra)
}

/// What makes one issue of many events: the job and what became of it, in its cluster. So a nightly failure is one, the
/// nights on which the same job is late are another, and how the message goes on is for neither. Of several jobs it is
/// the kinds alone.
fn fingerprint(cluster: &str, notice: &Notice) -> Vec<String> {
    let mut names: Vec<&str> = notice.alerts.iter().map(|alert| alert.name.as_str()).collect();
    names.dedup();
    let all_told = notice.count() == notice.alerts.len() as u64;
    let job = Some(names.first().copied().unwrap_or_default()).filter(|_| all_told && names.len() == 1);
    let kinds = notice.counts.keys().map(|kind| kind.word());
    let parts = ["chronos", cluster].into_iter().filter(|part| !part.is_empty()).chain(job).chain(kinds);
    parts.map(str::to_owned).collect()
}

/// An event about nothing.
pub(super) fn test(letter: &Letter) -> Value {
    whole(letter, "info", &["chronos".into(), "test".into()], Map::new(), Map::new())
}

fn whole(
    letter: &Letter,
    level: &str,
    fingerprint: &[String],
    tags: Map<String, Value>,
    extra: Map<String, Value>,
) -> Value {
    let message = format!("{}\n\n{}", letter.subject, letter.body);
    json!({
        "event_id": event_id(&letter.id),
        "timestamp": seconds(letter.created),
        "platform": "other",
        "logger": "chronos",
        "level": level,
        "message": clipped(message.trim_end(), MESSAGE_MAX),
        "fingerprint": fingerprint,
        "tags": tags,
        "extra": extra,
    })
}

/// 32 hexadecimal digits, as Sentry wants them.
fn event_id(id: &str) -> String {
    digest(&SHA256, id.as_bytes()).as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Without fractions and zone, which all versions of Sentry read.
fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

fn clipped(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use scheduler::ids::{JobName, JobUid};
    use scheduler::notice::{Address, Alert, Channel, NoticeId, NoticeState};

    use super::*;

    /// Of the kinds and jobs that are told at once; what is not told is only counted.
    #[test]
    fn what_is_one_issue_is_said_by_job_and_kind() {
        use AlertKind::{Failed, Late};
        let check = |cluster: &str, alerts: &[(&str, AlertKind)], more: u64, expected: &[&str]| {
            let mut notice = Notice {
                id: NoticeId(1),
                address: Address { channel: Channel::Sentry, to: "".into() },
                created: Timestamp::UNIX_EPOCH,
                alerts: Vec::new(),
                counts: Default::default(),
                attempts: 0,
                tried: None,
                give_up: Timestamp::UNIX_EPOCH,
                error: None,
                state: NoticeState::Sending,
            };
            for (name, kind) in alerts {
                notice.add(Alert {
                    kind: *kind,
                    job: JobUid(1),
                    name: JobName::new(name).expect("a name"),
                    run: None,
                    due: Timestamp::UNIX_EPOCH,
                    at: Timestamp::UNIX_EPOCH,
                    slots: 1,
                    detail: "in other words each time".into(),
                });
            }
            notice.counts.values_mut().take(1).for_each(|count| *count += more);
            assert_eq!(fingerprint(cluster, &notice), expected, "{alerts:?}");
        };
        check("", &[("a", Failed)], 0, &["chronos", "a", "failed"]);
        check("prod", &[("a", Failed), ("a", Failed)], 0, &["chronos", "prod", "a", "failed"]);
        check("prod", &[("a", Late)], 0, &["chronos", "prod", "a", "late"]);
        check("", &[("a", Failed), ("b", Failed)], 0, &["chronos", "failed"]);
        check("", &[("a", Failed)], 7, &["chronos", "failed"]);
    }

    #[test]
    fn an_id_is_one_that_sentry_takes_and_always_the_same() {
        let id = event_id("7.1893456000000");
        assert_eq!((id.len(), &id), (32, &event_id("7.1893456000000")));
        assert!(id.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(id, event_id("8.1893456000000"));
        assert_eq!(clipped("aé", 2), "a");
    }
}
