//! A real mail server, started by the test, and a web server that remembers what it was sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::server::Folder;
use crate::skip::skip;
use crate::wait;

/// Debian's own Python: the package is for no other.
const PYTHON: &str = "/usr/bin/python3";

/// Whether there is one; says so where there is not.
pub(crate) fn is_here() -> bool {
    let works = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    if !works(Command::new(PYTHON).args(["-c", "import aiosmtpd"])) {
        skip("mail", "python3-aiosmtpd is not here");
        return false;
    }
    if !works(Command::new("openssl").arg("version")) {
        skip("mail", "openssl is not here");
        return false;
    }
    true
}

pub(crate) struct MailServer {
    child: Child,
    out: PathBuf,
    pub(crate) port: u16,
}

impl MailServer {
    pub(crate) fn start(folder: &Folder, args: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/mail_receiver.py");
        let out = folder.path().join("mails");
        let mut command = Command::new(PYTHON);
        command.arg("-B").arg(script).arg(&out).args(args).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("listening ").unwrap_or_else(|| panic!("it said {line:?}"));
        Self { child, out, port: port.parse().unwrap() }
    }

    pub(crate) fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// What has arrived, in order.
    pub(crate) fn mails(&self) -> Vec<Mail> {
        let text = std::fs::read_to_string(&self.out).unwrap_or_default();
        text.lines().map(|line| Mail(serde_json::from_str(line).unwrap())).collect()
    }

    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&[Mail]) -> bool) -> Vec<Mail> {
        wait::until(what, || Some(self.mails()).filter(|mails| wanted(mails)))
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A message as the mail server got it.
pub(crate) struct Mail(pub(crate) Value);

impl Mail {
    pub(crate) fn text(&self) -> &str {
        self.0["text"].as_str().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let line = self.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.text()))
    }
}

/// An authority and a certificate of `localhost` by it, as files: what to trust, certificate, key.
pub(crate) fn certificate(folder: &Folder) -> (PathBuf, PathBuf, PathBuf) {
    let at = |name: &str| folder.path().join(name);
    let openssl = |args: &[&str]| {
        let done = Command::new("openssl").args(args).current_dir(folder.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let new_key = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority =
        ["-x509", "-days", "2", "-subj", "/CN=Authority of the test", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&new_key[..], &authority[..]].concat());
    openssl(
        &[&new_key[..], &["-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "request.pem"]].concat(),
    );
    folder.file("names", "subjectAltName=DNS:localhost\n");
    openssl(&[
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "cert.pem",
    ]);
    (at("ca.pem"), at("cert.pem"), at("key.pem"))
}

/// One request that came.
#[derive(Clone)]
pub(crate) struct Post {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Post {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Answers each request with the next of its answers, the last one again and again.
pub(crate) struct WebServer {
    pub(crate) url: String,
    posts: Arc<Mutex<Vec<Post>>>,
}

impl WebServer {
    pub(crate) fn start(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let posts = Arc::new(Mutex::new(Vec::new()));
        let kept = posts.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Some(post) = read(&stream) else { continue };
                let mut kept = kept.lock().unwrap();
                let answer = answers[kept.len().min(answers.len() - 1)];
                kept.push(post);
                let _ = write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        Self { url, posts }
    }

    pub(crate) fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }

    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&[Post]) -> bool) -> Vec<Post> {
        wait::until(what, || Some(self.posts()).filter(|posts| wanted(posts)))
    }
}

fn read(stream: &TcpStream) -> Option<Post> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
    let mut body = vec![0; length.and_then(|length| length.trim().parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Post { head, body })
}
