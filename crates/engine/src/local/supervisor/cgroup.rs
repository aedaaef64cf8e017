//! Control groups: what holds all processes of a task together, and what bounds them.
//!
//! Version 2 is used where its controllers are, version 1 where they are not; a machine may have some of both. Each
//! hierarchy gets a folder of ours, `chronos-<id>`, and in it one folder for each task that needs it: the one by which
//! tasks are killed for every task, those for memory and processor only for tasks that state them.
//! What cannot be had is a note for the operator and no error: tasks run all the same, without it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::local::formats::Limits;

/// Where the places of our folders are written down, for the next supervisor: it may be started elsewhere.
const PLACES: &str = "cgroups";
/// How often processes that fork while they are killed are looked for again.
const KILL_ROUNDS: usize = 100;
/// The least limit that is set: below, not even a shell starts.
const MEMORY_MIN: u64 = 4 * 1024 * 1024;

/// What a folder of ours in one hierarchy can do.
#[derive(Clone, Debug)]
struct Place {
    folder: PathBuf,
    version: Version,
    can: BTreeSet<Power>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Power {
    /// To hold a task's processes together and to kill them all.
    Hold,
    Memory,
    Cpu,
}

/// The control groups of one supervisor.
#[derive(Clone, Debug, Default)]
pub(super) struct Cgroups {
    places: Vec<Place>,
    notes: Vec<String>,
}

/// The control groups of one task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TaskCgroup {
    folders: Vec<PathBuf>,
    /// The folder with the limit of memory, and the limit.
    memory: Option<(PathBuf, u64)>,
}

impl Cgroups {
    /// Finds out what can be had here, by trying, and ends what an earlier supervisor left in its groups.
    pub(super) fn detect(root: &Path, id: &str) -> Self {
        let places = root.join(PLACES);
        for place in fs::read_to_string(&places).unwrap_or_default().lines() {
            clear(Path::new(place));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let name = format!("chronos-{}", id.split('-').next().unwrap_or(id));
        let mut found = Self::default();
        let mut reasons = Vec::new();
        for hierarchy in hierarchies(&mounts, &own) {
            let wanted: BTreeSet<Power> =
                hierarchy.powers.iter().copied().filter(|power| !found.can(*power)).collect();
            if wanted.is_empty() {
                continue;
            }
            match hierarchy.claim(&name, &wanted) {
                Ok(place) => found.places.push(place),
                Err(reason) => reasons.push(reason),
            }
        }
        found.places.sort_by_key(|place| !place.can.contains(&Power::Hold));
        let lines: String =
            found.places.iter().map(|place| format!("{}\n", place.folder.display())).collect();
        let _ = fs::write(places, lines);
        found.notes = found.missing(&reasons.join("; "));
        found
    }

    /// Removes our folders, once no task runs.
    pub(super) fn leave(&self) {
        self.places.iter().for_each(|place| clear(&place.folder));
    }

    /// What cannot be had here, and what to do about it.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    fn can(&self, power: Power) -> bool {
        self.places.iter().any(|place| place.can.contains(&power))
    }

    fn missing(&self, reasons: &str) -> Vec<String> {
        let why = if reasons.is_empty() { String::new() } else { format!(" ({reasons})") };
        let advice = "run the server as root, or in a delegated control group \
                      (systemd: Delegate=yes and DelegateSubgroup=server)";
        let note = |power, what: &str| {
            (!self.can(power)).then(|| format!("local tasks: {what}{why}; to have it, {advice}"))
        };
        [
            note(Power::Memory, "the memory that jobs state is not enforced, since no memory control group can be made"),
            note(Power::Hold, "a process that hides from its task on purpose may outlive it, since no control group can be made"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Makes the groups of one task, or none where there are none.
    /// # Errors
    /// Only if the task's memory is to be limited and that cannot be done now, though it could at our start.
    pub(super) fn make(&self, task: &str, limits: Limits) -> io::Result<TaskCgroup> {
        let mut group = TaskCgroup::default();
        for place in &self.places {
            let memory = limits.memory_max.filter(|_| place.can.contains(&Power::Memory));
            let cpu = limits.cpu_millis.filter(|_| place.can.contains(&Power::Cpu));
            if memory.is_none() && cpu.is_none() && !place.can.contains(&Power::Hold) {
                continue;
            }
            let folder = place.folder.join(task);
            let made = fs::create_dir(&folder).and_then(|()| place.limit(&folder, memory, cpu));
            match made {
                Ok(()) => {}
                Err(error) if memory.is_some() => {
                    group.folders.push(folder);
                    group.remove();
                    return Err(error);
                }
                Err(_) => {
                    let _ = fs::remove_dir(&folder);
                    continue;
                }
            }
            if let Some(limit) = memory {
                group.memory = Some((folder.clone(), limit));
            }
            group.folders.push(folder);
        }
        Ok(group)
    }
}

impl Place {
    fn limit(&self, folder: &Path, memory: Option<u64>, cpu: Option<u32>) -> io::Result<()> {
        let write = |file: &str, value: String| fs::write(folder.join(file), value);
        if let Some(limit) = memory {
            let limit = limit.max(MEMORY_MIN).to_string();
            match self.version {
                Version::One => {
                    write("memory.limit_in_bytes", limit.clone())?;
                    // Without swap accounting the file is not there, and with swap the limit is only of what is not swapped.
                    let _ = write("memory.memsw.limit_in_bytes", limit);
                }
                Version::Two => {
                    write("memory.max", limit)?;
                    let _ = write("memory.swap.max", "0".into());
                    // A task that has lost one of its processes is not worth going on.
                    let _ = write("memory.oom.group", "1".into());
                }
            }
        }
        if let Some(millis) = cpu {
            // A share, as Mesos gives, and no ceiling: it counts only while there is not enough for all.
            let _ = match self.version {
                Version::One => write("cpu.shares", (u64::from(millis) * 1024 / 1000).max(2).to_string()),
                Version::Two => write("cpu.weight", (millis / 10).clamp(1, 10_000).to_string()),
            };
        }
        Ok(())
    }
}

impl TaskCgroup {
    /// The files that a process writes 0 to in order to join.
    pub(super) fn doors(&self) -> Vec<PathBuf> {
        self.folders.iter().map(|folder| folder.join("cgroup.procs")).collect()
    }

    /// Whether its memory is limited: then it must be inside before it runs a line of its program.
    pub(super) fn limits_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Puts a process inside, after it has begun. One that has ended by now is no error.
    pub(super) fn add(&self, pid: i32) {
        for door in self.doors() {
            let _ = fs::write(door, pid.to_string());
        }
    }

    /// All processes inside that have not ended.
    pub(super) fn pids(&self) -> Vec<i32> {
        // Any of them holds all; the first is the one that can kill, if there is one.
        let Some(folder) = self.folders.first() else { return Vec::new() };
        let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        pids.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != own && *pid > 0).collect()
    }

    /// Sends a signal to all that is inside.
    pub(super) fn signal(&self, signal: Signal) {
        for pid in self.pids().into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Ends all that is inside, at once, forks included.
    pub(super) fn kill(&self) {
        if let Some(folder) = self.folders.first() {
            kill_all(folder, || self.pids());
        }
    }

    /// The limit of memory, if it was hit and a process was ended for it.
    pub(super) fn exceeded(&self) -> Option<u64> {
        let (folder, limit) = self.memory.as_ref()?;
        let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
        let events = read("memory.events").or_else(|| read("memory.oom_control"))?;
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim();
        (kills != "0").then_some(*limit)
    }

    /// Removes the groups; false if something is still inside.
    pub(super) fn remove(&self) -> bool {
        let gone = |folder: &PathBuf| match fs::remove_dir(folder) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        self.folders.iter().filter(|folder| !gone(folder)).count() == 0
    }
}

fn kill_all(folder: &Path, pids: impl Fn() -> Vec<i32>) {
    if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let freezer = folder.join("freezer.state");
    let frozen = fs::write(&freezer, "FROZEN").is_ok();
    for _ in 0..KILL_ROUNDS {
        let pids = pids();
        for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if frozen || pids.is_empty() {
            break;
        }
    }
    if frozen {
        let _ = fs::write(freezer, "THAWED");
    }
}

/// Ends all that is in the groups of a folder of ours, and removes them and it.
fn clear(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let group = TaskCgroup { folders: vec![entry.path()], memory: None };
            let since = std::time::Instant::now();
            group.kill();
            while !group.remove() && since.elapsed() < std::time::Duration::from_secs(2) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
    let _ = fs::remove_dir(place);
}

/// A mounted hierarchy, and the groups in it under which ours may be made, best first.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    parents: Vec<PathBuf>,
    powers: Vec<Power>,
}

/// What is mounted, in the order of preference.
fn hierarchies(mounts: &str, own: &str) -> Vec<Hierarchy> {
    let mut all = Vec::new();
    for line in mounts.lines() {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        let (place, kind): (Vec<&str>, Vec<&str>) = (place.split(' ').collect(), kind.split(' ').collect());
        let (Some(mount), Some(kind), Some(options)) = (place.get(4), kind.first(), kind.get(2)) else {
            continue;
        };
        let has = |controller: &str| options.split(',').any(|option| option == controller);
        let (version, controller, powers) = match *kind {
            "cgroup2" => (Version::Two, "", vec![Power::Hold, Power::Memory, Power::Cpu]),
            "cgroup" if has("memory") => (Version::One, "memory", vec![Power::Memory]),
            "cgroup" if has("cpu") => (Version::One, "cpu", vec![Power::Cpu]),
            "cgroup" if has("freezer") => (Version::One, "freezer", vec![Power::Hold]),
            _ => continue,
        };
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let controllers = fields.nth(1)?;
            let named = controllers.split(',').any(|name| name == controller);
            if named { fields.next() } else { None }
        });
        let mount = PathBuf::from(mount);
        let own = mount.join(path.unwrap_or("/").trim_start_matches('/'));
        let parents = match version {
            _ if own == mount => vec![mount],
            // A group with processes of its own cannot give controllers to groups below it, the root excepted.
            Version::Two => own.parent().map(Path::to_path_buf).into_iter().chain([own.clone()]).collect(),
            // In a container the mount itself is often our group.
            Version::One => vec![own, mount],
        };
        all.push(Hierarchy { version, parents, powers });
    }
    all.sort_by_key(|hierarchy| hierarchy.version == Version::One);
    all
}

impl Hierarchy {
    /// Makes our folder where it can do most of what is wanted.
    fn claim(&self, name: &str, wanted: &BTreeSet<Power>) -> Result<Place, String> {
        let mut best: Option<Place> = None;
        let mut reason = String::new();
        for parent in &self.parents {
            let folder = parent.join(name);
            match self.try_at(parent, &folder, wanted) {
                Ok(can) if best.as_ref().is_none_or(|best| can.len() > best.can.len()) => {
                    if let Some(before) = best.replace(Place { folder, version: self.version, can }) {
                        let _ = fs::remove_dir(before.folder);
                    }
                }
                Ok(_) => drop(fs::remove_dir(&folder)),
                Err(error) => {
                    let _ = fs::remove_dir(&folder);
                    reason = format!("{}: {error}", folder.display());
                }
            }
        }
        best.ok_or(reason)
    }

    fn try_at(&self, parent: &Path, folder: &Path, wanted: &BTreeSet<Power>) -> io::Result<BTreeSet<Power>> {
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if self.version == Version::Two {
            for controller in ["+memory", "+cpu"] {
                let _ = fs::write(parent.join("cgroup.subtree_control"), controller);
                let _ = fs::write(folder.join("cgroup.subtree_control"), controller);
            }
        }
        let probe = folder.join("probe");
        fs::create_dir(&probe)?;
        let outcome = join(&probe);
        let has = |file: &str| probe.join(file).exists();
        let can = |power: &Power| match (power, self.version) {
            (Power::Hold, _) => has("cgroup.kill") || has("freezer.state"),
            (Power::Memory, Version::One) => has("memory.limit_in_bytes"),
            (Power::Memory, Version::Two) => has("memory.max"),
            (Power::Cpu, Version::One) => has("cpu.shares"),
            (Power::Cpu, Version::Two) => has("cpu.weight"),
        };
        let can: BTreeSet<Power> = wanted.iter().copied().filter(can).collect();
        let _ = fs::remove_dir(&probe);
        outcome?;
        if can.is_empty() { Err(io::Error::other("it has no controller that is of use")) } else { Ok(can) }
    }
}

/// Whether a process of ours can be put there: more rights are needed for that than to make a folder.
fn join(group: &Path) -> io::Result<()> {
    let mut child = Command::new("/bin/sh");
    let mut child = child.args(["-c", "read line"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let outcome = fs::write(group.join("cgroup.procs"), child.id().to_string());
    drop(child.stdin.take());
    child.wait()?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mounts: &str, own: &str, expected: &[(Version, &[&str])]) {
        let found = hierarchies(mounts, own);
        let found: Vec<_> = found.iter().map(|h| (h.version, h.parents.clone())).collect();
        let expected: Vec<_> =
            expected.iter().map(|(v, parents)| (*v, parents.iter().map(PathBuf::from).collect())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn hierarchies_are_found_on_machines_of_all_kinds() {
        let unified = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        check(unified, "0::/\n", &[(Version::Two, &["/sys/fs/cgroup"])]);
        let service = "0::/system.slice/chronos.service/server\n";
        let in_service = "/sys/fs/cgroup/system.slice/chronos.service";
        let server = format!("{in_service}/server");
        check(unified, service, &[(Version::Two, &[in_service, &server])]);
        let hybrid = "31 23 0:28 / /c rw - tmpfs tmpfs rw\n\
                      35 31 0:32 / /c/memory rw - cgroup cgroup rw,memory\n\
                      32 31 0:29 / /c/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      36 31 0:33 / /c/devices rw - cgroup cgroup rw,devices\n\
                      41 31 0:38 / /c/unified rw - cgroup2 cgroup2 rw";
        let own = "4:memory:/a/b\n2:cpu,cpuacct:/\n0::/\n";
        check(
            hybrid,
            own,
            &[
                (Version::Two, &["/c/unified"]),
                (Version::One, &["/c/memory/a/b", "/c/memory"]),
                (Version::One, &["/c/cpu,cpuacct"]),
            ],
        );
        check("22 1 8:1 / / rw - ext4 /dev/sda1 rw", "", &[]);
    }

    #[test]
    fn what_cannot_be_had_is_told_with_what_to_do() {
        let none = Cgroups::default();
        let notes = none.missing("/c/chronos-1: Permission denied");
        assert_eq!(notes.len(), 2);
        assert!(notes.iter().all(|note| note.contains("Permission denied") && note.contains("Delegate=yes")));
        let group = none.make("a", Limits { memory_max: Some(1), cpu_millis: None }).expect("no error");
        assert_eq!(group, TaskCgroup::default());
    }
}
