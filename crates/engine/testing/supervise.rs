//! The supervisor as a process of its own, for the tests of this crate: `supervise-for-tests <dir> <idle exit in ms>`,
//! and the first stage of its tasks: `supervise-for-tests --launch`.

use std::process::ExitCode;
use std::time::Duration;

use engine::local::launch;
use engine::local::supervisor::{Supervise, run};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let dir = arguments.next().ok_or("no folder given")?;
    if dir == "--launch" {
        return Ok(launch::run());
    }
    let idle_ms =
        arguments.next().ok_or("no time given")?.into_string().map_err(|_| "not a number")?.parse()?;
    let idle_exit = Duration::from_millis(idle_ms);
    run(&Supervise { idle_exit, ..Supervise::new(dir, ["--launch".into()]) })?;
    Ok(ExitCode::SUCCESS)
}
