//! Runs the machine: starts QEMU, listens to its consoles, and ends it when its time has come.
//!
//! QEMU never outlives the run. It is killed when the run returns for whatever reason, panics
//! included; on Linux the kernel kills it too should the tool itself be killed.

mod console;
mod transcript;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

pub use transcript::Transcript;

use crate::failure::{Failure, Kind, Result};
use crate::interrupt;
use crate::machine::{Console, QemuMachine};
use crate::process::Guarded;
use crate::setup::QEMU;
use console::Listener;

/// How often the run looks for signals and deadlines.
const POLL: Duration = Duration::from_millis(20);
/// How long the consoles may still speak once QEMU has ended: what is in the sockets.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the machine may go on once it said that it powers off.
const GRACE: Duration = Duration::from_secs(5);
/// What QEMU itself says, in the run's directory.
const LOG_FILE: &str = "qemu.log";
/// Console events in flight; a guest that prints faster waits.
const EVENTS: usize = 256;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The machine powered off and QEMU ended with status 0.
    PoweredOff,
    /// The machine said that it was about to power off, and did not.
    Stuck,
    /// Its time was over.
    TimedOut,
    /// QEMU ended in another way: what it said.
    Broke(String),
}

/// What whoever watches a run says about going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it run.
    Continue,
    /// The machine is about to power off: it gets a few seconds for that.
    Ending,
}

/// Bytes that a console said.
struct Event {
    console: Console,
    bytes: Vec<u8>,
}

/// Runs a machine in `directory`, which holds its image and disk. `watch` sees what each console
/// says, as it comes.
///
/// # Errors
///
/// When QEMU can't be started, or a signal asked the tool to end. QEMU is gone by then.
pub fn run(
    machine: &QemuMachine,
    directory: &Path,
    limit: Option<Duration>,
    mut watch: impl FnMut(Console, &[u8]) -> Verdict,
) -> Result<Ended> {
    let (sender, events) = mpsc::sync_channel(EVENTS);
    // Declared before QEMU, so that on every way out QEMU goes first.
    let mut listeners = Vec::new();
    for console in Console::ALL {
        listeners.push(Listener::new(console, directory, sender.clone())?);
    }
    drop(sender);
    let mut qemu = start(machine, directory)?;

    let mut deadline = limit.map(|limit| Instant::now() + limit);
    let mut ending = false;
    let passed = |deadline: Option<Instant>| deadline.is_some_and(|at| Instant::now() >= at);
    let status = loop {
        match events.recv_timeout(POLL) {
            Ok(Event { console, bytes }) => {
                if watch(console, &bytes) == Verdict::Ending && !ending {
                    ending = true;
                    let grace = Instant::now() + GRACE;
                    deadline = Some(deadline.map_or(grace, |at| at.min(grace)));
                }
                // A machine that never stops printing is stopped all the same.
                if !interrupt::requested() && !passed(deadline) {
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // QEMU has closed all its consoles: it is about to end.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(POLL),
        }
        if interrupt::requested() {
            return Err(Failure::interrupted());
        }
        let status = qemu.0.try_wait();
        if let Some(status) = status.map_err(|error| Failure::system("can't wait for QEMU", error))? {
            break Some(status);
        }
        if passed(deadline) {
            break None;
        }
    };

    let said =
        if status.is_some_and(|status| !status.success()) { last_words(directory) } else { String::new() };
    drop(qemu);
    drop(listeners);
    let drained = Instant::now() + DRAIN;
    while let Ok(Event { console, bytes }) =
        events.recv_timeout(drained.saturating_duration_since(Instant::now()))
    {
        watch(console, &bytes);
    }
    Ok(match status {
        Some(status) if status.success() => Ended::PoweredOff,
        Some(status) => Ended::Broke(format!("QEMU failed with {status}{said}")),
        None if ending => Ended::Stuck,
        None => Ended::TimedOut,
    })
}

fn start(machine: &QemuMachine, directory: &Path) -> Result<Guarded> {
    let problem = |error| Failure::system("can't write QEMU's log to the temporary directory", error);
    // A file, because a pipe that nobody reads could stop QEMU.
    let log = File::create(directory.join(LOG_FILE)).map_err(problem)?;
    let mut command = dying_with_us(QEMU);
    command
        .args(machine.arguments())
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    // A group of its own: a terminal's Ctrl-C reaches the tool, which then ends QEMU.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command.spawn().map_err(|error| {
        Failure::new(Kind::NotPrepared, format!("can't start {QEMU}: {error}. Run `cargo run -- setup`"))
    })?;
    Ok(Guarded(child))
}

/// A command that the kernel kills when the tool dies without a chance to do it itself: on Linux, by
/// the parent-death signal that `setpriv` of util-linux sets before it becomes the program.
fn dying_with_us(program: &str) -> Command {
    const SETPRIV: &str = "/usr/bin/setpriv";
    if cfg!(target_os = "linux") && Path::new(SETPRIV).is_file() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", "--", program]);
        command
    } else {
        Command::new(program)
    }
}

/// The last lines that QEMU wrote to standard error.
fn last_words(directory: &Path) -> String {
    const LINES: usize = 10;
    let text = fs::read(directory.join(LOG_FILE)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    match &lines[lines.len().saturating_sub(LINES)..] {
        [] => String::new(),
        lines => format!(". Its last lines:\n{}", lines.join("\n")),
    }
}
