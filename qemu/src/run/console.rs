//! One console of the machine: a socket that QEMU connects to, and a thread that reads it.

use std::io::{ErrorKind, Read as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use super::Event;
use crate::failure::{Failure, Result};
use crate::machine::Console;

/// How often a thread that waits for QEMU looks whether it still should.
const POLL: Duration = Duration::from_millis(5);
/// Bytes read at a time.
const CHUNK: usize = 4096;

/// A console that is listened to as long as this value lives.
pub(super) struct Listener {
    given_up: Arc<AtomicBool>,
}

impl Listener {
    /// Makes the console's socket in `directory` and sends on what comes from it.
    pub(super) fn new(console: Console, directory: &Path, events: SyncSender<Event>) -> Result<Self> {
        let path = directory.join(console.socket());
        let problem = |error| Failure::system(format!("can't listen on {}", path.display()), error);
        let listener = UnixListener::bind(&path).map_err(problem)?;
        // QEMU may never come, so nobody waits in `accept`.
        listener.set_nonblocking(true).map_err(problem)?;
        let given_up = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&given_up);
        thread::spawn(move || {
            if let Some(stream) = accept(&listener, &flag) {
                forward(console, stream, &events);
            }
        });
        Ok(Self { given_up })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

fn accept(listener: &UnixListener, given_up: &AtomicBool) -> Option<UnixStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                // On some systems it inherits the listener's mode.
                stream.set_nonblocking(false).ok()?;
                return Some(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Looked at only when nobody is waiting: a QEMU that came and went is still heard.
                if given_up.load(Ordering::Relaxed) {
                    return None;
                }
                thread::sleep(POLL);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// Sends on what comes until QEMU is gone, or nobody listens any more.
fn forward(console: Console, mut stream: UnixStream, events: &SyncSender<Event>) {
    let mut chunk = [0; CHUNK];
    loop {
        let bytes = match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(length) => chunk[..length].to_vec(),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if events.send(Event { console, bytes }).is_err() {
            return;
        }
    }
}
