//! What brings a guest's traps to the core: on metal the vectors of EL2.

use hyp_core::exit::{GuestAction, Services, Trap, guest_exit, quick_hypercall};
use hyp_core::loaded::Loaded;
use hyp_core::machine::Machine;
use hyp_core::syndrome::Syndrome;

/// Handles a trap of the guest's: an HVC goes the short way first.
pub fn guest_trap<M: Machine>(
    vcpu: &mut Loaded<'_, '_, M>,
    services: &Services<'_>,
    trap: Trap,
) -> GuestAction {
    match trap {
        Trap::Synchronous { esr, .. }
            if let Syndrome::Hvc { imm } = Syndrome::decode(esr)
                && quick_hypercall(vcpu, imm) =>
        {
            GuestAction::Resume
        }
        _ => guest_exit(vcpu, services, trap),
    }
}
