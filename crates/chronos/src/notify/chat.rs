//! Slack and Mattermost: `{"text": "<subject>: <message>"}`, as Chronos posted it, once for each notice and not for each
//! owner. What a job has written is only text there: it calls nobody, and hides no link behind other words.

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

/// In Mattermost `@` and a word call somebody, and `](`, `][` and `]:` make links and images of words; with an empty
/// character in between they are text.
pub(super) fn mattermost(letter: &Letter) -> Value {
    let mut text = told(letter).replace('@', "@\u{200b}");
    for link in ["](", "][", "]:"] {
        text = text.replace(link, &format!("]\u{200b}{}", &link[1..]));
    }
    json!({ "text": text })
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
        let mattermost = |body| mattermost(&letter("[prod] [Chronos] s", body))["text"].clone();
        assert_eq!(mattermost("@all"), "[prod] [Chronos] s: @\u{200b}all");
        assert_eq!(
            mattermost("![a](http://b/c.png) [d][e]\n[e]: f"),
            "[prod] [Chronos] s: ![a]\u{200b}(http://b/c.png) [d]\u{200b}[e]\n[e]\u{200b}: f"
        );
    }
}
