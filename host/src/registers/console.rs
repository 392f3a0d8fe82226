//! One console for two guests and the host: a line goes out whole.

use core::convert::Infallible;
use core::fmt;

use embedded_io::Write as _;

use crate::bare::console_port::ConsolePort;
use crate::bare::sleep_lock::SleepLock;

/// The longest line; a longer one is cut into several pieces.
const LINE_BYTES: usize = 1024;

static PORT: SleepLock<Option<ConsolePort>> = SleepLock::new(None);

/// Names the machine's console.
pub(super) fn open(port: ConsolePort) {
    *PORT.lock() = Some(port);
}

/// A party's console. It sends each line when the line ends.
#[derive(Default)]
pub(super) struct Lines(heapless::Vec<u8, LINE_BYTES>);

impl Lines {
    fn push(&mut self, byte: u8) {
        // There is room: a full line is sent below.
        let _ = self.0.push(byte);
        if byte == b'\n' || self.0.is_full() {
            if let Some(port) = PORT.lock().as_mut() {
                // The test fails if a line is missing.
                let _ = port.write_all(&self.0);
            }
            self.0.clear();
        }
    }
}

impl embedded_io::ErrorType for Lines {
    type Error = Infallible;
}

impl embedded_io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        bytes.iter().for_each(|byte| self.push(*byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl fmt::Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}
