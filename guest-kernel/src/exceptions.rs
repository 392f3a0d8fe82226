//! What happens when something goes wrong: a report on the console, then a reset of the VM.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use bare_rt::el1::frame::{Frame, Vector};
use bare_rt::el1::vectors::Handlers;

use crate::{console, interrupts, power};

/// The handlers of this kernel.
pub(crate) struct Exceptions;

impl Handlers for Exceptions {
    fn synchronous(frame: &mut Frame) {
        fail(format_args!("fault: {frame}"));
    }

    fn irq(_: &mut Frame) {
        interrupts::handle();
    }

    fn other(frame: &mut Frame, vector: Vector) {
        fail(format_args!("{vector}: {frame}"));
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}

/// Prints a last report and resets the VM. A failure on the way there ends the report.
pub(crate) fn fail(report: core::fmt::Arguments<'_>) -> ! {
    static FAILED: AtomicBool = AtomicBool::new(false);
    if !FAILED.load(Ordering::Relaxed) {
        FAILED.store(true, Ordering::Relaxed);
        console::print_last(report);
        power::reset();
    }
    power::park()
}
