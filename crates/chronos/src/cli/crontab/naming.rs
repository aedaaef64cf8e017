//! A name for a command: readable, and the same each time the crontab is imported.

/// Longest readable part: what fits into a table.
const SLUG_MAX: usize = 40;
/// Words that run other words.
const WRAPPERS: &[&str] = &[
    "env", "exec", "nice", "ionice", "nohup", "sudo", "timeout", "chronic", "time", "flock", "setsid", "chrt",
];
/// Programs that are known by what they are given.
const INTERPRETERS: &[&str] = &[
    "sh", "bash", "dash", "zsh", "ksh", "perl", "python", "python2", "python3", "php", "ruby", "node", "java",
];
/// Words that only lead to the command that counts.
const PREPARATIONS: &[&str] =
    &["cd", "test", "[", "[[", ":", "sleep", "export", "umask", "ulimit", "exit", "fi", "done", "."];
const KEYWORDS: &[&str] = &["if", "then", "else", "do", "while", "!"];

/// What a command is about: the program and what it is first given.
pub(super) fn slug(command: &str) -> String {
    let mut segments = command.split(['&', '|', ';', '{', '}', '(', ')', '\n']);
    let subject = segments.find_map(subject).unwrap_or_default();
    let mut slug = String::new();
    for c in subject.chars() {
        if slug.len() == SLUG_MAX {
            break;
        }
        let c = if c.is_ascii_alphanumeric() || matches!(c, '_' | '.') { c } else { '-' };
        if !(c == '-' && (slug.is_empty() || slug.ends_with('-'))) {
            slug.push(c);
        }
    }
    let slug = slug.trim_matches(['-', '.']);
    if slug.is_empty() { "job".into() } else { slug.into() }
}

/// The words that tell one part of a command; `None` if it only prepares for another.
fn subject(segment: &str) -> Option<String> {
    let plain =
        |word: &&str| !word.contains(['=', '<', '>', '"', '\'', '$', '`', '\\']) && !word.starts_with('-');
    let number = |word: &&str| word.bytes().all(|b| b.is_ascii_digit());
    let mut words = segment
        .split_whitespace()
        .skip_while(|word| KEYWORDS.contains(word))
        .filter(plain)
        .skip_while(|word| WRAPPERS.contains(&basename(word)) || number(word))
        .peekable();
    let program = basename(words.next()?);
    if PREPARATIONS.contains(&program) {
        return None;
    }
    let script = words.peek().is_some() && INTERPRETERS.contains(&program);
    let first = if script { basename(words.next()?) } else { program };
    Some([Some(first), words.next().map(basename)].into_iter().flatten().collect::<Vec<_>>().join("-"))
}

fn basename(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// Six characters that follow from the texts, and hardly from others (FNV-1a, 64 bits, of which 30 count).
pub(in crate::cli) fn fingerprint(texts: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in texts.iter().flat_map(|text| text.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut number = hash ^ (hash >> 32);
    let mut text = String::new();
    for _ in 0..6 {
        text.push(char::from(b"0123456789abcdefghijklmnopqrstuv"[(number & 31) as usize]));
        number >>= 5;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &str, name: &str) {
        assert_eq!(slug(command), name, "{command}");
    }

    #[test]
    fn a_command_is_called_by_what_it_runs() {
        check("cd / && run-parts --report /etc/cron.hourly", "run-parts-cron.hourly");
        check(
            "test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }",
            "run-parts-cron.daily",
        );
        check("/usr/local/bin/backup.sh /home > /dev/null 2>&1", "backup.sh-home");
        check("FOO=bar nice -n 10 python3 /opt/report.py --all", "report.py");
        check(
            "[ -x /usr/lib/php/clean ] && if [ ! -d /run/systemd/system ]; then /usr/lib/php/clean; fi",
            "clean",
        );
        check("flock -n /run/x.lock rsync -a /a/ /b/", "x.lock-rsync");
        check("echo", "echo");
        check("%%%", "job");
        check("$(date)", "date");
        check("..", "job");
    }

    #[test]
    fn a_name_is_always_a_name() {
        for command in ["", " ", "é", "a/b/c/", &"x".repeat(500), "\u{1b}[2J", "-", "--"] {
            let name = format!("{}-{}", slug(command), fingerprint(&[command]));
            assert!(scheduler::ids::JobName::new(&name).is_ok(), "{name}");
        }
        assert_eq!(fingerprint(&["root", "true"]), fingerprint(&["root", "true"]));
        assert_ne!(fingerprint(&["a", "bc"]), fingerprint(&["ab", "c"]));
    }
}
