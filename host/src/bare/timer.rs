//! The host's own tick: the EL1 physical timer. The virtual one belongs to guests.

use bare_rt::el1::cpu::{self, timer_control};

/// How long a vCPU runs before another on the same CPU gets its turn.
const SLICES_PER_SECOND: u64 = 100;

/// The physical count now. CNTVOFF_EL2 is 0 for host and guests, so that a guest's deadline can be
/// compared with it.
pub(crate) fn now() -> u64 {
    cpu::physical_count()
}

/// The end of a time slice that starts now.
pub(crate) fn slice_end() -> u64 {
    now().saturating_add(cpu::counter_frequency() / SLICES_PER_SECOND)
}

/// Asks for an interrupt on this CPU when the count reaches `deadline`, or for none.
pub(crate) fn arm(deadline: Option<u64>) {
    match deadline {
        Some(deadline) => {
            cpu::set_physical_timer_compare(deadline);
            cpu::set_physical_timer_control(timer_control::ENABLE);
        }
        // Most entries of a vCPU find it disarmed already.
        None if cpu::physical_timer_control() & timer_control::ENABLE == 0 => {}
        None => cpu::set_physical_timer_control(0),
    }
}
