//! The virtual GIC CPU interface of the vCPU that runs (GIC architecture, IHI 0069, section 12.4).

use hyp_core::cpu::registers::GicRegisters;
use shared_abi::vcpu::{LIST_REGISTERS, ListRegister};

use crate::{arch, controls};

/// Whether this CPU has what is switched: all active priorities of a guest are in ICH_AP0R0_EL2 and
/// ICH_AP1R0_EL2 (ICH_VTR_EL2.PREbits + 1 is at most 5), and there are [`LIST_REGISTERS`] at least
/// (ICH_VTR_EL2.ListRegs + 1).
pub(crate) fn fits() -> bool {
    let vtr = arch::read!("ich_vtr_el2");
    (vtr >> 26) & 7 <= 4 && (vtr & 0x1f) + 1 >= LIST_REGISTERS as u64
}

/// Turns the virtual CPU interface off and frees the list registers; once per CPU. Those beyond
/// [`LIST_REGISTERS`] are never used.
#[inline(never)]
pub(crate) fn init_cpu() {
    let list_registers = (arch::read!("ich_vtr_el2") & 0x1f) + 1;
    macro_rules! free {
        ($($n:literal)*) => {
            $(if $n < list_registers {
                // SAFETY: ICH_VTR_EL2 has just said that the register is there; the interface is off, so that its
                // content has no effect.
                unsafe { arch::write!(concat!("ich_lr", $n, "_el2"), 0) };
            })*
        };
    }
    // SAFETY: EL1 has not run yet on this CPU, and the value turns the virtual interface off.
    unsafe { arch::write!("ich_hcr_el2", controls::HOST_ICH_HCR) };
    free!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

/// Gives the virtual CPU interface to a vCPU.
///
/// # Safety
///
/// They are that vCPU's registers, and it runs next.
#[inline(never)]
pub(crate) unsafe fn load(registers: &GicRegisters, list_registers: [ListRegister; LIST_REGISTERS]) {
    let [lr0, lr1, lr2, lr3] = list_registers;
    // SAFETY: the caller gives the registers of the vCPU that runs next. The parser of the entry
    // (`HostCall::parse_run`) lets no list register through that links to hardware but for the virtual timer, and
    // `fits` has seen that these registers are there.
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

/// Takes the virtual CPU interface from the vCPU that ran, and turns it off: what is left in the list
/// registers has no effect then.
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
    // SAFETY: the value turns the virtual interface off, so that nothing of the vCPU's reaches the host, which
    // runs next.
    unsafe { arch::write!("ich_hcr_el2", controls::HOST_ICH_HCR) };
    list_registers.map(ListRegister)
}
