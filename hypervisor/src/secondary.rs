//! The other CPUs: none ever runs host code without the host's stage 2.
//!
//! The host asks for a CPU by PSCI CPU_ON. The relay claims it here, and starts it in EL2; there it
//! sets itself up as the boot CPU did, and only then drops to the host's entry at EL1.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bare_rt::image::SecondaryBoot;
use hyp_core::hypervisor::{CpuIndex, MAX_CPUS};
use shared_abi::addr::Pa;
use smccc::psci::error::Error as PsciError;
use smccc::{Smc, psci};
use spin::Once;

use crate::cpu::Cpu;
use crate::memory::{Block, STACK_BYTES};
use crate::mmu::Stage1;
use crate::{arch, boot, host, power, state, vectors};

const OFF: u8 = 0;
const STARTING: u8 = 1;
const ON: u8 = 2;

/// What a CPU finds on its way to the host.
struct Slot {
    power: AtomicU8,
    entry: AtomicU64,
    argument: AtomicU64,
}

static SLOTS: [Slot; MAX_CPUS] = [const {
    Slot {
        power: AtomicU8::new(OFF),
        entry: AtomicU64::new(0),
        argument: AtomicU64::new(0),
    }
}; MAX_CPUS];

static STAGE1: Once<Stage1> = Once::new();

/// Where a CPU's boot structure is: at the bottom of its stack.
fn boot_structure(stacks: u64, index: usize) -> *mut SecondaryBoot {
    core::ptr::with_exposed_provenance_mut((stacks + index as u64 * STACK_BYTES) as usize)
}

static STACKS: AtomicU64 = AtomicU64::new(0);

/// Makes ready for [`start`]; on the boot CPU, which is `index`.
pub(crate) fn prepare(block: &Block, stage1: Stage1, index: usize) {
    STAGE1.call_once(|| stage1);
    STACKS.store(block.stacks.start, Ordering::Relaxed);
    for cpu in 0..boot::cpus().len() {
        let place = boot_structure(block.stacks.start, cpu);
        let structure = SecondaryBoot {
            stack_top: block.stacks.start + (cpu as u64 + 1) * STACK_BYTES,
            entry: main,
            argument: cpu as u64,
        };
        // SAFETY: the bottom of that CPU's stack, which is set aside, mapped and not in use: the CPU
        // has not started.
        unsafe { place.write(structure) };
        arch::clean_and_invalidate(place.addr() as u64, size_of::<SecondaryBoot>() as u64);
    }
    SLOTS[index].power.store(ON, Ordering::Relaxed);
}

/// PSCI CPU_ON of the host's: of many who try at once, one gets the CPU.
pub(crate) fn start(mpidr: u64, entry: Pa, argument: u64) -> Result<(), PsciError> {
    let index = boot::cpus()
        .iter()
        .position(|cpu| *cpu == mpidr)
        .ok_or(PsciError::InvalidParameters)?;
    let slot = &SLOTS[index];
    slot.power
        .compare_exchange(OFF, STARTING, Ordering::Acquire, Ordering::Relaxed)
        .map_err(|power| {
            if power == ON {
                PsciError::AlreadyOn
            } else {
                PsciError::OnPending
            }
        })?;
    slot.entry.store(entry.0, Ordering::Relaxed);
    slot.argument.store(argument, Ordering::Release);
    let structure = boot_structure(STACKS.load(Ordering::Relaxed), index).addr() as u64;
    let first = bare_rt::image::secondary_start as *const () as usize as u64;
    psci::cpu_on::<Smc>(mpidr, first, structure).inspect_err(|_| {
        slot.power.store(OFF, Ordering::Release);
    })
}

/// PSCI AFFINITY_INFO of the host's: 0 on, 1 off, 2 on its way.
pub(crate) fn affinity_info(mpidr: u64) -> Option<u64> {
    let index = boot::cpus().iter().position(|cpu| *cpu == mpidr)?;
    Some(match SLOTS[index].power.load(Ordering::Acquire) {
        ON => 0,
        OFF => 1,
        _ => 2,
    })
}

/// PSCI CPU_OFF of the host's, on this CPU; returns only if the firmware refuses.
pub(crate) fn stop(cpu: CpuIndex) -> PsciError {
    SLOTS[cpu.0].power.store(OFF, Ordering::Release);
    let refused = psci::cpu_off::<Smc>()
        .err()
        .unwrap_or(PsciError::InternalFailure);
    SLOTS[cpu.0].power.store(ON, Ordering::Release);
    refused
}

/// A CPU that the host asked for, at EL2 with its MMU off.
extern "C" fn main(index: u64) -> ! {
    vectors::install();
    let (Some(stage1), Some(hypervisor)) = (STAGE1.get(), boot::hypervisor()) else {
        power::off();
    };
    // SAFETY: the boot CPU's map has all RAM.
    unsafe { stage1.enable() };
    state::init_cpu();
    arch::tlbi_alle1();
    arch::dsb_nsh();
    let index = index as usize;
    let slot = &SLOTS[index];
    let argument = slot.argument.load(Ordering::Acquire);
    let mut cpu = Cpu::new(
        CpuIndex(index),
        Pa(slot.entry.load(Ordering::Relaxed)),
        argument,
    );
    slot.power.store(ON, Ordering::Release);
    // SAFETY: EL1 of this CPU has not run: its MMU and caches are off, as PSCI promises its caller.
    unsafe { arch::write!("sctlr_el1", hyp_core::vcpu::RESET_SCTLR_EL1) };
    host::run(hypervisor, &mut cpu)
}
