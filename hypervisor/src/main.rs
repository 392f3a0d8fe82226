//! Cloister's EL2 hypervisor: the thin layer between `hyp-core` and the machine.
//!
//! [`hyp_core`] decides. This binary boots the machine, switches between host and guests, and executes the decisions.
//! These are its modules, the lowest first. A module imports only from those above it in this list:
//!
//! * `arch`: instructions, and the values of control registers. `arch::read!`, `arch::write!`, `arch::controls`.
//! * `machine`: memory, EL2's map, console and power, which all CPUs share. `machine::el2::El2` (the core's
//!   `Machine`), `machine::maintenance`, `machine::stage1::Stage1`.
//! * `cpu`: one CPU: vectors, world switch, and the registers that it switches. `cpu::Cpu`, `cpu::switch::enter`,
//!   `cpu::fp::HostFp`.
//! * `oracle`: a check of all state after each call, only with that feature. `oracle::after`.
//! * `trap`: the calls and traps from EL1. `trap::host::run`, `trap::guest::run`, `trap::host_psci::serve`.
//! * `boot`: from the boot loader to the host's first instruction. `boot::main`, `boot::secondary::main`,
//!   `boot::layout::plan`.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "EL2 accesses system registers, page tables and raw memory"),
    expect(
        clippy::multiple_unsafe_ops_per_block,
        reason = "registers that are switched together share one precondition"
    )
)]

#[cfg(any(target_os = "none", test))]
mod arch;

cfg_if::cfg_if! {
    if #[cfg(target_os = "none")] {
        mod boot;
        mod cpu;
        mod machine;
        #[cfg(feature = "oracle")]
        mod oracle;
        mod trap;
    }
}

// `Hypervisor::new` builds the ownership core on the stack and moves it to its static.
#[cfg(target_os = "none")]
bare_rt::image_main!(boot::main, stack_bytes = 256 * 1024);

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    machine::power::panic()
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a bare-metal binary: run it with `cargo run` from the workspace");
}
