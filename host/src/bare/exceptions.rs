//! What the host does about exceptions: a forbidden access of `tolerant` ends there, everything else
//! is the end of the host.
//!
//! The host never unmasks interrupts. It takes them where it waits for them and between two entries of
//! a vCPU (`interrupts::drain`): an interrupt ends WFI masked or not, and a vCPU's run in any case.

use bare_rt::el1::frame::{Frame, Vector};
use bare_rt::el1::vectors::{self, Handlers};

use super::{console, power, tolerant};

struct Host;

impl Handlers for Host {
    fn synchronous(frame: &mut Frame) {
        if !tolerant::recover(frame) {
            fatal(frame, Vector(4));
        }
    }

    fn irq(frame: &mut Frame) {
        fatal(frame, Vector(5));
    }

    fn other(frame: &mut Frame, vector: Vector) {
        fatal(frame, vector);
    }
}

/// Points this CPU to the host's vectors.
pub(crate) fn install() {
    vectors::install::<Host>();
}

fn fatal(frame: &Frame, vector: Vector) -> ! {
    console::epitaph(
        format_args!("host: {vector}: {frame}"),
        format_args!("{vector} in the host: {}", frame.syndrome()),
    );
    power::off()
}
