//! What a service manager is told: that the server answers, how it is, that it lives, that it ends.
//!
//! The protocol is that of `sd_notify(3)`: a datagram a message, to the socket that is named in the environment. Without
//! one nothing is said. What it is told of is a server that answers, not one that leads: a standby is as ready as it will
//! be, and a store that is away is no reason to start anew.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, warn};

use crate::node::{Node, Status};

/// How often it is looked how the node is, where nobody wants a sign of life more often.
const LOOKS_EVERY: Duration = Duration::from_secs(5);
/// A manager that is stuck is not to hold up this server, and one that is busy is to hear that it is ready.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);
/// What is shown of a sentence: it is one line of `systemctl status`.
const STATUS_BYTES_MAX: usize = 300;

/// Who has started this server, if it wants to know.
pub(crate) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// It takes the server for dead if it hears nothing for so long.
    watchdog: Option<Duration>,
}

impl Manager {
    /// Whoever is named in the environment of this process.
    pub(crate) fn of_environment() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let socket = variable("NOTIFY_SOCKET").and_then(|named| match open(&named) {
            Ok(socket) => Some(socket),
            Err(problem) => {
                warn!(%problem, socket = %named.display(), "cannot tell the service manager of this server");
                None
            }
        });
        let watchdog = watchdog(std::process::id(), variable("WATCHDOG_PID"), variable("WATCHDOG_USEC"));
        Self { socket, watchdog }
    }

    /// The server answers.
    pub(crate) fn ready(&self) {
        self.say("READY=1");
    }

    /// Files are being read again, until it is ready.
    pub(crate) fn reloading(&self) {
        self.say("RELOADING=1");
    }

    /// The server ends.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=ending; tasks go on");
    }

    /// A reload where there is nothing to read again: it would end the server, as the end of a terminal is meant to.
    /// # Errors
    /// What the kernel says of handlers of signals.
    pub(crate) fn take_hangups(self: &Arc<Self>) -> io::Result<()> {
        if self.socket.is_none() {
            return Ok(());
        }
        let mut hangups = signal(SignalKind::hangup())?;
        let manager = self.clone();
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                manager.reloading();
                manager.ready();
            }
        });
        Ok(())
    }

    /// A message that is lost is followed by others; one that the start waits for is taken, as the socket is there.
    fn say(&self, message: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(problem) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::debug!(%problem, message, "the service manager did not take it");
        }
    }

    /// Tells how the node is until the process ends, and that it lives for as long as its scheduler does.
    pub(crate) async fn tell_of(self: Arc<Self>, node: Node) {
        if self.socket.is_none() {
            return;
        }
        let every = self.watchdog.map_or(LOOKS_EVERY, |within| LOOKS_EVERY.min(within / 4));
        let mut ticks = tokio::time::interval(every);
        let mut status = node.watch_status();
        let (mut shown, mut warned) = (String::new(), false);
        loop {
            let (told, jobs) =
                (status.borrow_and_update().clone(), node.projection.read().state().jobs.len());
            let line = status_line(&told, jobs);
            if line != shown {
                self.say(&line);
                shown = line;
            }
            if let Some(within) = self.watchdog {
                let silence = node.pulse.silence();
                let alive = silence < within / 2;
                if alive {
                    self.say("WATCHDOG=1");
                } else if !warned {
                    let seconds = silence.as_secs();
                    error!(
                        seconds,
                        "the scheduler does not come back; the service manager is told no more that this server lives"
                    );
                }
                warned = !alive;
            }
            tokio::select! {
                _ = ticks.tick() => {}
                changed = status.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// How the node is, on one line.
fn status_line(status: &Status, jobs: usize) -> String {
    let mut line = format!("STATUS={}, {jobs} jobs", status.role.word());
    if let Some(first) = status.troubles.first() {
        line = format!("{line}: {}", first.replace('\n', " "));
    }
    line.truncate(line.floor_char_boundary(STATUS_BYTES_MAX));
    line
}

/// A path, or a name that no file has, which begins with `@`.
fn open(named: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match named.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(named)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TAKEN_WITHIN))?;
    Ok((socket, address))
}

/// How often this process is to say that it lives: what was meant for another one, whose child this is, does not count.
fn watchdog(own: u32, pid: Option<OsString>, within: Option<OsString>) -> Option<Duration> {
    let pid = pid.map(|pid| pid.to_str().and_then(|pid| pid.parse::<u32>().ok()));
    if pid.is_some_and(|pid| pid != Some(own)) {
        return None;
    }
    let within = Duration::from_micros(within?.to_str()?.parse().ok()?);
    (!within.is_zero()).then_some(within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Role;

    #[track_caller]
    fn check(pid: Option<&str>, within: Option<&str>, expected: Option<u64>) {
        let found = watchdog(7, pid.map(Into::into), within.map(Into::into));
        assert_eq!(found, expected.map(Duration::from_secs));
    }

    #[test]
    fn a_watchdog_is_for_one_process() {
        check(Some("7"), Some("60000000"), Some(60));
        check(None, Some("60000000"), Some(60));
        check(Some("8"), Some("60000000"), None);
        check(Some("x"), Some("60000000"), None);
        for within in [None, Some("0"), Some(""), Some("-1"), Some("soon")] {
            check(Some("7"), within, None);
        }
    }

    #[test]
    fn how_a_node_is_fits_one_line() {
        let status = |troubles: &[&str]| Status {
            role: Role::Standby,
            troubles: troubles.iter().map(|text| (*text).into()).collect(),
        };
        assert_eq!(status_line(&status(&[]), 3), "STATUS=standby, 3 jobs");
        assert_eq!(status_line(&status(&["a\nb", "c"]), 3), "STATUS=standby, 3 jobs: a b");
        // Cut between letters, of which the last would end at the 301st byte.
        assert_eq!(status_line(&status(&[&format!("a{}", "ü".repeat(300))]), 3).len(), 299);
    }

    #[test]
    fn messages_arrive_at_paths_and_at_names_without_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let name = format!("chronos-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).expect("a name");
        let listeners = [UnixDatagram::bind(&path), UnixDatagram::bind_addr(&abstract_name)];
        for (listener, named) in listeners.into_iter().zip([path.into_os_string(), format!("@{name}").into()])
        {
            let listener = listener.expect("it listens");
            let manager = Manager { socket: Some(open(&named).expect("it opens")), watchdog: None };
            manager.ready();
            let mut message = [0; 64];
            let size = listener.recv(&mut message).expect("a message");
            assert_eq!(&message[..size], b"READY=1");
        }
    }
}
