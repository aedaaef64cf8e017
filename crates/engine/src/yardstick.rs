//! What the machine can do with nothing of ours in between: the yardstick that launches are held against.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How many processes a second a bare loop over `posix_spawn` starts and sees end, with `at_once` of them alive, for
/// `time`. They run `program` with no arguments, no environment and no output: less than any task is given.
/// # Errors
/// The program cannot be started.
pub fn spawn_rate(program: &Path, at_once: usize, time: Duration) -> io::Result<f64> {
    let mut alive: VecDeque<Child> = VecDeque::with_capacity(at_once);
    let begun = Instant::now();
    let mut count = 0_u32;
    while begun.elapsed() < time {
        if alive.len() >= at_once
            && let Some(mut oldest) = alive.pop_front()
        {
            oldest.wait()?;
        }
        // Nothing is to be run between fork and exec, so the standard library uses `posix_spawn`.
        let mut command = Command::new(program);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        alive.push_back(command.spawn()?);
        count += 1;
    }
    for mut child in alive {
        child.wait()?;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_counted_and_waited_for() {
        let rate = spawn_rate(Path::new("/bin/true"), 4, Duration::from_millis(50));
        assert!(rate.expect("processes can be started") > 0.0);
        assert!(spawn_rate(Path::new("/nonexistent"), 4, Duration::from_millis(50)).is_err());
    }
}
