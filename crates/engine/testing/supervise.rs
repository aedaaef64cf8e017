//! The supervisor as a process of its own, for the tests of this crate: `supervise-for-tests <dir> <idle exit in ms>`.

use std::time::Duration;

use engine::local::supervisor::{Supervise, run};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let dir = arguments.next().ok_or("no folder given")?;
    let idle_ms =
        arguments.next().ok_or("no time given")?.into_string().map_err(|_| "not a number")?.parse()?;
    Ok(run(&Supervise { idle_exit: Duration::from_millis(idle_ms), ..Supervise::new(dir) })?)
}
