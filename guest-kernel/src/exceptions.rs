//! What happens when something goes wrong: a report on the console, then a reset of the VM.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use bare_rt::el1::frame::{Frame, Vector};
use bare_rt::el1::vectors::Handlers;

use crate::{console, interrupts, power};

/// The handlers of this kernel.
pub(crate) struct Exceptions;

impl Handlers for Exceptions {
    fn synchronous(frame: &mut Frame) {
        fail_at(frame, format_args!("fault"));
    }

    fn irq(_: &mut Frame) {
        interrupts::handle();
    }

    fn other(frame: &mut Frame, vector: Vector) {
        fail_at(frame, format_args!("{vector}"));
    }
}

/// The host reads the console, and a protected VM's registers are none of its business.
static PRIVATE: AtomicBool = AtomicBool::new(false);

/// From now on a report names the place and the cause of a fault, but no general register.
pub(crate) fn keep_registers_private() {
    PRIVATE.store(true, Ordering::Relaxed);
}

fn fail_at(frame: &Frame, what: fmt::Arguments<'_>) -> ! {
    if PRIVATE.load(Ordering::Relaxed) {
        fail(format_args!(
            "{what}: {}\nelr={:016x} esr={:x} far={:016x}; the other registers are private",
            frame.syndrome(),
            frame.elr,
            frame.esr,
            frame.far
        ))
    }
    fail(format_args!("{what}: {frame}"))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}

/// Prints a last report and resets the VM. A failure on the way there ends the report.
pub(crate) fn fail(report: fmt::Arguments<'_>) -> ! {
    static FAILED: AtomicBool = AtomicBool::new(false);
    if !FAILED.load(Ordering::Relaxed) {
        FAILED.store(true, Ordering::Relaxed);
        console::print_last(report);
        power::reset();
    }
    power::park()
}
