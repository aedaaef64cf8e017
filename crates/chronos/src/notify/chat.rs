//! Slack and Mattermost: `{"text": "<subject>: <message>"}`, as Chronos posted it, once for each notice and not for each
//! owner. What a job has written is only text there: it links nowhere and calls nobody.

use serde_json::{Value, json};

use super::Letter;

/// In Slack three characters mean something, and are written as its documentation says: with `<!channel>` the output of a
/// job would wake everybody.
pub(super) fn slack(letter: &Letter) -> Value {
    let mut text = String::new();
    for c in told(letter).chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            c => text.push(c),
        }
    }
    json!({ "text": text })
}

/// In Mattermost `@` and a word call somebody; with an empty character between them they are text.
pub(super) fn mattermost(letter: &Letter) -> Value {
    json!({ "text": told(letter).replace('@', "@\u{200b}") })
}

fn told(letter: &Letter) -> String {
    let message = letter.body.trim_end();
    // Of a deleted job Chronos posted `{}`.
    if message.is_empty() { letter.subject.clone() } else { format!("{}: {message}", letter.subject) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(subject: &str, body: &str) -> Letter {
        let created = jiff::Timestamp::UNIX_EPOCH;
        Letter { id: "1.0".into(), created, subject: subject.into(), body: body.into() }
    }

    #[test]
    fn what_is_posted_is_text_and_calls_nobody() {
        let slack = |subject, body| slack(&letter(subject, body))["text"].clone();
        assert_eq!(slack("s", "line 1\nline 2\n"), "s: line 1\nline 2");
        assert_eq!(slack("s", ""), "s");
        assert_eq!(slack("s", "<!channel> a & b"), "s: &lt;!channel&gt; a &amp; b");
        assert_eq!(slack("[größe] 任務", "é"), "[größe] 任務: é");
        let text = mattermost(&letter("s", "@all"))["text"].clone();
        assert_eq!(text, "s: @\u{200b}all");
    }
}
