//! The end: power off, for whatever reason.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use shared_abi::record::Record;
use smccc::{Smc, psci};

use crate::{arch, console};

/// Powers the machine off.
pub(crate) fn off() -> ! {
    // There is nobody to tell if the firmware refuses.
    let _ = psci::system_off::<Smc>();
    halt()
}

/// Says why this machine or image is not acceptable, and powers off.
pub(crate) fn refuse(why: impl fmt::Display) -> ! {
    console::record(&Record::Refused {
        message: &message(format_args!("{why}")),
    });
    off()
}

/// Reports that the hypervisor itself failed, once, and powers off. A CPU that fails while another
/// reports, or in its report, stops.
pub(crate) fn panicked(what: fmt::Arguments<'_>) -> ! {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if !REPORTED.swap(true, Ordering::Relaxed) {
        console::last_line(&Record::Panic {
            message: &message(what),
        });
        off();
    }
    halt()
}

/// A text for a record; if it is too long it is cut.
fn message(text: fmt::Arguments<'_>) -> heapless::String<160> {
    let mut message = heapless::String::new();
    let _ = fmt::write(&mut message, text);
    message
}

fn halt() -> ! {
    loop {
        arch::wfe();
    }
}
