//! Plays seeds: `--seed 7` shows one history; `--seeds 10000` plays many and says which fail.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use simulator::{Profile, Trace, play};

const USAGE: &str = "usage: simulator --seed N [--profile small|big] [--quiet]
       simulator --seeds N [--from M] [--jobs THREADS] [--profile small|big] [--first]";

struct Arguments {
    seed: Option<u64>,
    seeds: u64,
    from: u64,
    jobs: u64,
    profile: Profile,
    quiet: bool,
    /// Stop at the first seed that fails.
    first: bool,
}

fn main() -> ExitCode {
    let arguments = match read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("error: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match arguments.seed {
        Some(seed) => show(seed, &arguments),
        None => many(&arguments),
    }
}

fn read(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut read = Arguments {
        seed: None,
        seeds: 0,
        from: 0,
        jobs: 2,
        profile: Profile::Small,
        quiet: false,
        first: false,
    };
    while let Some(word) = words.next() {
        if word == "--quiet" {
            read.quiet = true;
            continue;
        }
        if word == "--first" {
            read.first = true;
            continue;
        }
        let value = words.next().ok_or(format!("`{word}` needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("`{value}` is not a number"));
        match word.as_str() {
            "--seed" => read.seed = Some(number()?),
            "--seeds" => read.seeds = number()?,
            "--from" => read.from = number()?,
            "--jobs" => read.jobs = number()?.max(1),
            "--profile" if value == "small" => read.profile = Profile::Small,
            "--profile" if value == "big" => read.profile = Profile::Big,
            "--profile" => return Err(format!("there is no profile `{value}`")),
            _ => return Err(format!("`{word}` is not known")),
        }
    }
    if read.seed.is_none() && read.seeds == 0 { Err("give --seed or --seeds".into()) } else { Ok(read) }
}

fn show(seed: u64, arguments: &Arguments) -> ExitCode {
    let trace = if arguments.quiet { Trace::Off } else { Trace::Kept };
    let report = play(seed, arguments.profile, trace);
    for line in &report.trace {
        println!("{line}");
    }
    println!("seed {seed}: {} events, {} runs ended, hash {:016x}", report.events, report.runs, report.hash);
    match report.violation {
        None => {
            println!("seed {seed}: passed");
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("seed {seed}: FAILED: {violation}");
            ExitCode::FAILURE
        }
    }
}

/// Every so many seeds one is played twice: the same seed must give the same history.
const TWICE: u64 = 100;

fn many(arguments: &Arguments) -> ExitCode {
    // What panics is reported with its seed; the default report would drown it.
    std::panic::set_hook(Box::new(|_| {}));
    let (begun, next) = (Instant::now(), AtomicU64::new(arguments.from));
    let end = arguments.from + arguments.seeds;
    let (tell, told) = mpsc::channel();
    let (played, failed) = std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            let (tell, next) = (tell.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || tell.send((seed, verdict(seed, arguments.profile))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(tell);
        collect(arguments, told)
    });
    println!("{} passed, {failed} failed, in {:.1} s", played - failed, begun.elapsed().as_secs_f64());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn verdict(seed: u64, profile: Profile) -> Option<String> {
    let report = play(seed, profile, Trace::Off);
    if report.violation.is_none()
        && seed.is_multiple_of(TWICE)
        && play(seed, profile, Trace::Off).hash != report.hash
    {
        return Some("not deterministic: two histories of one seed".into());
    }
    report.violation
}

fn collect(arguments: &Arguments, told: mpsc::Receiver<(u64, Option<String>)>) -> (u64, u64) {
    let (mut failed, mut done) = (0, 0);
    let each = (arguments.seeds / 10).max(1);
    for (seed, violation) in told {
        done += 1;
        if let Some(violation) = violation {
            failed += 1;
            let profile = if arguments.profile == Profile::Big { " --profile big" } else { "" };
            println!("seed {seed}: FAILED: {violation}");
            println!("  replay: cargo run --release -p simulator -- --seed {seed}{profile}");
        }
        if arguments.first && failed > 0 {
            break;
        }
        if done % each == 0 && !arguments.quiet {
            println!("{done} of {} seeds, {failed} failed", arguments.seeds);
        }
    }
    (done, failed)
}
