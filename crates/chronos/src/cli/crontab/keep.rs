//! A crontab imported again: what has been edited since stays as it is.

use serde_json::{Map, Value};

/// What an import writes because cron does so, and not because the line says it.
const AS_CRON_DOES: [&str; 3] = ["retries", "catchUp", "overlap"];
/// What only the crontab says, also by saying nothing.
const OF_THE_LINE: [&str; 8] = [
    "name",
    "schedule",
    "scheduleTimeZone",
    "command",
    "shell",
    "arguments",
    "runAsUser",
    "environmentVariables",
];

/// The definition that a line makes of the job that is there, and the fields that are left as they were edited.
pub(super) fn kept(definition: &Value, present: &Map<String, Value>) -> (Value, Vec<String>) {
    let Value::Object(made) = definition else { return (definition.clone(), Vec::new()) };
    let mut merged = made.clone();
    let mut left = Vec::new();
    let stays = |field: &str| !made.contains_key(field) || AS_CRON_DOES.contains(&field);
    for (field, value) in present.iter().filter(|(field, _)| !OF_THE_LINE.contains(&field.as_str())) {
        if field == "labels" {
            let labels = merged.entry("labels").or_insert_with(|| Value::Object(Map::new()));
            let known = value.as_object().into_iter().flatten();
            for (key, value) in known {
                labels.as_object_mut().into_iter().for_each(|labels| {
                    labels.entry(key.clone()).or_insert_with(|| value.clone());
                });
            }
        } else if stays(field) && made.get(field) != Some(value) {
            merged.insert(field.clone(), value.clone());
            left.push(field.clone());
        }
    }
    // A field with its default is not written: what is not there was edited too.
    for field in AS_CRON_DOES.into_iter().filter(|field| !present.contains_key(*field)) {
        merged.shift_remove(field);
        left.push(field.to_owned());
    }
    (Value::Object(merged), left)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(present: Value, expected: Value, left: &[&str]) {
        let made = json!({ "name": "a", "schedule": "0 5 * * *", "command": "x", "retries": 0, "catchUp": "none",
            "overlap": "allow", "labels": { "crontab": "/etc/crontab" } });
        let (merged, found) = kept(&made, present.as_object().expect("an object"));
        assert_eq!(merged, expected);
        assert_eq!(found, left);
    }

    #[test]
    fn what_was_edited_stays_and_what_the_line_says_counts() {
        let made = json!({ "name": "a", "schedule": "0 5 * * *", "command": "x", "retries": 0, "catchUp": "none",
            "overlap": "allow", "labels": { "crontab": "/etc/crontab" } });
        check(made.clone(), made.clone(), &[]);
        let edited = json!({ "name": "a", "schedule": "0 4 * * *", "command": "y", "runAsUser": "joe", "shell": false,
            "overlap": "skip", "catchUp": "none", "owner": "ops@example.org", "labels": { "crontab": "old", "team": "etl" } });
        let merged = json!({ "name": "a", "schedule": "0 5 * * *", "command": "x", "catchUp": "none", "overlap": "skip",
            "owner": "ops@example.org", "labels": { "crontab": "/etc/crontab", "team": "etl" } });
        check(edited, merged, &["overlap", "owner", "retries"]);
    }
}
