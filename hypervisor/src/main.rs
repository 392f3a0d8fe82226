//! Cloister's EL2 hypervisor: the thin layer over `hyp-core` that touches the machine.
//!
//! [`hyp_core`] decides; this binary brings the machine up, switches worlds and executes the decisions. Its
//! rooms, the lowest first; a room imports only from those above it in this list:
//!
//! * `arch`: instructions, and the values of control registers. `arch::read!`, `arch::write!`, `arch::controls`.
//! * `machine`: memory, EL2's map, console and power, which all CPUs share. `machine::el2::El2` (the core's
//!   `Machine`), `machine::maintenance`, `machine::stage1::Stage1`.
//! * `cpu`: one CPU: vectors, world switch, and the registers that change hands. `cpu::Cpu`,
//!   `cpu::switch::enter`, `cpu::fp::HostFp`.
//! * `oracle`: only with that feature, a check of all state after each call. `oracle::after`.
//! * `trap`: what EL1 comes to EL2 for. `trap::host::run`, `trap::guest::run`, `trap::host_psci::serve`.
//! * `boot`: from the first instruction to the host's. `boot::main`, `boot::secondary::main`,
//!   `boot::layout::plan`.

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
