//! Other programs: run to their end in bounded time, and never left behind.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::interrupt;

/// How often a wait looks for signals and deadlines.
const POLL: Duration = Duration::from_millis(50);

/// A child process that is killed and reaped when its owner is done with it, however that comes.
#[derive(Debug)]
pub struct Guarded(pub Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Output {
    /// Its exit status; `None` if it outlasted its time and was killed.
    pub status: Option<ExitStatus>,
    /// All that it wrote, standard output and standard error as they came.
    pub text: String,
}

impl Output {
    /// Whether it ended with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The last line that says something.
    #[must_use]
    pub fn last_line(&self) -> &str {
        let mut lines = self.text.lines().rev();
        lines.find(|line| !line.trim().is_empty()).unwrap_or("")
    }
}

/// Runs a program without input, hands each line that it writes to `on_line`, and waits for it.
///
/// # Errors
///
/// When it can't be started, or a signal asked the tool to end; it is dead by then.
pub fn run(command: &mut Command, limit: Duration, mut on_line: impl FnMut(&str)) -> Result<Output> {
    let program = command.get_program().display().to_string();
    let deadline = Instant::now() + limit;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::system(format!("can't run {program}"), error))?;
    let mut child = Guarded(child);
    let (sender, lines) = mpsc::channel();
    let stdout = child.0.stdout.take();
    let stderr = child.0.stderr.take();
    forward(stdout, &sender);
    forward(stderr, &sender);
    drop(sender);

    let mut text = String::new();
    let mut status = None;
    loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => {
                on_line(&line);
                text.push_str(&line);
                text.push('\n');
                continue;
            }
            // Both pipes are closed: it has ended, or is about to.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL / 10),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if status.is_some() || Instant::now() > deadline {
            return Ok(Output { status, text });
        }
        if interrupt::requested() {
            return Err(Failure::interrupted());
        }
        // Once it has ended, one more turn collects what is still in the pipes.
        status = child
            .0
            .try_wait()
            .map_err(|error| Failure::system(format!("can't wait for {program}"), error))?;
    }
}

fn forward(pipe: Option<impl Read + Send + 'static>, sender: &mpsc::Sender<String>) {
    let Some(pipe) = pipe else { return };
    let sender = sender.clone();
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line);
            if sender.send(text.trim_end().to_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_collected() {
        let mut seen = 0;
        let output =
            run(&mut shell("echo one; echo two >&2; exit 3"), Duration::from_secs(10), |_| seen += 1)
                .unwrap();
        assert_eq!(output.status.and_then(|status| status.code()), Some(3));
        assert!(output.text.contains("one\n") && output.text.contains("two\n"));
        assert_eq!(seen, 2);
    }

    #[test]
    fn a_program_that_outlasts_its_time_is_killed() {
        let start = Instant::now();
        let output = run(&mut shell("exec sleep 60"), Duration::from_millis(100), |_| ()).unwrap();
        assert!(output.status.is_none());
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_missing_program_is_a_failure() {
        assert!(run(&mut Command::new("/nonexistent"), POLL, |_| ()).is_err());
    }
}
