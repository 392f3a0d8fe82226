//! The machine's CPUs.

use alloc::boxed::Box;
use alloc::vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use bare_rt::el1::cpu;
use bare_rt::el1::stage1::Registers;
use bare_rt::image::{SecondaryBoot, secondary_start};
use shared_abi::host_call::VcpuIndex;

use super::platform::Platform;
use super::{exceptions, interrupts, power};

/// The stack of a CPU other than the boot CPU.
const STACK_BYTES: usize = 64 * 1024;

/// CPUs in the device tree.
static PRESENT: AtomicUsize = AtomicUsize::new(0);
/// CPUs that run.
static ONLINE: AtomicUsize = AtomicUsize::new(0);

/// What a CPU finds when it starts. It reads this with its MMU off.
#[repr(C)]
struct Start {
    boot: SecondaryBoot,
    number: usize,
    registers: Registers,
    work: fn() -> !,
}

/// This CPU's number: 0 is the boot CPU, others follow the device tree.
pub(crate) fn current() -> usize {
    cpu::thread_pointer() as usize
}

/// CPUs in the device tree.
pub(crate) fn present() -> usize {
    PRESENT.load(Ordering::Relaxed)
}

/// CPUs that run.
pub(crate) fn online() -> usize {
    ONLINE.load(Ordering::Acquire)
}

/// The CPU that a vCPU runs on.
pub(crate) fn home_of(vcpu: VcpuIndex) -> usize {
    vcpu.0 as usize % online().max(1)
}

/// Makes this CPU, which runs already, number 0.
///
/// # Errors
///
/// What is wrong with the GIC.
pub(crate) fn adopt_boot_cpu(platform: &Platform) -> Result<(), interrupts::Error> {
    PRESENT.store(platform.cpus.len(), Ordering::Relaxed);
    cpu::set_thread_pointer(0);
    interrupts::init_cpu(0)?;
    ONLINE.store(1, Ordering::Release);
    Ok(())
}

/// Starts all other CPUs; each runs `work` when it is up. Returns when all of them are.
pub(crate) fn start_others(platform: &Platform, registers: Registers, work: fn() -> !) {
    for (number, affinity) in platform.cpus.iter().enumerate().skip(1) {
        let stack = Box::leak(vec![0_u128; STACK_BYTES / size_of::<u128>()].into_boxed_slice());
        let stack_top = stack.as_ptr_range().end.addr() as u64;
        let start = Box::leak(Box::new(Start {
            boot: SecondaryBoot { stack_top, entry: arrive, argument: 0 },
            number,
            registers,
            work,
        }));
        start.boot.argument = (&raw const *start).expose_provenance() as u64;
        let context = start.boot.argument;
        cpu::clean_to_poc(context, size_of::<Start>() as u64);
        // The CPU writes to its stack past the caches before its MMU is on: no line may cover that.
        cpu::clean_and_invalidate_to_poc(stack_top - STACK_BYTES as u64, STACK_BYTES as u64);
        if let Err(error) = power::cpu_on(*affinity, secondary_start as *const () as u64, context) {
            power::refuse(format_args!("CPU {affinity:#x} does not start: {error}"));
        }
        while online() <= number {
            // The CPU kicks this one when it is up.
            cpu::wfi();
            interrupts::drain();
        }
    }
}

extern "C" fn arrive(argument: u64) -> ! {
    let start = core::ptr::with_exposed_provenance::<Start>(argument as usize);
    // SAFETY: `start_others` leaked the structure and never writes it again.
    let start = unsafe { &*start };
    // SAFETY: the boot CPU made the map, which covers the binary, all RAM and all devices.
    unsafe { start.registers.enable() };
    exceptions::install();
    cpu::set_thread_pointer(start.number as u64);
    if let Err(error) = interrupts::init_cpu(start.number) {
        power::refuse(format_args!("{error}"));
    }
    ONLINE.fetch_add(1, Ordering::Release);
    interrupts::kick(0);
    (start.work)()
}
