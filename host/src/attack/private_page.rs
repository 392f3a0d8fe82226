//! The host reads and writes a page that it has donated, at its physical address.

use shared_abi::addr::Pfn;

use crate::memory::HostMemory;

/// How the attempts went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttackOutcome {
    /// The read took a fault.
    pub read_faulted: bool,
    /// The write took a fault.
    pub write_faulted: bool,
}

/// What it writes: a pattern that no program is likely to have there.
const PATTERN: [u8; 8] = 0x5a5a_a5a5_dead_c0de_u64.to_le_bytes();

/// Reads and writes the first bytes of `page`.
pub fn attempt(memory: &impl HostMemory, page: Pfn) -> AttackOutcome {
    let at = page.base();
    AttackOutcome {
        read_faulted: memory.read(at, &mut [0; PATTERN.len()]).is_err(),
        write_faulted: memory.write(at, &PATTERN).is_err(),
    }
}
