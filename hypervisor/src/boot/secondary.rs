//! Secondary CPUs: from the firmware's CPU_ON to the host's entry point.
//!
//! A CPU starts at EL2 in [`main`], sets itself up as the boot CPU does, and only then enters the host. No CPU ever
//! runs host code without the host's stage 2.

use bare_rt::image::SecondaryBoot;
use hyp_core::call::trng::Trng;
use hyp_core::hypervisor::Hypervisor;
use hyp_core::limits::{CpuIndex, MAX_CPUS};
use shared_abi::addr::{Ipa, Pa};
use spin::Once;

use super::layout::Block;
use crate::cpu::psci::CpuPower;
use crate::cpu::{Cpu, setup, vectors};
use crate::machine::el2::CoreMachine;
use crate::machine::stage1::Stage1;
use crate::machine::{maintenance, power};
use crate::trap::host;

/// The state that the boot CPU makes for all CPUs.
pub(super) struct Common {
    hypervisor: &'static Hypervisor<'static, CoreMachine>,
    trng: &'static Trng,
    stage1: Stage1,
    power: CpuPower,
}

static COMMON: Once<Common> = Once::new();

impl Common {
    /// Makes the data of the CPU that runs this.
    pub(super) fn cpu(&'static self, index: CpuIndex, entry: Ipa, argument: u64) -> Cpu {
        Cpu::new(self.hypervisor, self.trng, &self.power, index, entry, argument)
    }
}

/// Prepares all CPUs for CPU_ON. The boot CPU calls this once. `cpus` are the affinity fields of all CPUs, and `boot`
/// is the boot CPU's index in it.
pub(super) fn prepare(
    hypervisor: &'static Hypervisor<'static, CoreMachine>,
    trng: &'static Trng,
    stage1: Stage1,
    block: &Block,
    cpus: &[u64],
    boot: CpuIndex,
) -> &'static Common {
    COMMON.call_once(|| {
        let structures = (0..cpus.len().min(MAX_CPUS)).map(|cpu| boot_structure(block, cpu)).collect();
        Common { hypervisor, trng, stage1, power: CpuPower::new(cpus, boot, structures) }
    })
}

/// Writes the boot structure of a CPU to the bottom of its stack. Returns its address.
fn boot_structure(block: &Block, cpu: usize) -> Pa {
    let stack = block.stack(cpu);
    let structure = SecondaryBoot { stack_top: stack.end, entry: main, argument: cpu as u64 };
    // SAFETY: `layout::plan` has reserved the stacks, in RAM that is mapped by now. No code uses this stack: its CPU
    // has not started, and the boot CPU's stack is in the image.
    unsafe {
        core::ptr::with_exposed_provenance_mut::<SecondaryBoot>(stack.start as usize).write(structure);
    };
    // The CPU reads the structure with its caches off.
    maintenance::clean_and_invalidate(stack.start, size_of::<SecondaryBoot>() as u64);
    Pa(stack.start)
}

/// The entry of a CPU that the firmware starts for the host, through [`SecondaryBoot`]: at EL2, with the MMU off.
extern "C" fn main(index: u64) -> ! {
    vectors::install();
    let Some(common) = COMMON.get() else {
        power::off();
    };
    if let Err(why) = setup::take_el2() {
        power::refuse(why);
    }
    // SAFETY: PSCI starts a CPU with its MMU off, and `take_el2` has taken EL2. The boot CPU's map has all RAM, with
    // this code, this stack and the tables.
    unsafe { common.stage1.enable() };
    setup::init_cpu();
    let index = CpuIndex(index as usize);
    let Some((entry, argument)) = common.power.arrive(index) else {
        power::off();
    };
    host::run(&mut common.cpu(index, entry, argument))
}
