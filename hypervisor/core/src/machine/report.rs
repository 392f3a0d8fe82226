//! The report on a VM that the core gives to the machine: its identity and its cost.

use shared_abi::record::Digest;

/// The identity of a VM and its cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmReport {
    /// Whether the VM is protected: the host cannot reach its memory.
    pub protected: bool,
    /// Number of vCPUs.
    pub vcpus: u64,
    /// Its launch measurement; `None` before the start.
    pub measurement: Option<Digest>,
    /// Number of pages populated into its objects.
    pub populated: u64,
    /// Number of its pages that were wiped and returned to the host: of its memory and of its pool.
    pub returned: u64,
    /// Number of pages that the guest shares now.
    pub shared: u64,
    /// Number of the guest's hypercalls that the hypervisor served.
    pub hypercalls: u64,
    /// Number of exits to the host.
    pub exits: u64,
}

/// The event in a VM's life that a report is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// The VM has started.
    Started {
        /// Whether its launch measurement equals the one in the manifest.
        expected: bool,
    },
    /// The VM is gone.
    Ended,
}
