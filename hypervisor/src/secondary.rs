//! The other CPUs: none ever runs host code without the host's stage 2.
//!
//! The host asks for a CPU by PSCI CPU_ON. The relay reserves it here, and starts it in EL2; there it
//! sets itself up as the boot CPU did, and only then drops to the host's entry at EL1.

use bare_rt::image::SecondaryBoot;
use hyp_core::call::psci::host::HostCpus;
use hyp_core::call::psci::{ErrorCode, code};
use hyp_core::limits::CpuIndex;
use shared_abi::addr::{Ipa, Pa};
use smccc::psci::error::Error;
use smccc::{Smc, psci};
use spin::Once;

use crate::cpu::{self, Cpu};
use crate::memory::{Block, STACK_BYTES};
use crate::mmu::Stage1;
use crate::{boot, host, maintenance, power, state, vectors};

/// What the other CPUs start from.
struct Others {
    cpus: HostCpus,
    stage1: Stage1,
    /// The first stack's lowest address.
    stacks: u64,
}

static OTHERS: Once<Others> = Once::new();

/// Where a CPU's boot structure is: at the bottom of its stack.
fn boot_structure(stacks: u64, index: usize) -> *mut SecondaryBoot {
    core::ptr::with_exposed_provenance_mut((stacks + index as u64 * STACK_BYTES) as usize)
}

/// Makes ready for [`start`]; on the boot CPU, which is `index`.
pub(crate) fn prepare(block: &Block, stage1: Stage1, index: usize) {
    for cpu in 0..boot::cpus().len() {
        let place = boot_structure(block.stacks.start, cpu);
        let structure = SecondaryBoot {
            stack_top: block.stacks.start + (cpu as u64 + 1) * STACK_BYTES,
            entry: main,
            argument: cpu as u64,
        };
        // SAFETY: `memory::plan` has set the stacks aside, in RAM that is mapped by now; this is the bottom of one, and
        // its CPU has not started (the boot CPU has a stack of its own, in the image).
        unsafe { place.write(structure) };
        maintenance::clean_and_invalidate(place.addr() as u64, size_of::<SecondaryBoot>() as u64);
    }
    OTHERS.call_once(|| Others {
        cpus: HostCpus::new(boot::cpus(), CpuIndex(index)),
        stage1,
        stacks: block.stacks.start,
    });
}

/// PSCI CPU_ON of the host's: of many who try at once, one gets the CPU.
pub(crate) fn start(target: u64, entry: Ipa, argument: u64) -> Result<(), ErrorCode> {
    let Others { cpus, stacks, .. } = OTHERS.get().ok_or(ErrorCode::InternalFailure)?;
    let index = cpus.reserve(target, entry, argument)?;
    let structure = boot_structure(*stacks, index.0).addr() as u64;
    let first = bare_rt::image::secondary_start as *const () as usize as u64;
    psci::cpu_on::<Smc>(target, first, structure).map_err(|error| {
        cpus.release(index);
        match error {
            // It was stopping, and had not yet.
            Error::AlreadyOn => ErrorCode::AlreadyOn,
            Error::OnPending => ErrorCode::OnPending,
            _ => ErrorCode::InternalFailure,
        }
    })
}

/// PSCI AFFINITY_INFO of the host's: x0.
pub(crate) fn affinity_info(target: u64, level: u32) -> u64 {
    OTHERS.get().map_or(code(ErrorCode::InternalFailure), |others| others.cpus.affinity_info(target, level))
}

/// PSCI CPU_OFF of the host's, on this CPU; returns only if the firmware refuses.
pub(crate) fn stop(cpu: CpuIndex) -> ErrorCode {
    if let Some(Others { cpus, .. }) = OTHERS.get() {
        cpus.leave(cpu);
        // It returns only to say that it was refused.
        let _ = psci::cpu_off::<Smc>();
        cpus.stay(cpu);
    }
    ErrorCode::InternalFailure
}

/// A CPU that the host asked for, at EL2 with its MMU off.
extern "C" fn main(index: u64) -> ! {
    vectors::install();
    let (Some(hypervisor), Some(Others { cpus, stage1, .. })) = (boot::hypervisor(), OTHERS.get()) else {
        power::off();
    };
    if let Err(why) = cpu::take_el2() {
        power::refuse(why);
    }
    // SAFETY: PSCI starts a CPU with its MMU off, `take_el2` has seen to EL2, and the boot CPU's map has all RAM, so
    // this code, this stack and the tables.
    unsafe { stage1.enable() };
    state::init_cpu();
    let index = CpuIndex(index as usize);
    let Some((entry, argument)) = cpus.arrive(index) else {
        power::off();
    };
    // The host's stage 2 maps what it maps to the same address.
    host::run(&mut Cpu::new(hypervisor, index, Pa(entry.0), argument))
}
