//! `chronos doctor`: looks at one leg after the other, and says what to do about what does not hold.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use scheduler::state::ZoneData;
use serde_json::{Value, json};
use store::sqlite::{Inspection, inspect};
use store::{Disk, StoreError};

use super::client::Client;
use super::failure::{Exit, Failure, printable};
use super::progress::bytes;
use super::queries::{pages, text};
use super::{ClientArgs, Format};

pub(super) const HELP: &str = "\
Each line is good (✓), worth a look (!) or wrong (✗), and says what to do.

Exit codes:
  0 nothing is wrong   1 something is   4 no server answers   6 the data folder is not usable

Examples:
  chronos doctor
  chronos doctor --server http://chronos.example.org:4400 --output json
  chronos doctor --data_dir /var/lib/chronos      (without a server)";

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Look at this data folder instead of asking a server
    // No conflict with `--server`, which a variable may have set.
    #[arg(long = "data_dir", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Good,
    Look,
    Wrong,
}

/// One leg.
#[derive(Clone, Debug, PartialEq)]
struct Finding {
    leg: Cow<'static, str>,
    grade: Grade,
    what: String,
    /// What to do; empty where there is nothing to do.
    advice: String,
}

/// A clock that differs by more is worth a look: people compare times of several machines.
const CLOCK_MAX: Duration = Duration::from_secs(5);
/// What a node shows that is older than this is not what it should be.
const STALE: Duration = Duration::from_secs(10);
/// A slot that is later than this has been forgotten by someone.
const OVERDUE: SignedDuration = SignedDuration::from_mins(1);
/// Less room than this is gone within a day of a busy server.
const FREE_MIN: u64 = 1 << 30;
/// Less room than this may be gone within the hour.
const FREE_LEAST: u64 = 100 << 20;
/// Jobs looked at; beyond, a sample is enough to see that something is wrong.
const JOBS_MAX: usize = 200_000;
/// Notices looked at: more than are kept.
const NOTICES_MAX: usize = 1000;
/// Names in one finding.
const NAMES_MAX: usize = 5;

pub(super) async fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let (findings, exit) = match &args.data_dir {
        Some(folder) => {
            let found = inspect(folder);
            let exit = if found.is_err() { Exit::Data } else { Exit::Failed };
            (of_folder(folder, found), exit)
        }
        None => match of_server(&args.client).await {
            Ok(findings) => (findings, Exit::Failed),
            Err(failure) if failure.exit == Exit::Unreachable => {
                (vec![unreachable(&failure)], Exit::Unreachable)
            }
            Err(failure) => return Err(failure),
        },
    };
    tell(&findings, args.client.output)?;
    let wrong = findings.iter().filter(|finding| finding.grade == Grade::Wrong).count();
    if wrong == 0 {
        return Ok(());
    }
    let what = if wrong == 1 { "1 thing is wrong".into() } else { format!("{wrong} things are wrong") };
    Err(Failure::new(exit, anyhow::anyhow!("{what}")).hint("the lines marked ✗ say what to do"))
}

fn tell(findings: &[Finding], format: Format) -> Result<(), Failure> {
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
        return Ok(super::out_json(&list.collect())?);
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
        super::out(lines.as_bytes())?;
    }
    Ok(())
}

fn good(leg: &'static str, what: impl Into<String>) -> Finding {
    Finding { leg: leg.into(), grade: Grade::Good, what: what.into(), advice: String::new() }
}

fn look(leg: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { leg: leg.into(), grade: Grade::Look, what: what.into(), advice: advice.into() }
}

fn wrong(leg: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { leg: leg.into(), grade: Grade::Wrong, what: what.into(), advice: advice.into() }
}

fn unreachable(failure: &Failure) -> Finding {
    wrong("server", told(failure), failure.hint.clone().unwrap_or_default())
}

/// A leg of which the server has not told.
fn unseen(leg: &'static str, failure: &Failure) -> Finding {
    let advice = failure.hint.clone().unwrap_or("ask again when what is wrong above is mended".into());
    wrong(leg, format!("cannot be looked at: {}", told(failure)), advice)
}

fn told(failure: &Failure) -> String {
    let chain: Vec<String> = failure.error.chain().map(ToString::to_string).collect();
    chain.join(": ")
}

async fn of_server(args: &ClientArgs) -> Result<Vec<Finding>, Failure> {
    let client = Client::of(&args.at)?;
    let asked = Timestamp::now();
    let status = match client.get(&["v1", "status"], &[]).await {
        Err(failure) if failure.exit != Exit::Unreachable => {
            let advice = "is there a Chronos server of this version at this URL, and not something else?";
            return Ok(vec![wrong("server", format!("{}: {}", client.shown(), failure.error), advice)]);
        }
        status => status?,
    };
    let answered = Timestamp::now();
    // A leg that cannot be looked at says so, and the next one is looked at.
    let engine = match client.get(&["v1", "engine", "findings"], &[]).await {
        Ok(told) => of_engine(&told),
        Err(failure) if failure.exit == Exit::Unreachable => vec![unseen("engine", &failure)],
        // A version before this one has nothing to say there; that it is another is told above.
        Err(_) => Vec::new(),
    };
    let mut findings = of_status(&client.shown(), &status, &engine, asked, answered);
    findings.extend(engine);
    findings.extend(match client.get(&["v1", "nodes"], &[("ask", "true".into())]).await {
        Ok(told) => of_nodes(&told, &status),
        Err(failure) => vec![unseen("nodes", &failure)],
    });
    let query = vec![("state", "givenUp".into())];
    findings.push(match pages(&client, &["v1", "notices"], query, "notices", NOTICES_MAX).await {
        Ok(given_up) => of_notices(&given_up),
        Err(failure) => unseen("notices", &failure),
    });
    match pages(&client, &["v1", "jobs"], Vec::new(), "jobs", JOBS_MAX).await {
        Ok(jobs) => {
            findings.extend(of_channels(&status, &jobs));
            findings.extend(of_jobs(&jobs, answered));
        }
        Err(failure) => findings.push(unseen("jobs", &failure)),
    }
    Ok(findings)
}

/// What a server says of itself, asked and answered at these times of our own clock. What was found out of its `engine` by
/// looking is not told twice.
fn of_status(
    server: &str,
    status: &Value,
    engine: &[Finding],
    asked: Timestamp,
    answered: Timestamp,
) -> Vec<Finding> {
    let text = |key: &str| status[key].as_str().unwrap_or_default();
    let ours = env!("CARGO_PKG_VERSION");
    let mut findings = vec![if text("version") == ours {
        good("server", format!("{server} answers: Chronos {ours}, node {}", text("node")))
    } else {
        let what = format!("{server} answers: Chronos {}, but this is {ours}", text("version"));
        look("server", what, "use the same version on both sides: commands may not fit the server")
    }];
    let is_found =
        |told: &&str| engine.iter().any(|found| found.grade == Grade::Wrong && told.ends_with(&found.what));
    let reasons: Vec<&str> =
        status["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let is_well = reasons.is_empty();
    // That is told by itself.
    let reasons: Vec<&str> =
        reasons.into_iter().filter(|reason| *reason != "nobody leads" && !is_found(reason)).collect();
    findings.push(match (text("role"), status["leader"].as_str()) {
        ("leading", _) => good("leader", format!("it leads, in term {}", status["epoch"])),
        ("standby", Some(leader)) => good("leader", format!("it stands by; {leader} leads")),
        ("standby", None) => {
            let advice = match &reasons[..] {
                [] => "this node is about to: ask again when the lease of the last leader has run out, 10 s if nobody said \
                       otherwise; if it stays so, see its log",
                _ => "mend what the lines below say: it keeps the nodes from leading",
            };
            wrong("leader", "nobody leads, so nothing is started", advice)
        }
        (role, _) => look("leader", format!("it is {role}"), "ask again in a moment; if it stays so, see its log"),
    });
    let (store, engine) = (text("store"), text("engine"));
    let damage = status["storeDamage"].as_str();
    if is_well {
        let id = status["storeId"].as_str().map(|id| format!(" (id {id})")).unwrap_or_default();
        let what = match damage {
            Some(_) => format!("engine {engine} works, and commits of store {store} are applied"),
            None => format!("store {store}{id} and engine {engine} work"),
        };
        findings.push(good("ready", what));
    }
    let (of_store, others): (Vec<&str>, Vec<&str>) =
        reasons.into_iter().partition(|reason| store_advice(store, reason).is_some());
    for reason in of_store {
        let advice = store_advice(store, reason).unwrap_or_default();
        findings.push(wrong("store", format!("{store}: {reason}"), advice));
    }
    if !others.is_empty() {
        let advice = "until that is mended, runs wait; `chronos why JOB` says so of each";
        findings.push(wrong("ready", others.join("; "), advice));
    }
    if let Some(damage) = damage {
        let what = format!("part of the history cannot be read: {damage}");
        let advice = "jobs go on; what they need can still be saved: `chronos backup --no_history`";
        findings.push(wrong("history", what, advice));
    }
    // What it says it does without, each with what to do about it.
    let notes = status["notes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let notes = notes.filter(|note| damage.is_none_or(|damage| !note.ends_with(damage)) && !is_found(note));
    findings.extend(notes.map(|note| look("note", note, "the server is ready nevertheless: jobs run")));
    if let (Some(used), Some(free)) = (status["storeBytes"].as_u64(), status["diskFree"].as_u64()) {
        findings.push(room(Disk { used, free }));
    }
    findings.extend(clock(text("time"), asked, answered));
    let (theirs, zones) = (text("zoneData"), ZoneData::compiled_in().name());
    findings.push(if theirs == zones {
        good("zones", format!("zone data {theirs}"))
    } else {
        let what = format!("the server computes with zone data {theirs}, this program with {zones}");
        look("zones", what, "times that this program works out itself may differ; use the same version")
    });
    findings
}

/// What to do about a store that is not as it should be, which the reason names; `None` where that is about something else.
fn store_advice(store: &str, reason: &str) -> Option<&'static str> {
    let about_store = ["the store ", "this is the store ", "there is no store ", "this store is empty"];
    if !about_store.iter().any(|begin| reason.starts_with(begin))
        || reason.contains("not been heard from yet")
    {
        return None;
    }
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let where_it_is = match store {
        "postgres" => {
            "see that --database_url is right, that the database runs, and that its port is open to this machine"
        }
        "zookeeper" => {
            "see that --zk_hosts is right, that most of the ensemble run, and that their port is open to this machine"
        }
        _ => "see that the data folder is there, that its disk has room, and that this user may write to it",
    };
    Some(if has(&["--expect_store"]) {
        "correct the address or the path of the store, or --expect_store, and start this node again"
    } else if has(&["newer than"]) {
        "use the newer version of Chronos that wrote it"
    } else if has(&["damaged"]) {
        "keep what is there, and `chronos restore` a backup into an empty store"
    } else if has(&["password", "authentication", "role \"", "permission denied", "--zk_auth"]) {
        "see the name and the password in --database_url or --zk_auth, and what they may do there"
    } else if has(&["database \""]) {
        "make that database, or correct its name in --database_url"
    } else if has(&["lookup", "resolve", "not known"]) {
        "correct the name of the host, or see that this machine can look it up"
    } else if has(&["certificate", "TLS", "SSL"]) {
        "see `sslmode` and `sslrootcert` in --database_url, and the certificate of the database"
    } else {
        where_it_is
    })
}

/// What the engine of the leader found about what it depends on.
fn of_engine(answer: &Value) -> Vec<Finding> {
    let found = |told: &Value| {
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        let grade = match told["grade"].as_str() {
            Some("good") => Grade::Good,
            Some("wrong") => Grade::Wrong,
            _ => Grade::Look,
        };
        Finding { leg: text("leg").into(), grade, what: text("what"), advice: text("advice") }
    };
    answer["findings"].as_array().into_iter().flatten().map(found).collect()
}

/// What the nodes of a cluster say of themselves and of each other, as the node with this status tells it. One node alone has
/// nothing to say.
fn of_nodes(answer: &Value, status: &Value) -> Vec<Finding> {
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

fn room(Disk { used, free }: Disk) -> Finding {
    let what = format!("the store has {}, {} are free", bytes(used), bytes(free));
    let advice = "make room: without it no run can be recorded, and so none is started";
    match free {
        free if free < FREE_LEAST => wrong("disk", what, advice),
        free if free < FREE_MIN => look("disk", what, advice),
        _ => good("disk", what),
    }
}

/// The server read its clock between asking and answering.
fn clock(theirs: &str, asked: Timestamp, answered: Timestamp) -> Option<Finding> {
    let theirs: Timestamp = theirs.parse().ok()?;
    let off = if theirs < asked { asked.duration_since(theirs) } else { theirs.duration_since(answered) };
    Some(if off.unsigned_abs() > CLOCK_MAX && off.is_positive() {
        let way = if theirs < asked { "behind" } else { "ahead of" };
        let what = format!("its clock is {} s {way} the one here", off.as_secs());
        look("clock", what, "slots are due by the clock of the server: see that its time service runs")
    } else {
        good("clock", "it agrees with the one here")
    })
}

/// What became of messages to people. Of those that are still tried the notes tell.
fn of_notices(given_up: &[Value]) -> Finding {
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
fn of_channels(status: &Value, jobs: &[Value]) -> Option<Finding> {
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
fn of_jobs(jobs: &[Value], now: Timestamp) -> Vec<Finding> {
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

fn of_folder(folder: &Path, found: Result<Inspection, StoreError>) -> Vec<Finding> {
    let shown = folder.display();
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            let advice = match &error {
                StoreError::Newer { .. } => "use the newer version of Chronos that wrote it",
                StoreError::Damaged(_) => {
                    "move it away, start a server on an empty folder, and `chronos restore` a backup"
                }
                _ => "name the folder that the server was given with --data_dir",
            };
            return vec![wrong("store", error.to_string(), advice)];
        }
    };
    let mut findings = vec![good("store", format!("{shown}: {} jobs, change {}", found.jobs, found.seq.0))];
    findings.push(if found.faults.is_empty() {
        good("file", "SQLite finds the file whole")
    } else {
        let advice = "stop the server, keep a copy, and restore the last backup";
        wrong("file", format!("SQLite finds faults: {}", found.faults.join("; ")), advice)
    });
    findings.push(if found.version == found.newest {
        good("schema", format!("schema {}, that of this program", found.version))
    } else {
        let what = format!("schema {}; this program's is {}", found.version, found.newest);
        look("schema", what, "the next server of this version converts it; take a backup before")
    });
    findings.push(match &found.holder {
        Some(holder) => {
            let at = holder.addresses.first().map(String::as_str).unwrap_or("an unknown address");
            good("leader", format!("process {} leads here, at {at}", holder.pid))
        }
        None => good("leader", "no server leads here now"),
    });
    if !found.writable {
        let advice = "make the folder and its files writable for the user of the server";
        findings.push(look("rights", "this user may not write here", advice));
    }
    findings.extend(found.disk.map(room));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn status() -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"), "node": "n", "role": "leading", "epoch": 3, "reasons": [],
            "leader": "here:1", "store": "sqlite", "engine": "local", "time": "2030-01-01T00:00:00Z",
            "zoneData": ZoneData::compiled_in().name(), "storeBytes": 4096, "diskFree": 1u64 << 40,
        })
    }

    #[test]
    fn owners_without_a_channel_are_told_of() {
        let jobs =
            [json!({ "name": "a", "owner": "ops@example.org" }), json!({ "name": "b", "owner": "ann" })];
        let mut status = status();
        assert!(of_channels(&status, &jobs).is_none(), "an older version says nothing of it");
        status["channels"] = json!([]);
        assert!(of_channels(&status, &jobs).is_some_and(|told| told.what.starts_with("1 job(s)")));
        assert!(of_channels(&status, &jobs[1..]).is_none());
        status["channels"] = json!(["mail"]);
        assert!(of_channels(&status, &jobs).is_none());
    }

    #[track_caller]
    fn check(change: &[(&str, Value)], leg: &str, grade: Grade, said: &str) {
        let mut status = status();
        for (key, value) in change {
            status[*key] = value.clone();
        }
        let now = at("2030-01-01T00:00:00Z");
        let findings = of_status("http://x", &status, &[], now, now);
        let found = findings.iter().find(|finding| finding.leg == leg).expect("it is looked at");
        assert_eq!((found.grade, found.what.contains(said)), (grade, true), "{found:?}");
        assert_eq!(found.advice.is_empty(), grade == Grade::Good, "{found:?}");
        let worst = findings.iter().filter(|finding| finding.leg != leg).map(|finding| finding.grade).max();
        assert!(worst <= Some(Grade::Good), "{findings:?}");
    }

    #[test]
    fn each_leg_by_itself() {
        check(&[], "server", Grade::Good, "answers");
        check(&[("version", json!("0.0.1"))], "server", Grade::Look, "0.0.1");
        check(&[("role", json!("standby"))], "leader", Grade::Good, "here:1 leads");
        let nobody =
            [("role", json!("standby")), ("leader", Value::Null), ("reasons", json!(["nobody leads"]))];
        check(&nobody, "leader", Grade::Wrong, "nobody leads");
        check(&[("role", json!("preparing"))], "leader", Grade::Look, "preparing");
        check(&[("reasons", json!(["disk full"]))], "ready", Grade::Wrong, "disk full");
        let away = "the store is not available: PostgreSQL at a:1/d: Connection refused (os error 111)";
        check(&[("reasons", json!([away]))], "store", Grade::Wrong, "a:1/d: Connection refused");
        check(&[("notes", json!(["no memory limits here"]))], "note", Grade::Look, "no memory limits");
        let told = [("storeDamage", json!("page 7")), ("notes", json!(["cannot be read: page 7"]))];
        check(&told, "history", Grade::Wrong, "page 7");
        check(&[("diskFree", json!(1u64 << 29))], "disk", Grade::Look, "512.00 MiB are free");
        check(&[("diskFree", json!(1u64 << 20))], "disk", Grade::Wrong, "1.00 MiB are free");
        check(&[("time", json!("2030-01-01T00:01:00Z"))], "clock", Grade::Look, "60 s ahead of");
        check(&[("time", json!("2029-12-31T23:59:00Z"))], "clock", Grade::Look, "60 s behind");
        check(&[("time", json!("2030-01-01T00:00:03Z"))], "clock", Grade::Good, "agrees");
        check(&[("zoneData", json!("1999a"))], "zones", Grade::Look, "1999a");
    }

    #[test]
    fn each_trouble_of_a_store_has_its_advice() {
        let check = |store, reason: &str, advice: &str| {
            let told = store_advice(store, reason);
            assert!(told.is_some_and(|told| told.contains(advice)), "{reason}: {told:?}");
        };
        check(
            "postgres",
            "the store is not available: PostgreSQL at a:1/d: Connection refused",
            "--database_url is right",
        );
        check(
            "postgres",
            "the store is not available: .. password authentication failed for user \"u\"",
            "password in",
        );
        check(
            "postgres",
            "the store is not available: .. database \"d\" does not exist",
            "make that database",
        );
        check(
            "postgres",
            "the store is not available: .. failed to lookup address information",
            "look it up",
        );
        check("postgres", "the store has format 9, which is newer than 4, the newest ..", "newer version");
        check(
            "zookeeper",
            "the store is not available: no server of the ensemble `a:1` answers; see --zk_hosts",
            "--zk_hosts is",
        );
        check("zookeeper", "the store has not answered within 5 s", "most of the ensemble");
        check("zookeeper", "this is the store a, and --expect_store wants b: see ..", "--expect_store");
        check("sqlite", "the store is damaged: ..", "restore");
        for other in
            ["nobody leads", "the store has not been heard from yet", "the local engine is not ready: .."]
        {
            assert_eq!(store_advice("postgres", other), None, "{other}");
        }
    }

    #[test]
    fn a_leg_that_cannot_be_looked_at_is_a_finding() {
        let failure =
            Failure::new(Exit::Unreachable, anyhow::anyhow!("this node has not read the store yet"));
        let found = unseen("jobs", &failure.hint("GET /ready says what it waits for"));
        assert_eq!((&*found.leg, found.grade), ("jobs", Grade::Wrong));
        assert_eq!(found.what, "cannot be looked at: this node has not read the store yet");
        assert_eq!(found.advice, "GET /ready says what it waits for");
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

    #[test]
    fn what_was_found_of_the_engine_is_not_told_twice() {
        let reason = "no supervisor of local tasks can be reached in /x";
        let mut status = status();
        status["reasons"] = json!([format!("the local engine is not ready: {reason}"), "disk full"]);
        status["notes"] = json!([format!("jobs with a container wait: {reason}")]);
        let now = at("2030-01-01T00:00:00Z");
        let told = |engine: &[Finding]| -> Vec<String> {
            let found = of_status("http://x", &status, engine, now, now);
            found.into_iter().filter(|found| found.grade != Grade::Good).map(|found| found.what).collect()
        };
        let found = [good("docker", "Docker answers"), wrong("local", reason, "see its log")];
        assert_eq!(told(&found), ["disk full"]);
        assert_eq!(told(&found[..1]).len(), 2);
    }

    #[test]
    fn what_the_engine_depends_on() {
        assert_eq!(of_engine(&json!({ "findings": [] })), []);
        let told = json!({ "findings": [
            { "leg": "master", "grade": "good", "what": "it leads", "advice": "" },
            { "leg": "webui", "grade": "look", "what": "nobody answers", "advice": "--webui_url" },
            { "leg": "framework", "grade": "wrong", "what": "not listed", "advice": "restart" },
        ]});
        assert_eq!(
            of_engine(&told),
            [
                good("master", "it leads"),
                look("webui", "nobody answers", "--webui_url"),
                wrong("framework", "not listed", "restart"),
            ]
        );
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
        let findings = of_jobs(&[late, paused, failing, over], at("2030-01-01T00:00:00Z"));
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
