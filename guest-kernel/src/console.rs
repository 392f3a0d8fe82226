//! The console: virtio-console if there is one, else a PL011; what is printed before either is known
//! is kept for it.

use core::convert::Infallible;
use core::fmt::{self, Write as _};
use core::ptr::{self, NonNull};

use heapless::Vec;
use safe_mmio::UniqueMmioPointer;
use safe_mmio::fields::WriteOnly;
use spin::Mutex;

use crate::virtio::console::VirtioConsole;

/// Bytes that are kept until there is a console.
const EARLY_BYTES: usize = 1024;

/// Bytes of a line that go out in one request; every record fits.
const LINE_BYTES: usize = 512;

struct State {
    early: Vec<u8, EARLY_BYTES>,
    uart: Option<u64>,
    virtio: Option<VirtioConsole>,
}

/// Not an `IrqLock`: a write may wait for the device's interrupt. No interrupt handler prints.
static STATE: Mutex<State> = Mutex::new(State { early: Vec::new(), uart: None, virtio: None });

/// The console, as a byte stream and as a formatter's target.
#[derive(Clone, Copy, Debug, Default)]
pub struct Console;

/// Names a PL011 whose registers are mapped.
pub(crate) fn set_uart(registers: u64) {
    STATE.lock().uart = Some(registers);
}

/// Moves the console to a virtio device.
pub(crate) fn set_virtio(device: VirtioConsole) {
    STATE.lock().virtio = Some(device);
}

/// All devices are known: what was kept is printed on the best of them.
pub(crate) fn flush_early() {
    let mut state = STATE.lock();
    let early = core::mem::take(&mut state.early);
    state.write(&early);
}

/// Prints on the way down. If the failure came while a line was being printed, nothing can be added.
pub(crate) fn print_last(report: fmt::Arguments<'_>) {
    if let Some(mut state) = STATE.try_lock() {
        let early = core::mem::take(&mut state.early);
        state.write(&early);
        // Nobody is left to tell if this fails.
        let _ = writeln!(Formatter(&mut state), "\n{report}");
    }
}

impl State {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(virtio) = &mut self.virtio
            && virtio.write(bytes).is_ok()
        {
            return;
        }
        match self.uart {
            Some(registers) => write_uart(registers, bytes),
            None => {
                // What does not fit is lost.
                let room = EARLY_BYTES - self.early.len();
                let _ = self.early.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
    }
}

/// Writes to UARTDR, a byte at a time: an emulated PL011 is never full, and so its flags are not
/// looked at.
fn write_uart(registers: u64, bytes: &[u8]) {
    let data = ptr::with_exposed_provenance_mut::<WriteOnly<u8>>(registers as usize);
    let Some(data) = NonNull::new(data) else {
        return;
    };
    // SAFETY: `set_uart` was told that the registers are mapped; the lock makes this the only access.
    let mut data = unsafe { UniqueMmioPointer::new(data) };
    for byte in bytes {
        data.write(*byte);
    }
}

struct Formatter<'a>(&'a mut State);

impl fmt::Write for Formatter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        STATE.lock().write(text.as_bytes());
        Ok(())
    }
}

impl embedded_io::ErrorType for Console {
    type Error = Infallible;
}

impl embedded_io::Write for Console {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        STATE.lock().write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(()) // every write waits for the device
    }
}

#[doc(hidden)]
pub fn print(text: fmt::Arguments<'_>) {
    // A line goes out whole: one request to the device instead of one for each piece.
    let mut line = Line(Vec::new());
    let _ = line.write_fmt(text);
    line.send();
}

/// Collects pieces of text.
struct Line(Vec<u8, LINE_BYTES>);

impl Line {
    fn send(&mut self) {
        STATE.lock().write(&self.0);
        self.0.clear();
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.0.push(byte).is_err() {
                self.send();
                // There is room now.
                let _ = self.0.push(byte);
            }
        }
        Ok(())
    }
}

/// Prints a line on the console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::console::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}
