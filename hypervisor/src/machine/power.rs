//! The end: power off, for whatever reason.

use core::arch::asm;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use bare_rt::image::Layout;
use shared_abi::addr::PAGE_SIZE;
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
    console::record(&Record::Refused { message: &message(format_args!("{why}")) });
    off()
}

/// Reports a panic, and powers off: not what it says, since the code that says it would be a tenth of the
/// hypervisor, but what looks like return addresses on the stack, as offsets in the ELF file. The first
/// is that of the function that panicked.
pub(crate) fn panic() -> ! {
    let text = Layout::current().text;
    let stack: *const u64;
    // SAFETY: the instruction reads the stack pointer and changes the one register that is its output.
    unsafe { asm!("mov {}, sp", out(reg) stack, options(nomem, nostack)) };
    let words = (PAGE_SIZE - stack.addr() as u64 % PAGE_SIZE) / 8;
    let mut calls = Message::new();
    for index in 0..words as usize {
        // SAFETY: `index` stays within the page that the stack pointer is in, which is mapped RAM (`mmu`); any word of
        // it can be read, and what it says is only printed.
        let word = unsafe { stack.wrapping_add(index).read_volatile() };
        if text.contains(&word) {
            // A text that is too long is cut.
            let _ = write!(calls, " {:#x}", word - text.start);
        }
    }
    panicked(format_args!("called from{calls}"))
}

/// Reports that the hypervisor itself failed, once, and powers off. A CPU that fails while another
/// reports, or in its report, gives the report some time before it does so.
pub(crate) fn panicked(what: fmt::Arguments<'_>) -> ! {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if !REPORTED.swap(true, Ordering::Relaxed) {
        console::last_line(&Record::Panic { message: &message(what) });
        off();
    }
    (0..1_u32 << 28).for_each(|_| core::hint::spin_loop());
    off()
}

/// Room for the text of a record.
type Message = heapless::String<160>;

/// A text for a record; if it is too long it is cut.
fn message(text: fmt::Arguments<'_>) -> Message {
    let mut message = Message::new();
    let _ = message.write_fmt(text);
    message
}

fn halt() -> ! {
    loop {
        arch::wfe();
    }
}
