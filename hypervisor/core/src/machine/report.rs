//! What a machine is told of a VM: what it was, and what it has cost.

use shared_abi::record::Digest;

/// What a VM was and what it has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmReport {
    /// Whether its memory is kept from the host.
    pub protected: bool,
    /// Its vCPUs.
    pub vcpus: u64,
    /// Its launch measurement, once it has started.
    pub measurement: Option<Digest>,
    /// Pages that were populated into its objects.
    pub populated: u64,
    /// Pages that it gave back, wiped: of its memory and of its pool.
    pub returned: u64,
    /// Pages that the guest shares at the moment.
    pub shared: u64,
    /// Hypercalls of the guest's that the hypervisor answered.
    pub hypercalls: u64,
    /// Exits to the host.
    pub exits: u64,
}

/// What a VM is reported for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// It has started; its measurement is the manifest's, or not.
    Started {
        /// Whether it is.
        expected: bool,
    },
    /// It is gone.
    Ended,
}
