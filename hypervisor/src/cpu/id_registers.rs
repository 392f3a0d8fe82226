//! This CPU's ID registers, of which the core shows EL1 a part.

use hyp_core::cpu::syndrome::SysRegId;

use crate::arch;

/// Reads an ID register that EL1 sees a part of. Returns 0 for any other.
pub(super) fn read(register: SysRegId) -> u64 {
    let (.., crm, op2) = register.fields();
    match (crm, op2) {
        (4, 0) => arch::read!("id_aa64pfr0_el1"),
        (4, 1) => arch::read!("id_aa64pfr1_el1"),
        (5, 0) => arch::read!("id_aa64dfr0_el1"),
        (6, 0) => arch::read!("id_aa64isar0_el1"),
        (6, 1) => arch::read!("id_aa64isar1_el1"),
        (6, 2) => arch::read!("s3_0_c0_c6_2"), // ID_AA64ISAR2_EL1
        (7, 0) => arch::read!("id_aa64mmfr0_el1"),
        (7, 1) => arch::read!("id_aa64mmfr1_el1"),
        (7, 2) => arch::read!("id_aa64mmfr2_el1"),
        _ => 0,
    }
}
