//! The host's console: the first PL011. Text for people, and records for the tool.

use core::fmt::{self, Write};
use core::ptr::NonNull;

use arm_pl011_uart::{PL011Registers, Uart};
use bare_rt::el1::lock::IrqLock;
use safe_mmio::UniqueMmioPointer;
use shared_abi::record::{PREFIX, Record};

static CONSOLE: IrqLock<Option<Console>> = IrqLock::new(None);

/// The UART as a stream of text.
struct Console(Uart<'static>);

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        embedded_io::Write::write_all(&mut self.0, text.as_bytes()).map_err(|_| fmt::Error)
    }
}

/// Opens the console.
///
/// # Safety
///
/// `registers` is the address of a PL011 that nothing else uses, mapped as a device for good.
pub(crate) unsafe fn init(registers: u64) {
    // SAFETY: the caller gives the address of a PL011 that nothing else uses, mapped as a device for good.
    *CONSOLE.lock() = unsafe { open(registers) };
}

/// A UART at an address; none is at 0.
///
/// # Safety
///
/// The address is that of a PL011 that nothing else uses.
unsafe fn open(registers: u64) -> Option<Console> {
    let registers = core::ptr::with_exposed_provenance_mut::<PL011Registers>(registers as usize);
    let registers = NonNull::new(registers)?;
    // SAFETY: the caller gives the address of a PL011 that nothing else uses.
    Some(Console(Uart::new(unsafe { UniqueMmioPointer::new(registers) })))
}

/// Writes a [`Record::Refused`] to a UART while the MMU is off and there are no locks.
///
/// # Safety
///
/// As [`init`], but for the mapping. Nothing else runs, and the machine powers off next.
pub(crate) unsafe fn early_epitaph(registers: u64, message: fmt::Arguments<'_>) {
    // SAFETY: the caller gives the address of a PL011. Nothing else runs, so that nothing else uses it.
    if let Some(mut console) = unsafe { open(registers) } {
        let _ = writeln!(console, "{PREFIX}refused {message}");
    }
}

/// Writes a line for people.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    if let Some(console) = CONSOLE.lock().as_mut() {
        // A UART takes everything; there is nobody to tell if it does not.
        let _ = writeln!(console, "host: {text}");
    }
}

/// Writes a record's line.
pub(crate) fn record(record: &Record<'_>) {
    if let Some(console) = CONSOLE.lock().as_mut() {
        let _ = writeln!(console, "{record}");
    }
}

/// Writes the last lines before the machine powers off: what is known, and a [`Record::Refused`].
///
/// It does not wait for the console for ever: who holds it may be the code that failed.
pub(crate) fn epitaph(details: fmt::Arguments<'_>, message: fmt::Arguments<'_>) {
    const ATTEMPTS: usize = 1_000_000;
    let Some(mut console) = (0..ATTEMPTS).find_map(|_| CONSOLE.try_lock()) else {
        return;
    };
    if let Some(console) = console.as_mut() {
        let mut text = heapless::String::<256>::new();
        // What does not fit is cut off.
        let _ = write!(text, "{message}");
        let message = text.lines().next().unwrap_or_default();
        let _ = write!(console, "{details}");
        let _ = writeln!(console, "{}", Record::Refused { message });
    }
}
