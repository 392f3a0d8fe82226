//! The virtual GIC CPU interface of the vCPU that runs (GIC architecture, IHI 0069, section 12.4).

use hyp_core::vcpu::GicRegisters;
use shared_abi::error::CallError;
use shared_abi::vcpu::{InterruptState, LIST_REGISTERS, ListRegister};

use crate::arch;

/// ICH_HCR_EL2.En: the virtual CPU interface is on.
const ICH_HCR_EN: u64 = 1;

/// How many list registers this CPU has: ICH_VTR_EL2.ListRegs + 1, as far as an entry carries them.
fn list_registers() -> usize {
    ((arch::read!("ich_vtr_el2") & 0x1f) as usize + 1).min(LIST_REGISTERS)
}

/// Reads list register `index`; one that there is not is free.
fn read_list_register(index: usize) -> ListRegister {
    ListRegister(match index {
        0 => arch::read!("ich_lr0_el2"),
        1 => arch::read!("ich_lr1_el2"),
        2 => arch::read!("ich_lr2_el2"),
        3 => arch::read!("ich_lr3_el2"),
        _ => return ListRegister::EMPTY,
    })
}

/// Writes list register `index`, if there is one of that index.
///
/// # Safety
///
/// The value was checked and is for the vCPU that runs next.
unsafe fn write_list_register(index: usize, value: ListRegister) {
    // SAFETY: the caller's promise.
    unsafe {
        match index {
            0 => arch::write!("ich_lr0_el2", value.0),
            1 => arch::write!("ich_lr1_el2", value.0),
            2 => arch::write!("ich_lr2_el2", value.0),
            3 => arch::write!("ich_lr3_el2", value.0),
            _ => {}
        }
    }
}

/// Refuses an entry with an interrupt in a list register that this CPU does not have.
pub(crate) fn check(values: &[ListRegister; LIST_REGISTERS]) -> Result<(), CallError> {
    let beyond = &values[list_registers()..];
    if beyond
        .iter()
        .all(|value| value.state() == InterruptState::Inactive)
    {
        Ok(())
    } else {
        Err(CallError::InvalidParameter)
    }
}

/// Gives the virtual CPU interface to a vCPU.
///
/// # Safety
///
/// They are that vCPU's registers, and it runs next.
pub(crate) unsafe fn load(registers: &GicRegisters, values: &[ListRegister; LIST_REGISTERS]) {
    // SAFETY: the caller's promise.
    unsafe {
        arch::write!("ich_vmcr_el2", registers.vmcr);
        arch::write!("ich_ap0r0_el2", registers.ap0r0);
        arch::write!("ich_ap1r0_el2", registers.ap1r0);
    }
    for (index, value) in values.iter().enumerate().take(list_registers()) {
        // SAFETY: the caller's promise; `check` and the parser of the entry have seen the value.
        unsafe { write_list_register(index, *value) };
    }
    // SAFETY: as above.
    unsafe { arch::write!("ich_hcr_el2", ICH_HCR_EN) };
}

/// Takes the virtual CPU interface from the vCPU that ran, and turns it off.
pub(crate) fn save(registers: &mut GicRegisters) -> [ListRegister; LIST_REGISTERS] {
    registers.vmcr = arch::read!("ich_vmcr_el2");
    registers.ap0r0 = arch::read!("ich_ap0r0_el2");
    registers.ap1r0 = arch::read!("ich_ap1r0_el2");
    let mut values = [ListRegister::EMPTY; LIST_REGISTERS];
    for (index, value) in values.iter_mut().enumerate().take(list_registers()) {
        *value = read_list_register(index);
    }
    // SAFETY: with the interface off nothing of the vCPU's reaches the host.
    unsafe { arch::write!("ich_hcr_el2", 0) };
    values
}
