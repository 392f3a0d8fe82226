//! Runs the tool, `cloister`, as a user would.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::workspace::root;
use crate::wrapper::Wrapper;

/// How long a run may take, the first build of the bare-metal binaries included. The tool's own
/// `--timeout` is shorter: this one is for a tool that hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// A command line of the tool's.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    /// Whether it boots a hypervisor whose oracle is to look, and to find nothing.
    watched: bool,
    /// Holds what the tool prints.
    directory: TempDir,
}

/// What came of a run.
#[derive(Debug)]
pub struct ToolRun {
    /// The exit status; `None` if a signal ended the tool.
    pub status: Option<i32>,
    /// The JSON record; null if there was none.
    pub record: Value,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A run that has not ended. Ends the tool when dropped, and keeps other runs of this machine waiting
/// until then.
#[derive(Debug)]
pub struct Running {
    child: Child,
    watched: bool,
    directory: TempDir,
    _turn: File,
}

impl Tool {
    /// The tool with these arguments, and nothing on its standard input.
    ///
    /// # Panics
    ///
    /// If the tool can't be built.
    #[must_use]
    pub fn new(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(root());
        Self { command, watched: false, directory }
    }

    /// `boot --json` with these arguments, of a hypervisor that holds all tables against all records
    /// after each call and each exit. [`Running::finish`] sees to it that it did, and that it found
    /// nothing: what a system test boots is watched unless the test says why not
    /// ([`Self::boot_shipped`]).
    #[must_use]
    pub fn boot(arguments: &[&str]) -> Self {
        let mut tool = Self::new(&["boot", "--json", "--oracle"]);
        tool.command.args(arguments);
        tool.watched = true;
        tool
    }

    /// `boot --json` with these arguments, of the hypervisor that ships, and why it has to be that one.
    #[must_use]
    pub fn boot_shipped(arguments: &[&str], why: &str) -> Self {
        Self::boot_unwatched(arguments, why)
    }

    /// `boot --json` with these arguments, of a hypervisor that has no oracle, and why it has none.
    #[must_use]
    pub fn boot_unwatched(arguments: &[&str], why: &str) -> Self {
        println!("without the oracle: {why}");
        let mut tool = Self::new(&["boot", "--json"]);
        tool.command.args(arguments);
        tool
    }

    /// `boot --json` with this bug switched on, of a hypervisor that has bugs, and an oracle to find
    /// them.
    #[must_use]
    pub fn boot_with_bug(bug: &str, arguments: &[&str]) -> Self {
        let mut tool = Self::new(&["boot", "--json", "--seeded", bug]);
        tool.command.args(arguments);
        tool
    }

    /// Lets the tool find this QEMU before all others.
    #[must_use]
    pub fn with(mut self, qemu: &Wrapper) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::iter::once(qemu.directory().to_owned())
            .chain(std::env::split_paths(&path).collect::<Vec<_>>());
        let path = std::env::join_paths(directories).expect("a path without separators");
        self.command.env("PATH", path);
        self
    }

    /// Starts the tool, once no other runs.
    ///
    /// # Panics
    ///
    /// If it can't be started.
    #[must_use]
    pub fn start(mut self) -> Running {
        let turn = turn();
        let output = |name| File::create(self.directory.path().join(name)).expect("a new file");
        let child = self
            .command
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .expect("the tool starts");
        Running { child, watched: self.watched, directory: self.directory, _turn: turn }
    }

    /// Runs the tool to its end.
    ///
    /// # Panics
    ///
    /// As [`Running::finish`].
    #[must_use]
    #[track_caller]
    pub fn run(self) -> ToolRun {
        self.start().finish()
    }
}

impl Running {
    /// Sends a signal, named as `kill` names it.
    ///
    /// # Panics
    ///
    /// If there is no `kill`.
    pub fn signal(&self, name: &str) {
        signal(name, self.child.id());
    }

    /// Waits for the end.
    ///
    /// # Panics
    ///
    /// If it does not come in time, or if it was to be watched and the oracle did not look or did not
    /// like what it saw.
    #[must_use]
    #[track_caller]
    pub fn finish(mut self) -> ToolRun {
        let status = self.wait(PATIENCE);
        let read = |name| {
            let bytes = fs::read(self.directory.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (stdout, stderr) = (read("stdout"), read("stderr"));
        let status = status.unwrap_or_else(|| panic!("the tool hangs; it said:\n{stderr}"));
        let record = serde_json::from_str(&stdout).unwrap_or(Value::Null);
        let run = ToolRun { status: status.code(), record, stdout, stderr };
        if self.watched
            && let Err(fault) = watched(&run.record)
        {
            panic!("{fault}: {run}");
        }
        run
    }

    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Politely first, so that the tool ends its QEMU.
        if matches!(self.child.try_wait(), Ok(None)) {
            signal("TERM", self.child.id());
            if self.wait(Duration::from_secs(5)).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

impl ToolRun {
    /// The field of the record at a path of names.
    ///
    /// # Panics
    ///
    /// If the record does not have it; null is a value.
    #[must_use]
    pub fn field(&self, path: &str) -> &Value {
        let pointer = format!("/{}", path.replace('.', "/"));
        self.record.pointer(&pointer).unwrap_or_else(|| panic!("the record has no {path}: {self}"))
    }

    /// The field as a number.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[must_use]
    pub fn number(&self, path: &str) -> u64 {
        self.field(path).as_u64().unwrap_or_else(|| panic!("{path} is no number: {self}"))
    }

    /// The field as text.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[must_use]
    pub fn text(&self, path: &str) -> &str {
        self.field(path).as_str().unwrap_or_else(|| panic!("{path} is no text: {self}"))
    }

    /// Checks the exit status, and that the record agrees with it.
    ///
    /// # Panics
    ///
    /// If not.
    #[track_caller]
    pub fn expect_status(&self, status: i32) {
        assert_eq!(self.status, Some(status), "{self}");
        assert_eq!(self.text("schema"), "cloister.boot/1");
        assert_eq!(*self.field("ok"), Value::Bool(status == 0), "{self}");
        assert_eq!(self.field("error").is_null(), status == 0, "{self}");
        if status != 0 {
            assert!(!self.text("error.code").is_empty(), "{self}");
            assert!(!self.text("error.message").is_empty(), "{self}");
        }
    }
}

impl std::fmt::Display for ToolRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\nstatus {:?}\n--- stdout\n{}\n--- stderr\n{}", self.status, self.stdout, self.stderr)
    }
}

/// Whether the oracle looked, at least once for each thing that EL2 was asked, and found nothing: as far
/// as this record of a boot goes. It tells how often when the machine powers off; a run that is ended
/// before that, or that comes to no machine, has nothing to tell.
fn watched(record: &Value) -> Result<(), &'static str> {
    if record["exit"]["reason"] == "panic" {
        return Err("the hypervisor stopped the machine");
    }
    let powered_off = !record["teardown"].is_null() && record["exit"]["reason"] != "timeout";
    if record["ok"] != true && !powered_off {
        return Ok(());
    }
    let number = |path: &str| record.pointer(path).and_then(Value::as_u64);
    let (Some(hypercalls), Some(exits)) = (number("/cost/hypercalls"), number("/cost/exits")) else {
        return Err("nobody knows what EL2 was asked");
    };
    match number("/oracle/checks") {
        Some(checks) if exits != 0 && checks > hypercalls + exits => Ok(()),
        Some(_) => Err("the oracle looked less often than EL2 was asked"),
        None => Err("the oracle did not look"),
    }
}

/// Sends a signal to a process. Whether it was still there is the answer.
///
/// # Panics
///
/// If there is no `kill`.
pub fn signal(name: &str, process: u32) -> bool {
    Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .stderr(Stdio::null())
        .status()
        .expect("`kill` runs")
        .success()
}

/// Whether a process ends within so much time.
#[must_use]
pub fn ends_within(process: u32, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while signal("0", process) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// Waits until no other test on this machine, in whatever process, runs the tool: two cores do not
/// carry two machines and the time limits.
fn turn() -> File {
    let directory = root().join("target");
    fs::create_dir_all(&directory).expect("the build directory");
    let file = File::create(directory.join("system-tests.lock")).expect("the lock file");
    file.lock().expect("a turn");
    file
}

/// Has the tool prepare the machine, once per process: QEMU is there afterwards.
///
/// # Panics
///
/// If it can't.
pub fn prepare_machine() {
    static PREPARED: OnceLock<()> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let run = Tool::new(&["setup"]).run();
        assert_eq!(run.status, Some(0), "{run}");
    });
}

/// The tool, built once per process.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--package", "qemu", "--bin", "cloister"])
            .arg("--message-format=json")
            .current_dir(root())
            .stdin(Stdio::null())
            .output()
            .expect("cargo runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the tool does not build:\n{stderr}");
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .expect("cargo names the executable")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The record of a boot that went well.
    fn good() -> Value {
        json!({
            "ok": true,
            "cost": { "hypercalls": 20, "exits": 30 },
            "teardown": { "pages_returned": 4 },
            "oracle": { "checks": 60 },
            "exit": { "reason": "guest-off" },
        })
    }

    #[track_caller]
    fn verdict(changes: &[(&str, Value)]) -> Result<(), &'static str> {
        let mut record = good();
        for (path, value) in changes {
            *record.pointer_mut(path).unwrap() = value.clone();
        }
        watched(&record)
    }

    #[test]
    fn a_boot_that_went_well_was_looked_at() {
        assert_eq!(verdict(&[]), Ok(()));
        let silent = ("/oracle", Value::Null);
        verdict(std::slice::from_ref(&silent)).unwrap_err();
        verdict(&[("/teardown", Value::Null), silent]).unwrap_err();
        verdict(&[("/oracle/checks", json!(0))]).unwrap_err();
        verdict(&[("/oracle/checks", json!(50))]).unwrap_err();
        verdict(&[("/cost", Value::Null)]).unwrap_err();
    }

    #[test]
    fn so_was_one_whose_guest_failed() {
        let failed = [("/ok", json!(false)), ("/exit/reason", Value::Null)];
        assert_eq!(verdict(&failed), Ok(()));
        verdict(&[&failed[..], &[("/oracle", Value::Null)]].concat()).unwrap_err();
    }

    #[test]
    fn a_difference_is_no_result() {
        let stopped = [("/ok", json!(false)), ("/teardown", Value::Null), ("/exit/reason", json!("panic"))];
        verdict(&stopped).unwrap_err();
    }

    #[test]
    fn a_run_that_does_not_come_to_its_end_has_nothing_to_tell() {
        let silent = [("/ok", json!(false)), ("/oracle", Value::Null), ("/cost", Value::Null)];
        let with = |more: &[(&str, Value)]| verdict(&[&silent[..], more].concat());
        assert_eq!(with(&[("/teardown", Value::Null)]), Ok(()));
        assert_eq!(with(&[("/exit/reason", json!("timeout"))]), Ok(()));
        assert_eq!(watched(&Value::Null), Ok(()));
    }
}
