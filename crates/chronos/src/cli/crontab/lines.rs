//! One line of a crontab, read as Vixie's cron reads it. See crontab(5).

/// Longest line that is looked at: cron itself takes a thousand characters, and a definition has at most 64 KiB.
pub(super) const LINE_MAX: usize = 64 * 1024;

/// Whose crontab it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Of one user: times, then the command.
    User,
    /// Of the machine: times, the user, then the command.
    System,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Nothing.
    Blank,
    /// Something to people.
    Comment(String),
    /// A variable for the lines that follow.
    Setting {
        /// Its name.
        name: String,
        /// Without the quotes around it.
        value: String,
    },
    /// Something to run.
    Entry(Entry),
    /// Nothing that cron could read.
    Wrong(String),
}

/// Something to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Five fields or a macro, with one blank between them.
    pub(super) schedule: String,
    /// Only in a crontab of the machine.
    pub(super) user: Option<String>,
    /// What the shell is given.
    pub(super) command: String,
    /// What the command finds on its standard input.
    pub(super) input: Option<String>,
}

/// Reads a line without its end.
pub(super) fn parse(line: &[u8], form: Form) -> Line {
    if line.len() > LINE_MAX {
        return Line::Wrong(format!("it has {} bytes; at most {LINE_MAX} are read", line.len()));
    }
    let Ok(text) = std::str::from_utf8(line) else {
        return Line::Wrong("it is not UTF-8, so its command cannot be kept as it is".into());
    };
    if text.contains('\0') {
        return Line::Wrong("it contains a NUL character, which no command can have".into());
    }
    let text = text.trim_matches([' ', '\t', '\r']);
    match text.chars().next() {
        None => Line::Blank,
        Some('#') => Line::Comment(text.trim_start_matches('#').trim().into()),
        Some(_) => setting(text).unwrap_or_else(|| entry(text, form)),
    }
}

/// `name = value`, where either may have quotes around it.
fn setting(text: &str) -> Option<Line> {
    let end = text.find(['=', ' ', '\t'])?;
    let (name, rest) = text.split_at(end);
    let value = rest.trim_start().strip_prefix('=')?.trim();
    let name = unquoted(name);
    (!name.is_empty()).then(|| Line::Setting { name: name.into(), value: unquoted(value).into() })
}

fn unquoted(text: &str) -> &str {
    let within = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    within('"').or_else(|| within('\'')).unwrap_or(text)
}

fn entry(text: &str, form: Form) -> Line {
    // Some crons take a leading `-` to mean: do not log. Nothing is lost without it.
    let text = text.strip_prefix('-').unwrap_or(text);
    let times = if text.starts_with('@') { 1 } else { 5 };
    let mut rest = text;
    let mut next = || {
        rest = rest.trim_start_matches([' ', '\t']);
        let (word, after) = rest.split_at(rest.find([' ', '\t']).unwrap_or(rest.len()));
        rest = after;
        word
    };
    let fields: Vec<&str> = (0..times).map(|_| next()).collect();
    let user = (form == Form::System).then(|| next().to_owned());
    let command = rest.trim_start_matches([' ', '\t']);
    if command.is_empty() || fields.iter().any(|field| field.is_empty()) {
        let times = if times == 1 { "a word such as @daily" } else { "five fields of time" };
        let user = if form == Form::System { ", a user" } else { "" };
        return Line::Wrong(format!("a line to run has {times}{user} and a command"));
    }
    if user.as_deref().is_some_and(|user| !is_user(user)) {
        return Line::Wrong(format!("`{}` is not the name of a user", user.unwrap_or_default()));
    }
    let (command, input) = split(command);
    Line::Entry(Entry { schedule: fields.join(" "), user, command, input })
}

fn is_user(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$' | '@' | '\\');
    name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// A `%` ends the command; what follows is its input, where every further `%` is a line's end. `\%` is a plain one.
fn split(text: &str) -> (String, Option<String>) {
    let mut parts = [String::new(), String::new()];
    let mut part = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&'%') => parts[part].extend(chars.next()),
            // One that is escaped itself escapes nothing; in the input cron looks at the last one alone.
            '\\' if part == 0 && chars.peek() == Some(&'\\') => {
                parts[part].extend([Some(c), chars.next()].into_iter().flatten())
            }
            '%' if part == 0 => part = 1,
            '%' => parts[part].push('\n'),
            c => parts[part].push(c),
        }
    }
    let [command, input] = parts;
    (command, (part == 1).then_some(input))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, form: Form, expected: &Line) {
        assert_eq!(parse(line.as_bytes(), form), *expected, "{line}");
    }

    fn runs(schedule: &str, command: &str) -> Entry {
        Entry { schedule: schedule.into(), command: command.into(), ..Entry::default() }
    }

    fn set(name: &str, value: &str) -> Line {
        Line::Setting { name: name.into(), value: value.into() }
    }

    #[test]
    fn lines_of_a_user() {
        check("", Form::User, &Line::Blank);
        check(" \t\r", Form::User, &Line::Blank);
        check("  ## hi", Form::User, &Line::Comment("hi".into()));
        check("*/5 * * *\t*  echo  a b", Form::User, &Line::Entry(runs("*/5 * * * *", "echo  a b")));
        check("@daily true", Form::User, &Line::Entry(runs("@daily", "true")));
        check("-0 5 * * sun true", Form::User, &Line::Entry(runs("0 5 * * sun", "true")));
        check("0 5 * * 1 FOO=bar cmd", Form::User, &Line::Entry(runs("0 5 * * 1", "FOO=bar cmd")));
    }

    #[test]
    fn lines_of_the_machine() {
        let root =
            Entry { user: Some("root".into()), ..runs("17 * * * *", "cd / && run-parts /etc/cron.hourly") };
        check("17 *\t* * *\troot    cd / && run-parts /etc/cron.hourly", Form::System, &Line::Entry(root));
        let daily = Entry { user: Some("www-data".into()), ..runs("@daily", "true") };
        check("@daily www-data true", Form::System, &Line::Entry(daily));
    }

    #[test]
    fn settings() {
        check("MAILTO=\"\"", Form::User, &set("MAILTO", ""));
        check("PATH = /bin:/usr/bin ", Form::User, &set("PATH", "/bin:/usr/bin"));
        check("'A'='b c'", Form::User, &set("A", "b c"));
        check("X=a=b", Form::User, &set("X", "a=b"));
    }

    #[test]
    fn a_percent_sign_begins_the_input() {
        let entry = Entry { input: Some("a\nb%".into()), ..runs("0 0 * * *", "mail -s 100% joe") };
        check(r"0 0 * * * mail -s 100\% joe%a%b\%", Form::User, &Line::Entry(entry));
        let empty = Entry { input: Some(String::new()), ..runs("0 0 * * *", "cat") };
        check("0 0 * * * cat%", Form::User, &Line::Entry(empty));
        let escaped = Entry { input: Some(r"c\%".into()), ..runs("0 0 * * *", r"echo a\\") };
        check(r"0 0 * * * echo a\\%c\\%", Form::User, &Line::Entry(escaped));
    }

    #[test]
    fn what_cron_could_not_read_either() {
        for (line, form) in [
            ("0 0 * * *", Form::User),
            ("0 0 * * * root", Form::System),
            ("@daily", Form::User),
            ("hello", Form::User),
            ("0 0 * * * /bin/true now", Form::System),
            ("0 0 * * * a\0b", Form::User),
        ] {
            assert!(matches!(parse(line.as_bytes(), form), Line::Wrong(_)), "{line}");
        }
        assert!(matches!(parse(b"0 0 * * * \xff\xfe", Form::User), Line::Wrong(_)));
        assert!(matches!(parse(&vec![b'x'; 1 << 20], Form::User), Line::Wrong(_)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_have_a_meaning(line in proptest::collection::vec(0u8..=255, 0..80)) {
            let _ = parse(&line, Form::User);
            let _ = parse(&line, Form::System);
        }
    }
}
