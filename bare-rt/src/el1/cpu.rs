//! CPU instructions. Each function executes one, or a sequence that the architecture prescribes.

use core::arch::asm;

/// DAIF.I, as MRS and MSR of DAIF place it.
const DAIF_I: u64 = 1 << 7;

/// Bits of CNTV_CTL_EL0 and CNTP_CTL_EL0 (Arm ARM DDI0487 L.b, D24.10.17).
pub mod timer_control {
    /// The timer is enabled.
    pub const ENABLE: u64 = 1 << 0;
    /// Its interrupt is masked.
    pub const IMASK: u64 = 1 << 1;
    /// The timer's condition is met.
    pub const ISTATUS: u64 = 1 << 2;
}

macro_rules! read_register {
    ($(#[$doc:meta])* $function:ident, $register:literal) => {
        $(#[$doc])*
        #[must_use]
        pub fn $function() -> u64 {
            let value;
            // SAFETY: the invocations below name registers that exist at EL1 and whose read has no side effect.
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
            // SAFETY: the invocations below name timer registers. By the architecture these decide only when an interrupt
            // is pending.
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
    /// CurrentEL, unshifted: the exception level is in bits 3 and 2.
    current_el_raw,
    "CurrentEL"
);
read_register!(
    /// MPIDR_EL1: this CPU's affinity fields, by which PSCI names it.
    mpidr,
    "mpidr_el1"
);
read_register!(
    /// CNTFRQ_EL0: the frequency of the counters in Hz.
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
    /// TPIDR_EL1: a word per CPU for software's use.
    thread_pointer,
    "tpidr_el1"
);
write_register!(
    /// Writes CNTV_CTL_EL0: see [`timer_control`].
    set_virtual_timer_control,
    "cntv_ctl_el0"
);
write_register!(
    /// Writes CNTV_CVAL_EL0: the virtual count at which the timer's condition is met.
    set_virtual_timer_compare,
    "cntv_cval_el0"
);
write_register!(
    /// Writes CNTP_CTL_EL0: see [`timer_control`].
    set_physical_timer_control,
    "cntp_ctl_el0"
);
write_register!(
    /// Writes CNTP_CVAL_EL0: the physical count at which the timer's condition is met.
    set_physical_timer_compare,
    "cntp_cval_el0"
);

/// Returns the current exception level.
#[must_use]
pub fn current_el() -> u64 {
    (current_el_raw() >> 2) & 3
}

/// Returns CNTVCT_EL0, the virtual count, in ticks. The read is not speculated ahead of earlier instructions.
#[must_use]
pub fn virtual_count() -> u64 {
    let value;
    // SAFETY: by the architecture a read of the counter has no side effect. The ISB keeps it in program order.
    unsafe {
        asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nostack, preserves_flags));
    }
    value
}

/// Returns CNTPCT_EL0, the physical count, in ticks. The read is not speculated ahead of earlier instructions.
#[must_use]
pub fn physical_count() -> u64 {
    let value;
    // SAFETY: by the architecture a read of the counter has no side effect. The ISB keeps it in program order.
    unsafe {
        asm!("isb", "mrs {}, cntpct_el0", out(reg) value, options(nostack, preserves_flags));
    }
    value
}

/// Writes TPIDR_EL1, a word per CPU for software's use.
pub fn set_thread_pointer(value: u64) {
    // SAFETY: TPIDR_EL1 has no effect on the hardware, and this crate makes no pointer from it.
    unsafe {
        asm!("msr tpidr_el1, {}", in(reg) value, options(nomem, nostack, preserves_flags));
    }
}

/// Unmasks IRQs on this CPU.
pub fn enable_irq() {
    // SAFETY: `vectors` saves and restores every register of the code that an IRQ interrupts.
    unsafe {
        asm!("msr daifclr, #2", options(nostack, preserves_flags));
    }
}

/// Masks IRQs on this CPU.
pub fn disable_irq() {
    mask_irq();
}

/// Masks IRQs and returns the old value of DAIF. Callers use it through [`IrqMasked`](super::lock::IrqMasked).
pub fn mask_irq() -> u64 {
    let daif;
    // SAFETY: by the architecture masking only delays interrupts. No memory and no other register changes.
    unsafe {
        asm!("mrs {}, daif", "msr daifset, #2", out(reg) daif, options(nostack, preserves_flags));
    }
    daif
}

/// Restores a value of DAIF that [`mask_irq`] returned.
pub fn restore_daif(daif: u64) {
    // SAFETY: `daif` comes from `mask_irq`, so this unmasks only what was unmasked before. `vectors` saves and
    // restores every register of the code that an IRQ interrupts.
    unsafe {
        asm!("msr daif, {}", in(reg) daif, options(nostack, preserves_flags));
    }
}

/// Returns true if IRQs are unmasked on this CPU.
#[must_use]
pub fn irq_enabled() -> bool {
    let daif: u64;
    // SAFETY: by the architecture a read of DAIF has no side effect.
    unsafe {
        asm!("mrs {}, daif", out(reg) daif, options(nomem, nostack, preserves_flags));
    }
    daif & DAIF_I == 0
}

/// Waits until an interrupt is pending, even if it is masked.
///
/// To wait for a condition that a handler sets, mask interrupts, test the condition, call `wfi`, and unmask. No
/// interrupt is lost: a pending interrupt ends the wait although it is masked.
pub fn wfi() {
    // SAFETY: WFI only pauses the CPU. The barrier completes earlier accesses first.
    unsafe {
        asm!("dsb sy", "wfi", options(nostack, preserves_flags));
    }
}

/// DSB SY: all earlier accesses are complete for all observers.
pub fn dsb_sy() {
    // SAFETY: a barrier changes no state.
    unsafe {
        asm!("dsb sy", options(nostack, preserves_flags));
    }
}

/// Cleans these bytes from the data cache to the point of coherency. A reader without caches, such as a CPU that
/// starts with its MMU off, then reads the current content.
pub fn clean_to_poc(start: u64, bytes: u64) {
    for line in cache_lines(start, bytes) {
        // SAFETY: a clean writes back the cache's content; no content changes.
        unsafe {
            asm!("dc cvac, {}", in(reg) line, options(nostack, preserves_flags));
        }
    }
    dsb_sy();
}

/// Cleans and invalidates these bytes in the data cache to the point of coherency.
pub fn clean_and_invalidate_to_poc(start: u64, bytes: u64) {
    for line in cache_lines(start, bytes) {
        // SAFETY: the clean writes each line back before it is invalidated; no content changes.
        unsafe {
            asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags));
        }
    }
    dsb_sy();
}

/// Returns the addresses of the cache lines that hold these bytes.
fn cache_lines(start: u64, bytes: u64) -> impl Iterator<Item = u64> {
    let cache_type: u64;
    // SAFETY: by the architecture a read of CTR_EL0 has no side effect.
    unsafe {
        asm!("mrs {}, ctr_el0", out(reg) cache_type, options(nomem, nostack, preserves_flags));
    }
    // CTR_EL0.DminLine: log2 of the words (4 bytes) in the smallest line.
    let line = 4_u64 << ((cache_type >> 16) & 0xf);
    (start & !(line - 1)..start.saturating_add(bytes)).step_by(line as usize)
}
