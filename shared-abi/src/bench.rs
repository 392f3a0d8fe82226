//! What `bench primitives` measures, and its samples as they are reported: raw values of CNTVCT_EL0.
//!
//! Guest, host and hypervisor see one counter. Each reports when something of its own began and ended;
//! the tool takes differences, so that nothing is computed where it would be measured.

use core::fmt;

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// Something that is timed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Operation {
            $($(#[$doc])* $variant,)*
        }

        impl Operation {
            /// All of them, in the order in which they are told.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in records.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

operations! {
    /// Guest: nothing. What it takes to read the counter is in every other sample as well.
    Empty "empty",
    /// Guest: a loop of two instructions, [`CONTROL_TURNS`] times. It shows that the counter counts
    /// instructions.
    Control "control",
    /// Host: a page whose content stays and is measured. It tells what hashing costs, beside
    /// [`Self::ZeroPage`].
    LaunchPage "launch_page",
    /// Host: a page that is wiped.
    ZeroPage "zero_page",
    /// Guest: a hypercall that the hypervisor answers itself (FEATURES).
    NullHypercall "null_hypercall",
    /// Guest: MEM_SHARE of a private page that is there.
    MemShare "mem_share",
    /// Guest: MEM_UNSHARE of that page.
    MemUnshare "mem_unshare",
    /// Guest: 256 pages shared and unshared, on no block boundary.
    ShareUnshare1M "share_unshare_1m",
    /// Guest: a block of 2 MiB shared and unshared.
    ShareUnshare2MAligned "share_unshare_2m_aligned",
    /// Guest: the first touch of a page, which the host donates alone.
    FirstTouch "first_touch",
    /// Host: one page of 2 MiB that are populated ahead.
    Populate2MPage "populate_2m_page",
    /// Guest: a read of a device register that the VMM answers.
    MmioExit "mmio_exit",
    /// Host: from the call that makes a VM to the VM's first instruction, with one page of content.
    VmCreate "vm_create",
    /// Host: one page of a VM that is torn down.
    ReclaimPage "reclaim_page",
}

/// Turns of [`Operation::Control`].
pub const CONTROL_TURNS: u64 = 1000;

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::format;

    use super::Operation;

    #[test]
    fn a_name_fills_its_column() {
        assert_eq!(format!("{:8}|", Operation::Empty), "empty   |");
    }
}
