//! A Mesos cluster for tests, by `testing/mesos-local`. Included by the tests that use one.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

/// Masters and agents of their own, which end with this value or with the process, tasks too.
pub(crate) struct Mesos {
    masters: Vec<String>,
    zk: Option<String>,
    /// Closed at the end, which the cluster's keeper takes as the order to end it.
    orders: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
    keeper: Child,
    folder: tempfile::TempDir,
}

impl Mesos {
    /// Starts one, with options of `testing/mesos-local/run`; or why it cannot run here.
    pub(crate) fn start(options: &[&str]) -> Result<Self, String> {
        let folder =
            tempfile::Builder::new().prefix("chronos-mesos-").tempdir().map_err(|e| e.to_string())?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/mesos-local/run");
        let mut command = Command::new(script);
        command.arg(folder.path().join("cluster")).args(options);
        let mut keeper =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        let orders = keeper.stdin.take().expect("piped");
        let mut said = BufReader::new(keeper.stdout.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).map_err(|e| e.to_string())?;
        let mut words = line.split_whitespace();
        let (first, masters) = (words.next(), words.next().unwrap_or_default());
        let masters = masters.split(',').map(str::to_owned).collect();
        let zk = words.next().map(str::to_owned);
        let this = Self { masters, zk, orders: Mutex::new(Some((orders, said))), keeper, folder };
        match first {
            Some("listening") => Ok(this),
            Some(_) => Err(line.trim().trim_start_matches("cannot ").into()),
            None => Err("Mesos does not start here".into()),
        }
    }

    /// `host:port` of an agent: agents listen on the ports after that of the first master.
    pub(crate) fn agent(&self, number: u16) -> String {
        let (host, port) = self.masters[0].rsplit_once(':').expect("a port");
        let first: u16 = port.parse().expect("a number");
        format!("{host}:{}", first + 1 + number)
    }

    /// Where the masters say who leads: `zk://..`, or the only one.
    pub(crate) fn address(&self) -> String {
        self.zk.clone().unwrap_or_else(|| self.masters[0].clone())
    }

    /// Gives an order, see the script; returns when it has come true, with what there is to say.
    #[track_caller]
    pub(crate) fn order(&self, order: &str) -> String {
        let answer = self.try_order(order);
        answer.unwrap_or_else(|why| panic!("{order}: {why}"))
    }

    fn try_order(&self, order: &str) -> Result<String, String> {
        let mut lock = self.orders.lock().expect("nobody panics with it");
        let (orders, said) = lock.as_mut().expect("it was not ended");
        writeln!(orders, "{order}").expect("its keeper lives");
        let mut line = String::new();
        said.read_line(&mut line).expect("its keeper speaks text");
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("done", said) => Ok(said.into()),
            (_, why) => Err(why.into()),
        }
    }

    /// Name and address of the master that leads now, if one does.
    pub(crate) fn leader(&self) -> Option<(String, String)> {
        let name = self.try_order("leader").ok()?;
        let number: usize = name.strip_prefix("master-")?.parse().ok()?;
        Some((name, self.masters[number].clone()))
    }

    /// What all masters have logged.
    pub(crate) fn log(&self) -> String {
        let of = |n: usize| std::fs::read(self.file(&format!("log/master-{n}.log"))).unwrap_or_default();
        (0..self.masters.len()).map(|n| String::from_utf8_lossy(&of(n)).into_owned()).collect()
    }

    /// A file of the cluster.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("cluster").join(name)
    }
}

impl Drop for Mesos {
    fn drop(&mut self) {
        if let Ok(mut orders) = self.orders.lock() {
            orders.take();
        }
        let _ = self.keeper.wait();
    }
}
