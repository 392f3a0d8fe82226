//! The operations that `bench primitives` measures, and their samples: raw values of CNTVCT_EL0.
//!
//! Guest, host and hypervisor read the same counter. Each party reports the start and the end of its own operations.
//! The tool computes the differences, so that the computation is not part of the measurement.

use core::fmt;

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// A measured operation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Operation {
            $($(#[$doc])* $variant,)*
        }

        impl Operation {
            /// All operations, in the order of the report.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The operation's name in records.
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
    /// Guest: nothing. It measures the cost of the two counter reads, which every sample includes.
    Empty "empty",
    /// Guest: a loop of two instructions, [`CONTROL_TURNS`] times. It shows that the counter counts instructions.
    Control "control",
    /// Host: a populate of a page whose content is kept and measured. The difference from [`Self::ZeroPage`] is the
    /// cost of the hash.
    LaunchPage "launch_page",
    /// Host: a populate of a page that is wiped.
    ZeroPage "zero_page",
    /// Guest: a hypercall that the hypervisor completes without the host (FEATURES).
    NullHypercall "null_hypercall",
    /// Guest: MEM_SHARE of a private, present page.
    MemShare "mem_share",
    /// Guest: MEM_UNSHARE of that page.
    MemUnshare "mem_unshare",
    /// Guest: share and unshare of 256 pages that are not aligned to a block.
    ShareUnshare1M "share_unshare_1m",
    /// Guest: share and unshare of an aligned 2 MiB block.
    ShareUnshare2MAligned "share_unshare_2m_aligned",
    /// Guest: the first access to a page, for which the host populates only that page.
    FirstTouch "first_touch",
    /// Host: one page of a 2 MiB populate before the guest's access.
    Populate2MPage "populate_2m_page",
    /// Guest: a read of a device register that the VMM emulates.
    MmioExit "mmio_exit",
    /// Host: from the call that makes a VM to the VM's first instruction. The VM has one page of content.
    VmCreate "vm_create",
    /// Host: one page of a VM that is destroyed.
    ReclaimPage "reclaim_page",
}

/// The number of turns of [`Operation::Control`].
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
