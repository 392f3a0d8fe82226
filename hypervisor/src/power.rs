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
    let mut message = heapless::String::<160>::new();
    // A text that is too long is cut.
    let _ = fmt::write(&mut message, format_args!("{why}"));
    console::record(&Record::Refused { message: &message });
    off()
}

/// Reports a panic, once, and powers off. A CPU that panics while another reports, or that panics in
/// its report, stops.
pub(crate) fn panicked(info: impl fmt::Display) -> ! {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if !REPORTED.swap(true, Ordering::Relaxed) {
        console::last_line(OneLine(info));
        off();
    }
    halt()
}

fn halt() -> ! {
    loop {
        arch::wfe();
    }
}

/// A panic's record: its text, with line ends made spaces.
struct OneLine<T>(T);

impl<T: fmt::Display> fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        struct Spaces<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Spaces<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars()
                    .try_for_each(|c| self.0.write_char(if c == '\n' { ' ' } else { c }))
            }
        }
        // A record's message is a string that there is no memory for: name and text are put together
        // as `Record::Panic` would.
        write!(f, "{}", Record::Panic { message: "" })?;
        write!(Spaces(f), "{}", self.0)
    }
}
