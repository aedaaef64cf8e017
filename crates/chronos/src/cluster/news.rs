//! What a node says of itself to the others, through the store: text that later versions may add to.

use serde::{Deserialize, Serialize};

use super::{Cluster, Way};
use crate::node::{Node, Role};

/// How a node is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct News {
    /// When it began to say this, in milliseconds since its machine was booted: from then on its tasks have their time. It
    /// makes each word another one, so that who hears the same again knows that nothing was said in between; it is
    /// compared with no other clock.
    pub(crate) said_at_ms: u64,
    /// As in `/ready`.
    pub(crate) role: String,
    /// The term that it knows.
    pub(crate) epoch: Option<u64>,
    /// The last change that it has seen.
    pub(crate) seq: Option<u64>,
    /// How old what it shows may be, in milliseconds; none where it leads, or cannot tell.
    pub(crate) age_ms: Option<u64>,
    /// How far its clock is ahead of the store's, in milliseconds.
    pub(crate) clock_ahead_ms: Option<i64>,
    /// Who leads, as it sees it.
    pub(crate) leader: Option<String>,
    /// Where it reaches the leader.
    pub(crate) leader_at: Option<String>,
    /// Why it does not.
    pub(crate) leader_lost: Option<String>,
    /// Its tasks have ended once it has said nothing for so long; none where they would run on.
    pub(crate) tasks_end_after_ms: Option<u64>,
    /// Whether another node, with another id, is started in its place when it ends.
    pub(crate) replaced: bool,
    /// Why it does not do its part.
    pub(crate) troubles: Vec<String>,
}

/// Longest sentence and most of them: news are small.
const SENTENCE_MAX: usize = 500;
const SENTENCES_MAX: usize = 8;

impl News {
    /// How this node is doing now.
    pub(crate) fn of(node: &Node, cluster: &Cluster) -> Self {
        let (status, outlook) = (node.status(), node.outlook());
        let term = node.projection.read().term();
        let (leader_at, leader_lost) = match cluster.way() {
            Way::None => (None, None),
            Way::Found(_, at) => (Some(at.to_string()), None),
            Way::Lost(_, why) => (None, Some(clipped(&why))),
        };
        let leads = matches!(status.role, Role::Leading(_));
        let troubles = status.troubles.into_iter().chain(cluster.login());
        Self {
            said_at_ms: 0,
            role: status.role.word().into(),
            epoch: Some(term.epoch.0),
            seq: Some(term.seq.0),
            age_ms: outlook
                .age()
                .filter(|_| !leads)
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            clock_ahead_ms: outlook
                .clock_ahead
                .map(|ahead| i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX)),
            leader: outlook.leader.as_ref().map(store::Candidate::instance),
            leader_at,
            leader_lost,
            tasks_end_after_ms: None,
            replaced: false,
            troubles: troubles.take(SENTENCES_MAX).map(|text| clipped(&text)).collect(),
        }
    }

    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a node of whatever version said; nothing where it cannot be read.
    pub(crate) fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(SENTENCE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_other_versions_are_read_as_far_as_they_go() {
        let news = News::read(r#"{"role":"standby","seq":7,"somethingNew":[1]}"#);
        assert_eq!(news, News { role: "standby".into(), seq: Some(7), ..News::default() });
        assert_eq!(News::read("not json"), News::default());
    }

    #[test]
    fn the_longest_news_are_taken_by_every_store() {
        let long = clipped(&"\u{1}".repeat(SENTENCE_MAX + 1));
        let news =
            News { leader_lost: Some(long.clone()), troubles: vec![long; SENTENCES_MAX], ..News::default() };
        assert!(news.to_text().len() < store::NEWS_BYTES_MAX - 1024, "{}", news.to_text().len());
    }
}
