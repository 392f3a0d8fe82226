//! The hypervisor's own console: the second PL011, which the host never reaches.

use core::fmt::{Display, Write};

use arm_pl011_uart::{DataBits, LineConfig, PL011Registers, Parity, StopBits, Uart};
use safe_mmio::UniqueMmioPointer;
use shared_abi::addr::Pa;
use shared_abi::record::Record;
use spin::Once;
use spin::mutex::TicketMutex;

/// The usual rate.
const BAUD: u32 = 115_200;
/// The usual reference clock of a PL011 on Arm's boards.
const CLOCK_HZ: u32 = 24_000_000;

static CONSOLE: Once<TicketMutex<Uart<'static>>> = Once::new();

/// Takes the PL011 at `registers` for the hypervisor; once, on the boot CPU.
///
/// # Safety
///
/// `registers` is the PL011 that the device tree names for the hypervisor, mapped as a device, and no
/// one else uses it.
pub(crate) unsafe fn init(registers: Pa) {
    let Some(pointer) = core::ptr::NonNull::new(core::ptr::with_exposed_provenance_mut::<PL011Registers>(
        registers.0 as usize,
    )) else {
        return;
    };
    // SAFETY: the caller gives the registers of a PL011 that are mapped as a device and that nobody else uses, now
    // or later.
    let registers = unsafe { UniqueMmioPointer::new(pointer) };
    let mut uart = Uart::new(registers);
    let line = LineConfig { data_bits: DataBits::Bits8, parity: Parity::None, stop_bits: StopBits::One };
    // A rate that can't be had leaves the UART as the firmware set it.
    let _ = uart.enable(line, BAUD, CLOCK_HZ);
    CONSOLE.call_once(|| TicketMutex::new(uart));
}

/// Reports to the tool.
pub(crate) fn record(record: &Record<'_>) {
    line(record);
}

/// Writes a line. Without a console it is lost.
pub(crate) fn line(line: &dyn Display) {
    if let Some(console) = CONSOLE.get() {
        write(&mut console.lock(), line);
    }
}

fn write(uart: &mut Uart<'static>, line: &dyn Display) {
    // The PL011 reports no errors on transmission.
    let _ = write!(uart, "{line}\r\n");
}

/// Writes one line from a CPU that will do nothing else any more: if another CPU holds the console for
/// long, or this one did when it failed, the line is written through it all the same.
pub(crate) fn last_line(record: &Record<'_>) {
    /// Turns to wait for the holder; far more than a line takes.
    const PATIENCE: u32 = 1 << 24;
    let Some(console) = CONSOLE.get() else { return };
    for _ in 0..PATIENCE {
        if let Some(mut uart) = console.try_lock() {
            return write(&mut uart, record);
        }
        core::hint::spin_loop();
    }
    // SAFETY: the holder, if it runs on, may write to the PL011 at the same time. PL011 writes are single volatile
    // stores to one register, so that both lines may be garbled and nothing else.
    unsafe { console.force_unlock() };
    write(&mut console.lock(), record);
}
