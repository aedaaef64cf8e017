//! What is searched for: a text that occurs in a job, without regard to case. A list of 100,000 jobs asks it of every one.

use scheduler::job::Job;

use super::view::command;

/// Whether the text, which is in lower case, occurs in the name, command, owner or labels of a job.
pub(super) fn job_mentions(job: &Job, text: &str) -> bool {
    occurs(job.name.as_str(), text) || tags_mention(job, text) || command_mentions(job, text)
}

/// Whether the text, which is in lower case, occurs in the command of a job.
pub(super) fn command_mentions(job: &Job, text: &str) -> bool {
    may_mention(job, text) && occurs(&command(job), text)
}

/// Whether the text, which is in lower case, occurs in the owner or the labels of a job.
fn tags_mention(job: &Job, text: &str) -> bool {
    let has = |tag: &str| occurs(tag, text);
    // As they are written, so that a key may be searched for together with its value.
    has(&job.rules.owner())
        || job.rules.labels().iter().any(|(key, value)| has(&format!("\"{key}\":\"{value}\"")))
}

/// Whether the text, which is in lower case, may occur in what is stored of a job: a cheap look before an exact one.
/// In JSON only quotes, backslashes and control characters are written otherwise than they are.
fn may_mention(job: &Job, text: &str) -> bool {
    text.contains(|c: char| c == '"' || c == '\\' || c.is_control()) || occurs(&job.body, text)
}

/// Whether the text, which is in lower case, occurs without regard to case. Hardly any job has more than ASCII.
pub(super) fn occurs(haystack: &str, text: &str) -> bool {
    if !haystack.is_ascii() {
        return haystack.to_lowercase().contains(text);
    }
    if text.len() > 64 {
        // Looking at each first letter would be slow where the text repeats it, and nobody searches for so much.
        return haystack.to_ascii_lowercase().contains(text);
    }
    let Some((first, rest)) = text.as_bytes().split_first() else { return true };
    let starts = memchr::memchr2_iter(*first, first.to_ascii_uppercase(), haystack.as_bytes());
    starts
        .map(|at| &haystack.as_bytes()[at + 1..])
        .any(|tail| tail.get(..rest.len()).is_some_and(|start| start.eq_ignore_ascii_case(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_without_regard_to_case() {
        let found = |haystack, text| occurs(haystack, text);
        assert!(found("Make-REPORT", "report") && found("aaB", "ab") && found("x", "") && found("", ""));
        assert!(!found("repor", "report") && !found("", "a") && !found("ab", "b c"));
        assert!(found("STRASSE ÄÖ", "äö") && found("K\u{e9}", "k") && !found("ae", "ä"));
    }

    proptest::proptest! {
        /// Law: it is what a search in the lowered text finds.
        #[test]
        fn it_is_the_same_as_in_lower_case(haystack in "[a-cA-CäÄ ]{0,12}", text in "[a-cä ]{0,3}") {
            proptest::prop_assert_eq!(occurs(&haystack, &text), haystack.to_lowercase().contains(&text));
        }
    }
}
