//! Addresses without what is secret in them, for messages and for whoever looks at a definition.

/// A text in which every `scheme://user:password@host` has lost its password, wherever it stands; a token in the place of
/// the user goes, too.
pub fn without_passwords(text: &str) -> String {
    let (mut told, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once("://") {
        told.push_str(before);
        told.push_str("://");
        let end = after.find(|c: char| "/?#,;'\"".contains(c) || c.is_whitespace()).unwrap_or(after.len());
        let (authority, path) = after.split_at(end);
        match authority.rsplit_once('@') {
            // Who logs in by a key has a name and no password.
            Some((user, host)) if before.ends_with("ssh") && !user.contains(':') => {
                told.push_str(&format!("{user}@{host}"));
            }
            Some((user, host)) => match user.split_once(':') {
                Some((user, _)) => told.push_str(&format!("{user}:***@{host}")),
                None => told.push_str(&format!("***@{host}")),
            },
            None => told.push_str(authority),
        }
        rest = path;
    }
    told + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_loses_its_password_and_nothing_else() {
        for (text, told) in [
            ("https://me:pa@ss@h:1/f?x=@", "https://me:***@h:1/f?x=@"),
            (
                "curl -u a:b ftp://u:p@h,http://t0ken@g/ 'ssh://git@h'",
                "curl -u a:b ftp://u:***@h,http://***@g/ 'ssh://git@h'",
            ),
            ("http://h/a:b@c", "http://h/a:b@c"),
            ("/opt/a@b", "/opt/a@b"),
            ("://", "://"),
        ] {
            assert_eq!(without_passwords(text), told);
        }
    }
}
