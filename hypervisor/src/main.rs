//! Cloister's EL2 hypervisor: the thin layer over `hyp-core` that touches the machine.
//!
//! [`hyp_core`] decides; this binary brings the machine up, switches worlds and does what was decided.
//!
//! * `boot`: the boot CPU's way from the first instruction to the host; `secondary`: the others'.
//! * `host`: the host's traps, calls and faults; `relay`: its PSCI.
//! * `guest`: running a vCPU from entry to exit.
//! * `switch`, `vectors`: entering EL1 and coming back. `state`, `fp`, `gic`: the registers that change
//!   hands. `controls`: the values of EL2's control registers.
//! * `el2`: the machine as the core sees it. `maintenance`: its sequences for caches and TLBs. `mmu`, `memory`:
//!   EL2's own map and memory.
//! * `oracle`: only with that feature, a look at everything after each call. `trace`: only with that feature, what
//!   each CPU did.
//! * `console`, `power`: reporting, and the end. `arch`: one instruction a function.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "EL2 is where system registers, page tables and raw memory are"),
    expect(
        clippy::multiple_unsafe_ops_per_block,
        reason = "registers that change hands together are written together, for one reason"
    )
)]

#[cfg(any(target_os = "none", test))]
mod controls;

cfg_if::cfg_if! {
    if #[cfg(target_os = "none")] {
        mod arch;
        mod boot;
        mod console;
        mod cpu;
        mod el2;
        mod fp;
        mod gic;
        mod guest;
        mod host;
        mod maintenance;
        mod memory;
        mod mmu;
        #[cfg(feature = "oracle")]
        mod oracle;
        mod power;
        mod relay;
        mod secondary;
        mod state;
        mod switch;
        #[cfg(feature = "trace")]
        mod trace;
        mod vectors;
    }
}

// The ownership core is made on the stack, and moved, before it is put in its place.
#[cfg(target_os = "none")]
bare_rt::image_main!(boot::main, stack_bytes = 256 * 1024);

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    power::panic()
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a bare-metal binary: run it with `cargo run` from the workspace");
}
