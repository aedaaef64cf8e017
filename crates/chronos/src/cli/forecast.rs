//! The forecast as a picture: one line for a stretch of time, as long as what it brings.

use clap::Args;
use serde_json::Value;

use super::failure::{Failure, printable};
use super::queries::{names, text, time};
use super::{ChosenArgs, ClientArgs, Format};

pub(super) const HELP: &str = "\
Slots are counted; starts of dependents are estimated from how long runs took lately.

Examples:
  chronos forecast
  chronos forecast --hours 6 --bucket 5m
  chronos forecast --output json | jq '.busiest'";

#[derive(Debug, Args)]
pub(super) struct ForecastArgs {
    /// How many hours; 1 to 168
    #[arg(long, value_name = "COUNT", default_value_t = 24)]
    hours: u32,
    /// Length of a bucket, such as 15m
    #[arg(long, value_name = "DURATION", default_value = "15m")]
    bucket: String,
    #[command(flatten)]
    chosen: ChosenArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Most lines of the picture: what fits a screen. Finer buckets are put together.
const LINES_MAX: usize = 48;
/// Width of the longest bar.
const WIDTH: u64 = 50;

pub(super) async fn run(args: &ForecastArgs) -> Result<(), Failure> {
    let client = &super::client(&args.client)?;
    let mut query = args.chosen.query();
    query.extend([("hours", args.hours.to_string()), ("bucket", args.bucket.clone())]);
    let forecast = client.get(&["v1", "forecast"], &query).await?;
    match args.client.output {
        Format::Json => super::out_json(&forecast)?,
        Format::Table => super::out(picture(&forecast).as_bytes())?,
    }
    Ok(())
}

fn picture(forecast: &Value) -> String {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let buckets: Vec<&Value> = forecast["buckets"].as_array().into_iter().flatten().collect();
    let together = buckets.len().div_ceil(LINES_MAX).max(1);
    let lines: Vec<(String, u64, u64)> = buckets
        .chunks(together)
        .map(|chunk| {
            let sum = |key: &str| chunk.iter().map(|bucket| count(&bucket[key])).sum();
            (time(&chunk[0]["from"]), sum("slots"), sum("dependents"))
        })
        .collect();
    let most = lines.iter().map(|(_, slots, dependents)| slots + dependents).max().unwrap_or(0).max(1);
    // What is there is seen, however little.
    let bar = |n: u64| usize::try_from((n * WIDTH).div_ceil(most)).unwrap_or(0);
    let mut out = format!(
        "{} starts of slots (#) and about {} of dependents (+) until {}\n\n",
        count(&forecast["slots"]),
        count(&forecast["dependents"]),
        time(&forecast["to"])
    );
    for (from, slots, dependents) in &lines {
        let all = bar(slots + dependents);
        let first = bar(*slots).min(all);
        let bars = format!("{}{}", "#".repeat(first), "+".repeat(all - first));
        out += format!("{from}  {bars} {}", slots + dependents).trim_end();
        out.push('\n');
    }
    out.push('\n');
    for instant in forecast["together"].as_array().into_iter().flatten() {
        out += &format!("{} jobs are due together at {}\n", count(&instant["jobs"]), time(&instant["at"]));
    }
    for job in forecast["overlapping"].as_array().into_iter().flatten() {
        let (name, takes, every) = (text(&job["job"]), text(&job["takes"]), text(&job["every"]));
        out += &format!("job `{name}` takes {takes} and is due every {every}: some slots will be skipped\n");
    }
    let silent = &forecast["silent"];
    let quiet: Vec<String> = ["disabled", "paused", "exhausted", "later"]
        .iter()
        .filter(|key| count(&silent[**key]) > 0)
        .map(|key| match *key {
            "later" => format!("{} are due later", count(&silent["later"])),
            key => format!("{} are {key}", count(&silent[key])),
        })
        .collect();
    if !quiet.is_empty() {
        out += &format!("jobs that bring nothing: {}\n", quiet.join(", "));
    }
    let idle = names(&silent["jobs"]);
    if !idle.is_empty() {
        let more = if idle.len() > 10 { format!(" and {} more", idle.len() - 10) } else { String::new() };
        out += &format!("disabled or paused: {}{more}\n", idle[..idle.len().min(10)].join(", "));
    }
    if count(&forecast["backfillSlots"]) > 0 {
        out += &format!("backfills have {} slots left, beside these\n", count(&forecast["backfillSlots"]));
    }
    for note in forecast["notes"].as_array().into_iter().flatten() {
        out += &format!("note: {}\n", printable(&text(note)));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_comes_is_drawn() {
        let bucket = |from: &str, slots: u64, dependents: u64| json!({ "from": format!("2030-01-01T{from}:00.000Z"), "slots": slots, "dependents": dependents });
        let forecast = json!({
            "to": "2030-01-01T03:00:00.000Z",
            "buckets": [bucket("00:00", 100, 0), bucket("01:00", 30, 20), bucket("02:00", 0, 0)],
            "slots": 130, "dependents": 20,
            "together": [{ "at": "2030-01-01T00:00:00.000Z", "jobs": 90 }],
            "overlapping": [{ "job": "slow", "takes": "9m", "every": "5m" }],
            "silent": { "disabled": 1, "paused": 1, "exhausted": 0, "later": 3, "jobs": ["old", "held"] },
            "backfillSlots": 7,
            "notes": ["starts of dependents are estimated"],
        });
        let hashes = "#".repeat(50);
        let drawn = format!(
            "130 starts of slots (#) and about 20 of dependents (+) until 2030-01-01T03:00:00Z\n\n\
             2030-01-01T00:00:00Z  {hashes} 100\n\
             2030-01-01T01:00:00Z  ###############++++++++++ 50\n\
             2030-01-01T02:00:00Z   0\n\n\
             90 jobs are due together at 2030-01-01T00:00:00Z\n\
             job `slow` takes 9m and is due every 5m: some slots will be skipped\n\
             jobs that bring nothing: 1 are disabled, 1 are paused, 3 are due later\n\
             disabled or paused: old, held\n\
             backfills have 7 slots left, beside these\n\
             note: starts of dependents are estimated\n"
        );
        assert_eq!(picture(&forecast), drawn);
    }

    #[test]
    fn a_long_forecast_fits_a_screen() {
        let buckets: Vec<Value> =
            (0..96).map(|_| json!({ "from": "x", "slots": 1, "dependents": 0 })).collect();
        let drawn = picture(&json!({ "buckets": buckets }));
        assert_eq!(drawn.lines().filter(|line| line.contains('#') && !line.contains("(#)")).count(), 48);
    }
}
