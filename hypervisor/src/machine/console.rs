//! The hypervisor's own console: the second PL011, which the host cannot reach.

use core::fmt::{Display, Write};

use arm_pl011_uart::{DataBits, LineConfig, PL011Registers, Parity, StopBits, Uart};
use safe_mmio::UniqueMmioPointer;
use shared_abi::addr::Pa;
use shared_abi::record::Record;
use spin::Once;
use spin::mutex::TicketMutex;

/// The usual baud rate.
const BAUD: u32 = 115_200;
/// The usual reference clock of a PL011 on Arm's boards, in Hz.
const CLOCK_HZ: u32 = 24_000_000;

static CONSOLE: Once<TicketMutex<Uart<'static>>> = Once::new();

/// Takes the PL011 at `registers` for the hypervisor. The boot CPU calls this once.
///
/// # Safety
///
/// `registers` is a PL011, mapped as a device, that no other code uses, now or later.
pub(crate) unsafe fn init(registers: Pa) {
    let Some(pointer) = core::ptr::NonNull::new(core::ptr::with_exposed_provenance_mut::<PL011Registers>(
        registers.0 as usize,
    )) else {
        return;
    };
    // SAFETY: the caller gives a PL011, mapped as a device, that no other code uses, now or later.
    let registers = unsafe { UniqueMmioPointer::new(pointer) };
    let mut uart = Uart::new(registers);
    let line = LineConfig { data_bits: DataBits::Bits8, parity: Parity::None, stop_bits: StopBits::One };
    // If the driver refuses the rate, the UART keeps the firmware's settings.
    let _ = uart.enable(line, BAUD, CLOCK_HZ);
    CONSOLE.call_once(|| TicketMutex::new(uart));
}

/// Writes a record for the tool.
pub(crate) fn record(record: &Record<'_>) {
    line(record);
}

/// Writes a line. Without a console the line is lost.
pub(crate) fn line(line: &dyn Display) {
    if let Some(console) = CONSOLE.get() {
        write(&mut console.lock(), line);
    }
}

fn write(uart: &mut Uart<'static>, line: &dyn Display) {
    // The PL011 reports no errors on transmission.
    let _ = write!(uart, "{line}\r\n");
}

/// Writes the last line of a CPU that failed. If the console stays locked for long (by another CPU, or by this one
/// when it failed), the line is written without the lock.
pub(crate) fn last_line(record: &Record<'_>) {
    /// The number of attempts to take the lock: far longer than a line takes.
    const PATIENCE: u32 = 1 << 24;
    let Some(console) = CONSOLE.get() else { return };
    for _ in 0..PATIENCE {
        if let Some(mut uart) = console.try_lock() {
            return write(&mut uart, record);
        }
        core::hint::spin_loop();
    }
    // SAFETY: `force_unlock` requires that the holder no longer uses the lock. A holder that still runs only writes
    // to the PL011, by single volatile stores to one register (the driver does so), so at worst the lines mix.
    unsafe { console.force_unlock() };
    write(&mut console.lock(), record);
}
