//! The virtual GIC CPU interface of the vCPU that runs (GIC architecture, IHI 0069, section 12.4).
//!
//! Between runs all list registers are free: [`save`] clears what [`load`] has filled.

use hyp_core::vcpu::GicRegisters;
use shared_abi::error::CallError;
use shared_abi::vcpu::{LIST_REGISTERS, ListRegister};

use crate::arch;

/// ICH_HCR_EL2.En: the virtual CPU interface is on.
const ICH_HCR_EN: u64 = 1;

/// How many list registers this CPU has: ICH_VTR_EL2.ListRegs + 1.
fn list_registers() -> usize {
    (arch::read!("ich_vtr_el2") & 0x1f) as usize + 1
}

/// Whether all active priorities of a guest are in ICH_AP0R0_EL2 and ICH_AP1R0_EL2, which are switched:
/// ICH_VTR_EL2.PREbits + 1 is at most 5.
pub(crate) fn priorities_fit() -> bool {
    (arch::read!("ich_vtr_el2") >> 26) & 7 <= 4
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

/// Writes list register `index`.
///
/// # Safety
///
/// There is one of that index; the value was checked and is for the vCPU that runs next, or empty.
unsafe fn write_list_register(index: usize, value: ListRegister) {
    macro_rules! by_index {
        ($($n:literal)*) => {
            match index {
                // SAFETY: the caller's promise.
                $($n => unsafe { arch::write!(concat!("ich_lr", $n, "_el2"), value.0) },)*
                _ => {}
            }
        };
    }
    by_index!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

/// Turns the virtual CPU interface off and frees all list registers; once per CPU.
pub(crate) fn init_cpu() {
    // SAFETY: with the interface off nothing of a vCPU's reaches the host.
    unsafe { arch::write!("ich_hcr_el2", 0) };
    for index in 0..list_registers() {
        // SAFETY: there is one of that index.
        unsafe { write_list_register(index, ListRegister::EMPTY) };
    }
}

/// How many list registers an entry uses, from the first on.
///
/// # Errors
///
/// [`CallError::InvalidParameter`] for more than this CPU has.
pub(crate) fn used(values: &[ListRegister; LIST_REGISTERS]) -> Result<usize, CallError> {
    let last = values.iter().rposition(|value| *value != ListRegister::EMPTY);
    match last {
        None => Ok(0),
        Some(last) if last < list_registers() => Ok(last + 1),
        Some(_) => Err(CallError::InvalidParameter),
    }
}

/// Gives the virtual CPU interface to a vCPU, with the first `used` of the list registers.
///
/// # Safety
///
/// They are that vCPU's registers, and it runs next; `used` is [`used`]'s.
pub(crate) unsafe fn load(registers: &GicRegisters, values: &[ListRegister; LIST_REGISTERS], used: usize) {
    // SAFETY: the caller's promise; the parser of the entry has seen the values.
    unsafe {
        arch::write!("ich_vmcr_el2", registers.vmcr);
        arch::write!("ich_ap0r0_el2", registers.ap0r0);
        arch::write!("ich_ap1r0_el2", registers.ap1r0);
        for (index, value) in values.iter().enumerate().take(used) {
            write_list_register(index, *value);
        }
        arch::write!("ich_hcr_el2", ICH_HCR_EN);
    }
}

/// Takes the virtual CPU interface from the vCPU that ran, and turns it off.
pub(crate) fn save(registers: &mut GicRegisters, used: usize) -> [ListRegister; LIST_REGISTERS] {
    registers.vmcr = arch::read!("ich_vmcr_el2");
    registers.ap0r0 = arch::read!("ich_ap0r0_el2");
    registers.ap1r0 = arch::read!("ich_ap1r0_el2");
    let mut values = [ListRegister::EMPTY; LIST_REGISTERS];
    for (index, value) in values.iter_mut().enumerate().take(used) {
        *value = read_list_register(index);
        // SAFETY: it was loaded, so it is there.
        unsafe { write_list_register(index, ListRegister::EMPTY) };
    }
    // SAFETY: with the interface off nothing of the vCPU's reaches the host.
    unsafe { arch::write!("ich_hcr_el2", 0) };
    values
}
