//! Single instructions between two readings of the counter.
//!
//! Each function is one block of assembly, so that nothing of the compiler's is counted. A reading is
//! an ISB and the MRS: in every sample one of each is the stopwatch's own, as [`empty`] shows.

use core::arch::asm;

use shared_abi::bench::CONTROL_TURNS;

/// When something began and ended, in counts of CNTVCT_EL0.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Times nothing.
pub(crate) fn empty() -> Span {
    let (start, end);
    // SAFETY: reading the counter changes nothing.
    unsafe {
        asm!(
            "isb",
            "mrs {start}, cntvct_el0",
            "isb",
            "mrs {end}, cntvct_el0",
            start = out(reg) start,
            end = out(reg) end,
            options(nostack),
        );
    }
    Span { start, end }
}

/// Times a loop of two instructions, [`CONTROL_TURNS`] times.
pub(crate) fn control() -> Span {
    let (start, end);
    // SAFETY: the loop touches no memory, and changes the registers that it declares to the compiler and
    // nothing else.
    unsafe {
        asm!(
            "isb",
            "mrs {start}, cntvct_el0",
            "2:",
            "subs {turns}, {turns}, #1",
            "b.ne 2b",
            "isb",
            "mrs {end}, cntvct_el0",
            turns = inout(reg) CONTROL_TURNS => _,
            start = out(reg) start,
            end = out(reg) end,
            options(nostack),
        );
    }
    Span { start, end }
}

/// Times a hypercall with three arguments; what it answers in x0 and x1.
pub(crate) fn hypercall(function: u32, arguments: [u64; 3]) -> (Span, [u64; 2]) {
    let (start, end);
    let [x1, x2, x3] = arguments;
    let (r0, r1);
    // SAFETY: this payload makes only sharing calls and queries. The callers share pages that hold no value
    // and to which there is no reference. The hypervisor changes no register beyond x17 (SMCCC 1.0, 2.4).
    unsafe {
        asm!(
            "isb",
            "mrs {start}, cntvct_el0",
            "hvc #0",
            "isb",
            "mrs {end}, cntvct_el0",
            start = out(reg) start,
            end = out(reg) end,
            inlateout("x0") u64::from(function) => r0,
            inlateout("x1") x1 => r1,
            inlateout("x2") x2 => _,
            inlateout("x3") x3 => _,
            lateout("x4") _, lateout("x5") _, lateout("x6") _, lateout("x7") _,
            lateout("x8") _, lateout("x9") _, lateout("x10") _, lateout("x11") _,
            lateout("x12") _, lateout("x13") _, lateout("x14") _, lateout("x15") _,
            lateout("x16") _, lateout("x17") _,
            options(nostack),
        );
    }
    (Span { start, end }, [r0, r1])
}

/// Times a read of a device register of 32 bits.
///
/// # Safety
///
/// `register` is the address of one, mapped, that has no effect when it is read.
pub(crate) unsafe fn read_register(register: u64) -> Span {
    let (start, end);
    // SAFETY: the caller gives the address of a mapped device register whose read has no effect.
    unsafe {
        asm!(
            "isb",
            "mrs {start}, cntvct_el0",
            "ldr {value:w}, [{register}]",
            "isb",
            "mrs {end}, cntvct_el0",
            register = in(reg) register,
            value = out(reg) _,
            start = out(reg) start,
            end = out(reg) end,
            options(nostack),
        );
    }
    Span { start, end }
}

/// Times a store of a zero.
///
/// # Safety
///
/// `address` is mapped memory that holds no value.
pub(crate) unsafe fn store_zero(address: u64) -> Span {
    let (start, end);
    // SAFETY: the caller gives the address of mapped memory that holds no value.
    unsafe {
        asm!(
            "isb",
            "mrs {start}, cntvct_el0",
            "str xzr, [{address}]",
            "isb",
            "mrs {end}, cntvct_el0",
            address = in(reg) address,
            start = out(reg) start,
            end = out(reg) end,
            options(nostack),
        );
    }
    Span { start, end }
}
