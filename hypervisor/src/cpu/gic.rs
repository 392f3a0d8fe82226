//! The virtual GIC CPU interface of the running vCPU (GIC architecture, IHI 0069, section 12.4).

use hyp_core::cpu::registers::GicRegisters;
use shared_abi::vcpu::{LIST_REGISTERS, ListRegister};

use crate::arch::{self, controls};

/// Returns true if the switch covers all of this CPU's interface. Two conditions must hold: ICH_AP0R0_EL2 and
/// ICH_AP1R0_EL2 hold all active priorities of a guest (ICH_VTR_EL2.PREbits + 1 is at most 5), and the CPU has at
/// least [`LIST_REGISTERS`] list registers (ICH_VTR_EL2.ListRegs + 1).
pub(crate) fn fits() -> bool {
    let vtr = arch::read!("ich_vtr_el2");
    (vtr >> 26) & 7 <= 4 && (vtr & 0x1f) + 1 >= LIST_REGISTERS as u64
}

/// Turns the virtual CPU interface off and clears all list registers. Each CPU calls this once. List registers beyond
/// [`LIST_REGISTERS`] are never used.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) fn init_cpu() {
    let list_registers = (arch::read!("ich_vtr_el2") & 0x1f) + 1;
    macro_rules! free {
        ($($n:literal)*) => {
            $(if $n < list_registers {
                // SAFETY: ICH_VTR_EL2 says that this CPU has the register. The interface is off, so its content has
                // no effect.
                unsafe { arch::write!(concat!("ich_lr", $n, "_el2"), 0) };
            })*
        };
    }
    // SAFETY: EL1 has not run yet on this CPU, and the value turns the virtual interface off.
    unsafe { arch::write!("ich_hcr_el2", controls::HOST_ICH_HCR) };
    free!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

/// Loads the virtual CPU interface for a vCPU.
///
/// # Safety
///
/// The caller gives that vCPU's registers, and runs it next.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) unsafe fn load(registers: &GicRegisters, list_registers: [ListRegister; LIST_REGISTERS]) {
    let [lr0, lr1, lr2, lr3] = list_registers;
    // SAFETY: the caller gives the registers of the vCPU that runs next. `Entry::parse` refuses list
    // registers that are linked to a physical interrupt other than the virtual timer's. `fits` has checked
    // that this CPU implements all of these registers.
    unsafe {
        arch::write!("ich_vmcr_el2", registers.vmcr);
        arch::write!("ich_ap0r0_el2", registers.ap0r0);
        arch::write!("ich_ap1r0_el2", registers.ap1r0);
        arch::write!("ich_lr0_el2", lr0.0);
        arch::write!("ich_lr1_el2", lr1.0);
        arch::write!("ich_lr2_el2", lr2.0);
        arch::write!("ich_lr3_el2", lr3.0);
        arch::write!("ich_hcr_el2", controls::GUEST_ICH_HCR);
    }
}

/// Stores the virtual CPU interface of the vCPU that ran, and turns the interface off. After that, the list registers
/// have no effect.
// symbol: tests/tests/metal reads its instructions.
#[inline(never)]
pub(crate) fn save(registers: &mut GicRegisters) -> [ListRegister; LIST_REGISTERS] {
    registers.vmcr = arch::read!("ich_vmcr_el2");
    registers.ap0r0 = arch::read!("ich_ap0r0_el2");
    registers.ap1r0 = arch::read!("ich_ap1r0_el2");
    let list_registers = [
        arch::read!("ich_lr0_el2"),
        arch::read!("ich_lr1_el2"),
        arch::read!("ich_lr2_el2"),
        arch::read!("ich_lr3_el2"),
    ];
    // SAFETY: the value turns the virtual interface off, so no interrupt of the vCPU reaches the host, which runs
    // next.
    unsafe { arch::write!("ich_hcr_el2", controls::HOST_ICH_HCR) };
    list_registers.map(ListRegister)
}
