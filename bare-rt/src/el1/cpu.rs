//! One instruction, or one sequence that the architecture prescribes, per function.

use core::arch::asm;

/// DAIF.I as `mrs`/`msr daif` have it.
const DAIF_I: u64 = 1 << 7;

/// Bits of CNTV_CTL_EL0 and CNTP_CTL_EL0 (Arm ARM DDI0487 L.b, D24.10.17).
pub mod timer_control {
    /// The timer runs.
    pub const ENABLE: u64 = 1 << 0;
    /// Its interrupt is masked.
    pub const IMASK: u64 = 1 << 1;
    /// The condition is met.
    pub const ISTATUS: u64 = 1 << 2;
}

macro_rules! read_register {
    ($(#[$doc:meta])* $function:ident, $register:literal) => {
        $(#[$doc])*
        #[must_use]
        pub fn $function() -> u64 {
            let value;
            // SAFETY: EL1 has the registers named below, and a read of them has no effect on memory or on the
            // CPU's state.
            unsafe {
                asm!(
                    concat!("mrs {}, ", $register),
                    out(reg) value,
                    options(nomem, nostack, preserves_flags)
                );
            }
            value
        }
    };
}

macro_rules! write_register {
    ($(#[$doc:meta])* $function:ident, $register:literal) => {
        $(#[$doc])*
        pub fn $function(value: u64) {
            // SAFETY: the registers named below are timers': they decide when an interrupt is pending, and
            // nothing else.
            unsafe {
                asm!(
                    concat!("msr ", $register, ", {}"),
                    "isb",
                    in(reg) value,
                    options(nostack, preserves_flags)
                );
            }
        }
    };
}

read_register!(
    /// CurrentEL, shifted: 1 at EL1.
    current_el_raw,
    "CurrentEL"
);
read_register!(
    /// MPIDR_EL1: this CPU's affinity, which PSCI names it by.
    mpidr,
    "mpidr_el1"
);
read_register!(
    /// CNTFRQ_EL0: ticks of the counters per second.
    counter_frequency,
    "cntfrq_el0"
);
read_register!(
    /// CNTV_CTL_EL0: see [`timer_control`].
    virtual_timer_control,
    "cntv_ctl_el0"
);
read_register!(
    /// CNTP_CTL_EL0: see [`timer_control`].
    physical_timer_control,
    "cntp_ctl_el0"
);
read_register!(
    /// TPIDR_EL1: a word of software's own per CPU.
    thread_pointer,
    "tpidr_el1"
);
write_register!(
    /// Sets CNTV_CTL_EL0: see [`timer_control`].
    set_virtual_timer_control,
    "cntv_ctl_el0"
);
write_register!(
    /// Sets CNTV_CVAL_EL0: the virtual count at which the timer's condition is met.
    set_virtual_timer_compare,
    "cntv_cval_el0"
);
write_register!(
    /// Sets CNTP_CTL_EL0: see [`timer_control`].
    set_physical_timer_control,
    "cntp_ctl_el0"
);
write_register!(
    /// Sets CNTP_CVAL_EL0: the physical count at which the timer's condition is met.
    set_physical_timer_compare,
    "cntp_cval_el0"
);

/// The current exception level.
#[must_use]
pub fn current_el() -> u64 {
    (current_el_raw() >> 2) & 3
}

/// CNTVCT_EL0: the virtual count, not read ahead of the instructions before.
#[must_use]
pub fn virtual_count() -> u64 {
    let value;
    // SAFETY: reading the counter has no effect on memory; the ISB keeps it in program order.
    unsafe {
        asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nostack, preserves_flags));
    }
    value
}

/// CNTPCT_EL0: the physical count, not read ahead of the instructions before.
#[must_use]
pub fn physical_count() -> u64 {
    let value;
    // SAFETY: reading the counter has no effect on memory; the ISB keeps it in program order.
    unsafe {
        asm!("isb", "mrs {}, cntpct_el0", out(reg) value, options(nostack, preserves_flags));
    }
    value
}

/// Sets TPIDR_EL1: a word of software's own per CPU.
pub fn set_thread_pointer(value: u64) {
    // SAFETY: TPIDR_EL1 has no effect on the hardware, and this crate makes no pointer of it.
    unsafe {
        asm!("msr tpidr_el1, {}", in(reg) value, options(nomem, nostack, preserves_flags));
    }
}

/// Lets this CPU take IRQs.
pub fn enable_irq() {
    // SAFETY: handlers keep every register of the code that they interrupt (`vectors`).
    unsafe {
        asm!("msr daifclr, #2", options(nostack, preserves_flags));
    }
}

/// Keeps this CPU from taking IRQs.
pub fn disable_irq() {
    mask_irq();
}

/// Masks IRQs and returns DAIF as it was before; [`IrqMasked`](super::lock::IrqMasked) is the way
/// to use it.
pub fn mask_irq() -> u64 {
    let daif;
    // SAFETY: the CPU only delays interrupts that are masked; no memory and no other register changes.
    unsafe {
        asm!("mrs {}, daif", "msr daifset, #2", out(reg) daif, options(nostack, preserves_flags));
    }
    daif
}

/// Sets DAIF to a value that [`mask_irq`] returned.
pub fn restore_daif(daif: u64) {
    // SAFETY: `daif` comes from `mask_irq`, so that no more is unmasked than was before; handlers keep every
    // register of the code that they interrupt (`vectors`).
    unsafe {
        asm!("msr daif, {}", in(reg) daif, options(nostack, preserves_flags));
    }
}

/// Whether this CPU takes IRQs now.
#[must_use]
pub fn irq_enabled() -> bool {
    let daif: u64;
    // SAFETY: reading DAIF has no effect.
    unsafe {
        asm!("mrs {}, daif", out(reg) daif, options(nomem, nostack, preserves_flags));
    }
    daif & DAIF_I == 0
}

/// Waits until an interrupt is pending, masked or not.
///
/// To wait for a condition that a handler sets: mask interrupts, test the condition, `wfi`, unmask.
/// A pending interrupt ends the wait although it is masked, so none is lost.
pub fn wfi() {
    // SAFETY: the CPU pauses; nothing else changes. The barrier completes earlier accesses first.
    unsafe {
        asm!("dsb sy", "wfi", options(nostack, preserves_flags));
    }
}

/// Waits for all accesses before it to be complete, for all observers.
pub fn dsb_sy() {
    // SAFETY: a barrier changes no state.
    unsafe {
        asm!("dsb sy", options(nostack, preserves_flags));
    }
}

/// Cleans the data cache to the point of coherency over these bytes: a reader without caches, such
/// as a CPU that starts with its MMU off, then sees what was written.
pub fn clean_to_poc(start: u64, bytes: u64) {
    for line in cache_lines(start, bytes) {
        // SAFETY: cleaning writes back what is there already; no content changes.
        unsafe {
            asm!("dc cvac, {}", in(reg) line, options(nostack, preserves_flags));
        }
    }
    dsb_sy();
}

/// Cleans and invalidates the data cache to the point of coherency over these bytes.
pub fn clean_and_invalidate_to_poc(start: u64, bytes: u64) {
    for line in cache_lines(start, bytes) {
        // SAFETY: cleaning writes back what is there already; no content changes.
        unsafe {
            asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags));
        }
    }
    dsb_sy();
}

/// The addresses of the cache lines that hold these bytes.
fn cache_lines(start: u64, bytes: u64) -> impl Iterator<Item = u64> {
    let cache_type: u64;
    // SAFETY: reading CTR_EL0 has no effect.
    unsafe {
        asm!("mrs {}, ctr_el0", out(reg) cache_type, options(nomem, nostack, preserves_flags));
    }
    // CTR_EL0.DminLine: log2 of the words (4 bytes) in the smallest line.
    let line = 4_u64 << ((cache_type >> 16) & 0xf);
    (start & !(line - 1)..start.saturating_add(bytes)).step_by(line as usize)
}
