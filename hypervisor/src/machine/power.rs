//! Power-off, and the report of a refusal or a panic before it.

use core::arch::asm;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use bare_rt::image::Layout;
use shared_abi::addr::PAGE_SIZE;
use shared_abi::record::Record;
use smccc::{Smc, psci};

use super::console;
use crate::arch;

/// Powers the machine off.
pub(crate) fn off() -> ! {
    // If the firmware refuses, this CPU halts.
    let _ = psci::system_off::<Smc>();
    halt()
}

/// Reports the reason to refuse this machine or image, and powers off.
pub(crate) fn refuse(why: impl fmt::Display) -> ! {
    console::record(&Record::Refused { message: &message(format_args!("{why}")) });
    off()
}

/// Reports a panic, and powers off. The record has no message, because the code that formats panic messages would be
/// a tenth of the hypervisor. Instead it lists the words on the stack that may be return addresses, as offsets from
/// the start of `.text`. The first one is in the function that panicked.
pub(crate) fn panic() -> ! {
    let text = Layout::current().text;
    let stack: *const u64;
    // SAFETY: the instruction reads the stack pointer and changes only its output register.
    unsafe { asm!("mov {}, sp", out(reg) stack, options(nomem, nostack)) };
    let words = (PAGE_SIZE - stack.addr() as u64 % PAGE_SIZE) / 8;
    let mut calls = Message::new();
    for index in 0..words as usize {
        // SAFETY: `index` stays in the stack pointer's page, which is mapped RAM (`stage1`). Any word of it is a
        // valid `u64`, and it is only printed.
        let word = unsafe { stack.wrapping_add(index).read_volatile() };
        if text.contains(&word) {
            // A text that is too long is cut.
            let _ = write!(calls, " {:#x}", word - text.start);
        }
    }
    panicked(format_args!("called from{calls}"))
}

/// Reports that the hypervisor itself failed, and powers off. Only the first CPU that fails reports. Any other CPU
/// waits for that report before it powers off.
pub(crate) fn panicked(what: fmt::Arguments<'_>) -> ! {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if !REPORTED.swap(true, Ordering::Relaxed) {
        console::last_line(&Record::Panic { message: &message(what) });
        off();
    }
    (0..1_u32 << 28).for_each(|_| core::hint::spin_loop());
    off()
}

/// The text of a record, of bounded length.
type Message = heapless::String<160>;

/// Formats a text for a record. A text that is too long is cut.
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
