//! A crontab as jobs: what each line becomes, with a reason for every line that becomes none.

use std::collections::BTreeMap;

use jiff::Timestamp;
use scheduler::schedule::{DstPolicy, Schedule, Spread, Zones};
use serde_json::{Map, Value, json};

use super::lines::{Entry, Form, Line, parse};
use super::naming::{fingerprint, slug};
use super::surroundings;
use crate::wire::job::{Door, read_value};

/// Longest comment that becomes a description: longer ones explain the file, not the line.
const DESCRIPTION_LINES: usize = 3;

/// How a crontab is to be read.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) form: Form,
    /// Whose it is, where its lines do not say.
    pub(super) user: Option<String>,
    /// Before every name.
    pub(super) prefix: String,
    /// The zone that cron runs in.
    pub(super) zone: String,
    /// Shown in labels; `None` for standard input.
    pub(super) origin: Option<String>,
}

/// What became of a line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) verdict: Verdict,
    /// What its author should know; one sentence each.
    pub(super) notes: Vec<String>,
}

/// Every line has one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// It is a job now.
    Job { name: String, definition: Value },
    /// It is part of the jobs after it.
    Setting,
    /// It says nothing to cron either.
    Ignored,
    /// Someone must look at it.
    Attention,
}

/// What the settings of a crontab say to the lines after them.
#[derive(Default)]
struct Settings {
    environment: Vec<(String, String)>,
    owner: Option<String>,
    zone: Option<String>,
    shell: Option<String>,
    delay: Option<u64>,
}

/// Reads a whole crontab; one answer for every line.
pub(super) fn convert(bytes: &[u8], reading: &Reading, now: Timestamp) -> Vec<Told> {
    let lines: Vec<Line> = split(bytes).into_iter().map(|line| parse(line, reading.form)).collect();
    let mut names = Names::of(&lines, reading);
    let mut settings = Settings::default();
    let mut comment: Vec<String> = Vec::new();
    let mut told = Vec::with_capacity(lines.len());
    for (i, line) in lines.into_iter().enumerate() {
        let mut notes = Vec::new();
        let block = std::mem::take(&mut comment);
        let verdict = match line {
            Line::Blank => Verdict::Ignored,
            // What stands above a line that has been put out of use is about that one.
            Line::Comment(text) if is_line(&text, reading.form, now) => Verdict::Ignored,
            Line::Comment(text) => {
                comment = block;
                comment.push(text);
                Verdict::Ignored
            }
            Line::Setting { name, value } => settings.take(&name, &value, &mut notes),
            Line::Wrong(why) => {
                notes.push(why);
                Verdict::Attention
            }
            Line::Entry(entry) => {
                let name = names.next(&entry);
                match job(&name, &entry, &settings, &block, reading, now, &mut notes) {
                    Ok(definition) => Verdict::Job { name, definition },
                    Err(why) => {
                        notes = vec![why];
                        Verdict::Attention
                    }
                }
            }
        };
        told.push(Told { number: i + 1, verdict, notes });
    }
    told
}

/// As an editor counts lines: the end of the last one is not the beginning of another.
fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
}

impl Settings {
    fn take(&mut self, name: &str, value: &str, notes: &mut Vec<String>) -> Verdict {
        match name {
            "MAILTO" => {
                self.owner = Some(value.to_owned()).filter(|value| !value.is_empty());
                notes.push(match &self.owner {
                    Some(_) => "noted as owner; output is kept with each run instead of being mailed".into(),
                    None => "no mail is wanted, and none is sent".into(),
                });
            }
            "CRON_TZ" => {
                self.zone = Some(value.to_owned()).filter(|value| !value.is_empty());
                notes.push("the time zone of the schedules after it".into());
            }
            "SHELL" => {
                self.shell = Some(value.to_owned()).filter(|value| !matches!(value.as_str(), "" | "/bin/sh"));
            }
            "RANDOM_DELAY" => match value.parse() {
                Ok(minutes) => self.delay = Some(minutes).filter(|minutes| *minutes > 0),
                Err(_) => {
                    notes.push("`RANDOM_DELAY` is a number of minutes".into());
                    return Verdict::Attention;
                }
            },
            _ => {
                if name.contains(['\n', '=']) || name.is_empty() {
                    notes.push("this is not the name of a variable".into());
                    return Verdict::Attention;
                }
                self.environment.retain(|(known, _)| known != name);
                self.environment.push((name.into(), value.into()));
                notes.push("in the environment of the jobs after it".into());
                if name == "HOME" {
                    notes.push("cron began in that folder too; here each run has a folder of its own".into());
                }
            }
        }
        Verdict::Setting
    }
}

/// Names that do not depend on the place of a line, so that an edited crontab can be imported again.
struct Names {
    prefix: String,
    user: Option<String>,
    /// The least schedule of each command: lines with another one are told apart by it. So the name of a line is the
    /// same when another line comes to run its command, and both are not run by the job of before.
    least: BTreeMap<(String, String), String>,
    given: BTreeMap<String, usize>,
}

impl Names {
    fn of(lines: &[Line], reading: &Reading) -> Self {
        let mut least = BTreeMap::<_, String>::new();
        for line in lines {
            let Line::Entry(entry) = line else { continue };
            let known = least.entry(identity(entry)).or_insert_with(|| entry.schedule.clone());
            if entry.schedule < *known {
                known.clone_from(&entry.schedule);
            }
        }
        let (prefix, user) = (reading.prefix.clone(), reading.user.clone());
        Self { prefix, user, least, given: BTreeMap::new() }
    }

    fn next(&mut self, entry: &Entry) -> String {
        let (user, command) = identity(entry);
        let user = if user.is_empty() { self.user.clone().unwrap_or_default() } else { user };
        let is_least = self.least.get(&identity(entry)) == Some(&entry.schedule);
        let schedule = if is_least { "" } else { entry.schedule.as_str() };
        let mark = fingerprint(&[&user, &command, schedule]);
        let name = format!("{}{}-{mark}", self.prefix, slug(&entry.command));
        let count = self.given.entry(name.clone()).or_insert(0);
        *count += 1;
        if *count == 1 { name } else { format!("{name}-{count}") }
    }
}

fn identity(entry: &Entry) -> (String, String) {
    let input = entry.input.as_deref().unwrap_or_default();
    (entry.user.clone().unwrap_or_default(), format!("{}%{input}", entry.command))
}

fn job(
    name: &str,
    entry: &Entry,
    settings: &Settings,
    comment: &[String],
    reading: &Reading,
    now: Timestamp,
    notes: &mut Vec<String>,
) -> Result<Value, String> {
    if entry.schedule == "@reboot" {
        return Err("`@reboot` is no time: let the service manager of the machine start it".into());
    }
    let mut schedule = entry.schedule.clone();
    if schedule.contains('~') {
        schedule = drawn_by_name(&schedule);
        notes.push(
            "`~` draws a time by chance when cron starts; here the name of the job does, and it stays".into(),
        );
    }
    let mut job = Map::new();
    job.insert("name".into(), json!(name));
    job.insert("schedule".into(), json!(schedule));
    job.insert("scheduleTimeZone".into(), json!(settings.zone.as_ref().unwrap_or(&reading.zone)));
    let input = entry.input.as_deref().filter(|input| !input.is_empty());
    match (&settings.shell, input) {
        (Some(shell), None) => {
            job.insert("command".into(), json!(shell));
            job.insert("shell".into(), json!(false));
            job.insert("arguments".into(), json!(["-c", entry.command]));
        }
        (shell, input) => {
            job.insert("command".into(), json!(with_input(&entry.command, input, shell.as_deref())));
        }
    }
    notes.extend(foreign(&entry.schedule).map(|field| {
        format!("cron refuses `{field}`, which it does not know: so far this line has never run")
    }));
    if reading.form == Form::User {
        notes.extend(surroundings::user_before(&entry.command).map(|user| {
            format!("`{user}` is taken for the command: if it is the user, as in /etc/crontab, say --system")
        }));
    }
    if entry.command.ends_with('\\') {
        notes.push(
            "cron joins no lines: the `\\` at the end is part of the command, and the next line stands alone"
                .into(),
        );
    }
    notes.extend(surroundings::notes(&entry.command));
    if let Some(description) = description(comment) {
        job.insert("description".into(), json!(description));
    }
    if let Some(owner) = &settings.owner {
        job.insert("owner".into(), json!(owner));
    }
    if let Some(user) = entry.user.as_ref().or(reading.user.as_ref()) {
        job.insert("runAsUser".into(), json!(user));
    }
    if !settings.environment.is_empty() {
        let variables =
            settings.environment.iter().map(|(name, value)| json!({ "name": name, "value": value }));
        job.insert("environmentVariables".into(), variables.collect());
    }
    // As cron does: nothing is tried again or made up for, and nothing waits for the run before it.
    job.insert("retries".into(), json!(0));
    job.insert("catchUp".into(), json!("none"));
    job.insert("overlap".into(), json!("allow"));
    if let Some(minutes) = settings.delay {
        job.insert("jitter".into(), json!(format!("{minutes}m")));
    }
    if let Some(origin) = &reading.origin {
        job.insert("labels".into(), json!({ "crontab": origin }));
    }
    let definition = Value::Object(job);
    let read = read_value(&definition, Door::Any, &Zones::bundled(), now)
        .map_err(|problem| format!("{} ({})", problem.message, problem.hint).replace(" ()", ""))?;
    notes.extend(read.warnings);
    notes.extend(read.lints.iter().map(ToString::to_string));
    Ok(definition)
}

/// Gives a command its input, as cron does: with a line's end after the last line, and nothing where there is nothing.
/// What another shell is to read it is given whole, as its language may be another.
fn with_input(command: &str, input: Option<&str>, shell: Option<&str>) -> String {
    let Some(input) = input else { return command.into() };
    let lines: Vec<String> = input.lines().map(quoted).collect();
    let told = format!("printf '%s\\n' {}", lines.join(" "));
    match shell {
        Some(shell) => format!("{told} | {} -c {}", quoted(shell), quoted(command)),
        None => format!("{told} | {{ {command}\n}}"),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The least and the greatest value of each field.
const BOUNDS: [(&str, &str); 5] = [("0", "59"), ("0", "23"), ("1", "31"), ("1", "12"), ("0", "6")];

/// The schedule with an `H` for every `~`, `~30`, `5~` or `5~30`, each with or without a step.
fn drawn_by_name(schedule: &str) -> String {
    let item = |item: &str, (first, last): (&str, &str)| {
        let Some((from, rest)) = item.split_once('~') else { return item.to_owned() };
        let (until, step) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let or = |text: &str, bound: &str| if text.is_empty() { bound.to_owned() } else { text.to_owned() };
        match (from, until) {
            ("", "") => format!("H{step}"),
            _ => format!("H({}-{}){step}", or(from, first), or(until, last)),
        }
    };
    let field = |(text, bounds): (&str, _)| {
        text.split(',').map(|text| item(text, bounds)).collect::<Vec<_>>().join(",")
    };
    schedule.split(' ').zip(BOUNDS).map(field).collect::<Vec<_>>().join(" ")
}

/// The first field that is known here and not to cron, such as `H`, `L` and `5#2`.
fn foreign(schedule: &str) -> Option<&str> {
    const NAMES: [&str; 19] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "sun", "mon",
        "tue", "wed", "thu", "fri", "sat",
    ];
    let is_known = |word: &str| {
        word == "*"
            || word.bytes().all(|byte| byte.is_ascii_digit())
            || NAMES.iter().any(|name| name.eq_ignore_ascii_case(word))
    };
    // What `~` becomes has been told.
    let mut fields = schedule.split(' ').filter(|_| !schedule.starts_with('@'));
    fields.find(|field| !field.split([',', '-', '/', '~']).all(is_known))
}

/// Whether a comment is a line that somebody has put out of use.
fn is_line(comment: &str, form: Form, now: Timestamp) -> bool {
    match parse(comment.as_bytes(), form) {
        Line::Setting { name, .. } => {
            name.bytes().all(|b| b.is_ascii_uppercase() || matches!(b, b'_' | b'0'..=b'9'))
        }
        Line::Entry(Entry { schedule, .. }) => {
            let dst = DstPolicy::default();
            schedule == "@reboot"
                || Schedule::parse(&Zones::bundled(), &schedule, "", dst, now, Spread::of("")).is_ok()
        }
        _ => false,
    }
}

/// What stands right above a line, if it seems to be about that line.
fn description(comment: &[String]) -> Option<String> {
    let drawn = |line: &String| line.starts_with(['.', '|', '*', '-', '=', '+']) || line.contains("|  |");
    let text = comment.join(" ").trim().to_owned();
    let about = !text.is_empty() && comment.len() <= DESCRIPTION_LINES && !comment.iter().any(drawn);
    about.then_some(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn reading(form: Form) -> Reading {
        Reading { form, user: None, prefix: String::new(), zone: "UTC".into(), origin: None }
    }

    fn told(crontab: &str) -> Vec<Told> {
        convert(crontab.as_bytes(), &reading(Form::User), Timestamp::UNIX_EPOCH)
    }

    #[track_caller]
    fn only_job(crontab: &str) -> Value {
        let mut jobs = told(crontab).into_iter().filter_map(|told| match told.verdict {
            Verdict::Job { definition, .. } => Some(definition),
            _ => None,
        });
        jobs.next().expect("a job")
    }

    #[test]
    fn settings_reach_the_lines_after_them() {
        let job = only_job(
            "MAILTO=ops@example.org\nCRON_TZ=Europe/Berlin\nSHELL=/bin/bash\nA=1\nA=2\n# Clean up\n5 4 * * * clean\nA=3\n",
        );
        assert_eq!(job["owner"], "ops@example.org");
        assert_eq!(job["scheduleTimeZone"], "Europe/Berlin");
        assert_eq!((&job["command"], &job["arguments"]), (&json!("/bin/bash"), &json!(["-c", "clean"])));
        assert_eq!(job["environmentVariables"], json!([{ "name": "A", "value": "2" }]));
        assert_eq!(job["description"], "Clean up");
        assert_eq!(
            (&job["retries"], &job["catchUp"], &job["overlap"]),
            (&json!(0), &json!("none"), &json!("allow"))
        );
        assert!(job.get("runAsUser").is_none());
    }

    #[test]
    fn what_cron_would_read_otherwise_is_told() {
        let check = |line: &str, says: Option<&str>| {
            let notes = told(line).remove(0).notes;
            let found = notes.iter().any(|note| says.is_some_and(|says| note.starts_with(says)));
            assert!(found || says.is_none() && notes.is_empty(), "{line}: {notes:?}");
        };
        check("H 5 * * * /bin/x\n", Some("cron refuses `H`"));
        check("0 5 L * * /bin/x\n", Some("cron refuses `L`"));
        check("0 5 * * 5#2 /bin/x\n", Some("cron refuses `5#2`"));
        check("*/5 1-5,7 * jan-Mar thu /bin/x\n", None);
        check("@daily /bin/x\n", None);
        check("0 5 * * * /bin/x \\\n", Some("cron joins no lines"));
        check("0 5 * * * root /bin/x\n", Some("`root` is taken for the command"));
        check("0 5 * * * mail -s hi joe\n", None);
        let reading = reading(Form::System);
        let system = convert(b"0 5 * * * root /bin/x\n", &reading, Timestamp::UNIX_EPOCH);
        assert_eq!(system[0].notes, Vec::<String>::new());
    }

    #[test]
    fn input_is_given_to_the_command() {
        let job = only_job("0 0 * * * cat%it's%two\n");
        assert_eq!(job["command"], "printf '%s\\n' 'it'\\''s' 'two' | { cat\n}");
        assert_eq!(
            only_job("0 0 * * * cat%\n")["command"],
            "cat",
            "cron writes nothing where there is nothing"
        );
        assert_eq!(only_job("0 0 * * * cat%%\n")["command"], "printf '%s\\n' '' | { cat\n}");
        let job = only_job("SHELL=/bin/csh\n0 0 * * * foreach x (`cat`)%it's\n");
        assert_eq!(job["command"], "printf '%s\\n' 'it'\\''s' | '/bin/csh' -c 'foreach x (`cat`)'");
        assert!(job.get("shell").is_none(), "{job}");
    }

    #[test]
    fn a_time_by_chance_is_one_that_the_name_chooses() {
        for (written, read) in [
            ("0~59 4 * * *", "H(0-59) 4 * * *"),
            ("~ ~/6 1~ ~6 ~", "H H/6 H(1-31) H(1-6) H"),
            ("5,30~40/2 * * * *", "5,H(30-40)/2 * * * *"),
        ] {
            assert_eq!(only_job(&format!("{written} x\n"))["schedule"], read);
        }
        let told = told("0~30 4 * * * x");
        assert!(told[0].notes[0].contains("by chance"), "{told:?}");
    }

    #[test]
    fn a_line_out_of_use_describes_no_other() {
        let job = only_job("# Rotate\n#0 3 * * * rotate\n# MAILTO=joe\n0 4 * * * other\n");
        assert_eq!(job.get("description"), None, "{job}");
        let job = only_job("#@reboot agent\n# See a = b, at 5 * * * for more\n0 4 * * * other\n");
        assert_eq!(job["description"], "See a = b, at 5 * * * for more");
    }

    /// Else the job of the first import would go on, and run beside the two of the second.
    #[test]
    fn a_line_keeps_its_name_when_another_runs_its_command_too() {
        let jobs = |crontab: &str| -> BTreeMap<String, Value> {
            let job = |told: Told| match told.verdict {
                Verdict::Job { name, definition } => Some((name, definition["schedule"].clone())),
                _ => None,
            };
            told(crontab).into_iter().filter_map(job).collect()
        };
        let (before, both) = (
            "0 3 * * * backup\n",
            ["0 5 * * * backup\n0 3 * * * backup\n", "0 3 * * * backup\n0 2 * * * backup\n"],
        );
        for after in both {
            let (mut server, after) = (jobs(before), jobs(after));
            server.extend(after.clone());
            assert_eq!(server, after, "nothing else is left on the server");
        }
    }

    #[test]
    fn what_has_no_equivalent_is_told() {
        for line in ["@reboot x", "0~99 * * * * x", "61 * * * * x", "@fortnightly x", "0 0 30 2 * x"] {
            let told = told(line);
            assert_eq!(told[0].verdict, Verdict::Attention, "{line}");
            assert!(!told[0].notes[0].is_empty());
        }
        assert_eq!(told("CRON_TZ=Mars/Base\n0 0 * * * x")[1].verdict, Verdict::Attention);
    }

    #[test]
    fn names_do_not_depend_on_the_place_of_a_line() {
        let names = |crontab: &str| -> Vec<String> {
            let name = |told: Told| match told.verdict {
                Verdict::Job { name, .. } => Some(name),
                _ => None,
            };
            told(crontab).into_iter().filter_map(name).collect()
        };
        let before = names("0 1 * * * a x\n0 2 * * * b y\n");
        let after = names("0 9 * * * c z\n0 2 * * * b y\n\n0 7 * * * a x\n");
        assert_eq!([&before[0], &before[1]], [&after[2], &after[1]]);
        let twice = names("0 1 * * * a\n0 2 * * * a\n0 2 * * * a\n");
        let different: BTreeSet<_> = twice.iter().collect();
        assert_eq!(different.len(), 3, "{twice:?}");
    }

    proptest::proptest! {
        #[test]
        fn every_line_is_accounted_for(bytes in proptest::collection::vec(
            proptest::sample::select(b"\n\n 0*@=%#\\'a\0\xff~/-".to_vec()), 0..200,
        )) {
            let told = convert(&bytes, &reading(Form::User), Timestamp::UNIX_EPOCH);
            let text = String::from_utf8_lossy(&bytes);
            proptest::prop_assert_eq!(told.len(), text.lines().count());
            for (i, line) in told.iter().enumerate() {
                proptest::prop_assert_eq!(line.number, i + 1);
                proptest::prop_assert!(line.verdict != Verdict::Attention || !line.notes.is_empty());
            }
        }
    }
}
