//! Where a command finds itself: cron begins in the home folder of its user, and here every run has a folder of its own.

/// What the author of a command should know whose words are found from the home folder alone. Only what is surely a path
/// is looked at: programs, files that output goes to, and whatever begins with `./` or `../`.
pub(super) fn notes(command: &str) -> Option<String> {
    let mut lost = None;
    for segment in command.split(['&', '|', ';', '{', '}', '(', ')', '\n']) {
        let mut words = segment.split_whitespace().skip_while(|word| word.contains('=')).peekable();
        if matches!(words.peek(), Some(&"cd" | &"pushd")) {
            // From here on it knows where it is.
            break;
        }
        lost = lost.or_else(|| words.next_if(|word| is_relative(word) && word.contains('/')));
        while let Some(word) = words.next() {
            let target = match word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix(['>', '<'])
            {
                Some(rest) if rest.trim_start_matches('>').is_empty() => {
                    words.next().filter(|word| is_relative(word))
                }
                Some(rest) => Some(rest.trim_start_matches('>')).filter(|word| is_relative(word)),
                None => Some(word).filter(|word| word.starts_with("./") || word.starts_with("../")),
            };
            lost = lost.or(target);
        }
    }
    let word = lost?;
    Some(format!(
        "`{word}` is looked for in the home folder by cron, and here in the folder of the run: write the whole path, or `cd` first"
    ))
}

/// A user of this machine that stands where the command of a personal crontab begins, before a path.
pub(super) fn user_before(command: &str) -> Option<&str> {
    let (first, rest) = command.split_once([' ', '\t'])?;
    let is_user = || {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        first == "root" || users.lines().any(|line| line.split(':').next() == Some(first))
    };
    (rest.trim_start().starts_with('/') && is_user()).then_some(first)
}

/// Whether a path depends on where one is. What a shell makes of quotes and variables is not known.
fn is_relative(word: &str) -> bool {
    !word.is_empty()
        && !word.starts_with(['/', '~', '$', '"', '\'', '`', '\\', '<', '>', '-'])
        && !word.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &str, lost: Option<&str>) {
        let told = notes(command);
        let word = told.as_deref().and_then(|told| told.split('`').nth(1));
        assert_eq!(word, lost, "{command}");
    }

    #[test]
    fn paths_from_the_home_folder_are_told() {
        check("./backup.sh", Some("./backup.sh"));
        check("A=1 bin/backup /home", Some("bin/backup"));
        check("/bin/date >> cron.log 2>&1", Some("cron.log"));
        check("date >cron.log", Some("cron.log"));
        check("true && sh ./x", Some("./x"));
        check("wc -l < in/list", Some("in/list"));
        for command in [
            "/opt/import/rotate.sh --keep 7 > /dev/null 2>&1",
            "cd /srv && ./run > out.log",
            "cd; bin/x",
            "rsync -a host:dir/ /srv/",
            "$HOME/bin/x >> \"$LOG\" 2>> ~/err.log",
            "run-parts --report /etc/cron.hourly",
            "sed s/a/b/ /etc/motd",
            "",
        ] {
            check(command, None);
        }
    }
}
