//! What the nodes of a cluster say of themselves and of each other, judged.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;

use super::finding::{Finding, good, look, wrong};
use super::status::{CLOCK_MAX, store_advice};
use crate::cli::queries::text;

/// What a node shows that is older than this is not what it should be.
const STALE: Duration = Duration::from_secs(10);

/// What the nodes of a cluster say of themselves and of each other, as the node with this status tells it. One node alone has
/// nothing to say.
pub(super) fn of_nodes(answer: &Value, status: &Value) -> Vec<Finding> {
    let nodes = answer["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let store = status["store"].as_str().unwrap_or_default();
    let nobody_leads = status["role"] == "standby" && status["leader"].is_null();
    let mut findings = Vec::new();
    // Where the store is a file, standbys are the exception, and never listed.
    if let Some(omitted) = answer["omitted"].as_str().filter(|_| store != "sqlite") {
        findings.push(look("nodes", omitted, "ask each of them: `chronos doctor --server` of that node"));
    }
    if nodes.len() < 2 {
        return findings;
    }
    let heard: Vec<&Value> = nodes.iter().filter(|node| node["heard"] == true).collect();
    findings.push(good("nodes", format!("{} nodes, {} of them heard of lately", nodes.len(), heard.len())));
    findings.extend(nodes.iter().filter(|node| node["heard"] != true).map(of_silent));
    let reach = heard.iter().filter(|node| node["leaderAt"].is_string()).count();
    if reach > 0 {
        findings.push(good("path", format!("{reach} node(s) reach the leader")));
    }
    findings.extend(of_clocks(&heard));
    for node in &heard {
        let name = text(&node["node"]);
        if let Some(why) = node["leaderLost"].as_str() {
            let advice = "give the leader an address that this node can reach: --advertise_address, or --hostname; or open \
                          its port between the two";
            findings.push(wrong("path", format!("node {name} cannot reach the leader: {why}"), advice));
        }
        let age = node["ageMs"].as_u64().map(Duration::from_millis);
        if let Some(age) = age.filter(|age| *age > STALE) {
            let what = format!("what node {name} shows is {} s old", age.as_secs());
            findings.push(look(
                "age",
                what,
                "see whether it reaches the store: `chronos doctor --server` of that node",
            ));
        }
        let (version, ours) = (text(&node["version"]), text(&nodes[0]["version"]));
        if version != ours {
            let what = format!("node {name} is Chronos {version}, the first one {ours}");
            findings.push(look("version", what, "bring all nodes to one version"));
        }
        // What keeps the node that was asked is told with its status, and whose clock is off with the clocks.
        let troubles = node["troubles"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let troubles = troubles
            .filter(|trouble| node["this"] != true && !trouble.starts_with("the clock of this machine is "));
        for trouble in troubles {
            let what = format!("node {name}: {trouble}");
            let advice = store_advice(store, trouble);
            findings.push(if nobody_leads {
                wrong(
                    "node",
                    what,
                    advice.unwrap_or("until that is mended this node does not lead, nor does another"),
                )
            } else {
                look("node", what, advice.unwrap_or("until that is mended this node does not do its part"))
            });
        }
    }
    findings
}

/// A node that says nothing through the store. Whether it is off is a matter of life and death for its tasks.
fn of_silent(node: &Value) -> Finding {
    let name = text(&node["node"]);
    let silent = node["saidMs"].as_u64().unwrap_or_default() / 1000;
    match node["answersAt"].as_str() {
        Some(at) => {
            let what = format!(
                "node {name} has said nothing for {silent} s, and answers at {at}: it is alive, cut off from the store"
            );
            let advice = "see from there why it does not reach the store: `chronos doctor --server` of that address; do not \
                          forget it, its tasks may run";
            wrong("nodes", what, advice)
        }
        None => {
            let what = format!("node {name} has said nothing for {silent} s, and does not answer");
            let advice = "start it again; or be sure that it is off, and say with `chronos node forget` that it will not \
                          come back";
            look("nodes", what, advice)
        }
    }
}

/// How far the clocks of the nodes are from that of the store. Where all are, and agree, it is the store's that is off.
fn of_clocks(heard: &[&Value]) -> Vec<Finding> {
    let clock = |node: &&Value| {
        Some((text(&node["node"]), SignedDuration::from_millis(node["clockAheadMs"].as_i64()?)))
    };
    let clocks: Vec<(String, SignedDuration)> = heard.iter().filter_map(clock).collect();
    let shown = |ahead: SignedDuration| {
        let way = if ahead.is_negative() { "behind" } else { "ahead of" };
        format!("{} s {way} that of the store", ahead.unsigned_abs().as_secs())
    };
    let off: Vec<_> = clocks.iter().filter(|(_, ahead)| ahead.unsigned_abs() > CLOCK_MAX).collect();
    let (least, most) =
        (clocks.iter().map(|(_, ahead)| *ahead).min(), clocks.iter().map(|(_, ahead)| *ahead).max());
    let (Some(least), Some(most)) = (least, most) else { return Vec::new() };
    if off.is_empty() {
        let what = format!(
            "those of {} node(s) are within {} s of that of the store",
            clocks.len(),
            CLOCK_MAX.as_secs()
        );
        return vec![good("clock", what)];
    }
    if off.len() == clocks.len() && clocks.len() > 1 && (most - least).unsigned_abs() <= CLOCK_MAX {
        let what =
            format!("all {} nodes agree, and are {}, so none of them may lead", clocks.len(), shown(least));
        let advice = "the clock of the store's server is off: see that the time service runs there";
        return vec![wrong("clock", what, advice)];
    }
    let told = |(name, ahead): &(String, SignedDuration)| {
        let what = format!("the clock of node {name} is {}, so it does not lead", shown(*ahead));
        wrong("clock", what, "see that the time service runs there and on the store")
    };
    off.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::doctor::finding::Grade;

    /// Of the node that was asked.
    fn status() -> Value {
        json!({ "role": "leading", "leader": "here:1", "store": "sqlite" })
    }

    #[test]
    fn nodes_that_need_someone() {
        let node = |name: &str| {
            json!({
                "node": name, "heard": true, "saidMs": 500, "version": "1", "role": "standby", "ageMs": 900,
                "clockAheadMs": -200, "troubles": [],
            })
        };
        assert_eq!(of_nodes(&json!({ "nodes": [node("alone")] }), &status()), []);
        let told = |nodes: Vec<Value>| {
            let findings = of_nodes(&json!({ "nodes": nodes }), &status());
            let all: Vec<_> =
                findings.into_iter().map(|found| (found.leg, found.grade, found.what)).collect();
            all
        };
        let mut follower = node("b");
        follower["leaderAt"] = json!("10.0.0.1:4400");
        assert_eq!(
            told(vec![node("a"), follower]),
            [
                ("nodes".into(), Grade::Good, "2 nodes, 2 of them heard of lately".into()),
                ("path".into(), Grade::Good, "1 node(s) reach the leader".into()),
                (
                    "clock".into(),
                    Grade::Good,
                    "those of 2 node(s) are within 5 s of that of the store".into()
                ),
            ]
        );
        let mut bad = node("b");
        bad["leaderLost"] = json!("10.0.0.1:4400: no answer within 2 s");
        bad["clockAheadMs"] = json!(-7000);
        bad["ageMs"] = json!(61_000);
        bad["version"] = json!("2");
        bad["troubles"] = json!(["the store is away"]);
        let mut silent = node("c");
        silent["heard"] = json!(false);
        silent["saidMs"] = json!(90_000);
        let mut cut_off = silent.clone();
        cut_off["node"] = json!("d");
        cut_off["answersAt"] = json!("10.0.0.4:4400");
        assert_eq!(
            told(vec![node("a"), bad, silent, cut_off]),
            [
                ("nodes".into(), Grade::Good, "4 nodes, 2 of them heard of lately".into()),
                (
                    "nodes".into(),
                    Grade::Look,
                    "node c has said nothing for 90 s, and does not answer".into()
                ),
                (
                    "nodes".into(),
                    Grade::Wrong,
                    "node d has said nothing for 90 s, and answers at 10.0.0.4:4400: it is alive, cut off from the store"
                        .into()
                ),
                (
                    "clock".into(),
                    Grade::Wrong,
                    "the clock of node b is 7 s behind that of the store, so it does not lead".into()
                ),
                (
                    "path".into(),
                    Grade::Wrong,
                    "node b cannot reach the leader: 10.0.0.1:4400: no answer within 2 s".into()
                ),
                ("age".into(), Grade::Look, "what node b shows is 61 s old".into()),
                ("version".into(), Grade::Look, "node b is Chronos 2, the first one 1".into()),
                ("node".into(), Grade::Look, "node b: the store is away".into()),
            ]
        );
    }

    /// The clocks of the nodes, ahead of the store's in seconds, and what is said of them.
    #[test]
    fn a_clock_that_all_others_disagree_with_is_the_one_that_is_off() {
        let check = |ahead: &[i64], expected: &[(Grade, &str)]| {
            let nodes: Vec<Value> =
                ahead.iter().map(|s| json!({ "node": format!("n{s}"), "clockAheadMs": s * 1000 })).collect();
            let found = of_clocks(&nodes.iter().collect::<Vec<_>>());
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, (grade, said)) in found.iter().zip(expected) {
                let told = format!("{} {}", found.what, found.advice);
                assert!(found.grade == *grade && told.contains(said), "{found:?}");
            }
        };
        check(&[], &[]);
        check(&[1, -4], &[(Grade::Good, "2 node(s)")]);
        check(&[30, 31, 33], &[(Grade::Wrong, "the clock of the store's server is off")]);
        check(&[-30, -31], &[(Grade::Wrong, "all 2 nodes agree, and are 31 s behind")]);
        check(&[30, 0], &[(Grade::Wrong, "the clock of node n30 is 30 s ahead of")]);
        check(&[30, -30], &[(Grade::Wrong, "node n30"), (Grade::Wrong, "node n-30")]);
        check(&[30, 40], &[(Grade::Wrong, "node n30"), (Grade::Wrong, "node n40")]);
        check(&[30], &[(Grade::Wrong, "node n30")]);
    }

    #[test]
    fn what_keeps_other_nodes_is_told_with_what_to_do_and_is_wrong_while_nobody_leads() {
        let away = "the store is not available: PostgreSQL at a:1/d: Connection refused";
        let off = "the clock of this machine is 7.0 s behind that of the store";
        let nodes = json!({ "nodes": [
            { "node": "a", "heard": true, "this": true, "troubles": ["told with its status"] },
            { "node": "b", "heard": true, "troubles": [away, "it is tired", off] },
        ]});
        let found = |status: &Value| -> Vec<Finding> {
            of_nodes(&nodes, status).into_iter().filter(|found| found.leg == "node").collect()
        };
        let mut status = status();
        status["store"] = json!("postgres");
        let told = found(&status);
        let grades: Vec<_> = told.iter().map(|found| (found.grade, found.what.as_str())).collect();
        assert_eq!(
            grades,
            [(Grade::Look, &*format!("node b: {away}")), (Grade::Look, "node b: it is tired")]
        );
        assert!(told[0].advice.contains("--database_url is right"), "{told:?}");
        (status["role"], status["leader"]) = (json!("standby"), Value::Null);
        let told = found(&status);
        assert!(told.iter().all(|found| found.grade == Grade::Wrong), "{told:?}");
        assert!(told[1].advice.contains("nor does another"), "{told:?}");
    }

    #[test]
    fn nodes_that_are_not_listed_are_told_of() {
        let nodes =
            json!({ "nodes": [{ "node": "a" }], "omitted": "other nodes are not listed: it is away" });
        assert_eq!(of_nodes(&nodes, &status()), [], "a standby on the same folder is an exception");
        let mut status = status();
        status["store"] = json!("postgres");
        let [found] = &of_nodes(&nodes, &status)[..] else { panic!("one line") };
        assert_eq!((found.grade, &*found.what), (Grade::Look, "other nodes are not listed: it is away"));
    }
}
