//! Capacity limits, and the typed indices below them. The core has no heap, so each limit is the length of an
//! array.

/// Maximum number of VMs at a time.
pub const MAX_VMS: usize = 16;
/// Maximum number of vCPUs in a VM.
pub const MAX_VCPUS: usize = 16;
/// Maximum number of memory objects in a VM.
pub const MAX_OBJECTS: usize = 4;
/// Maximum number of bindings in a VM.
pub const MAX_BINDINGS: usize = 8;

/// Maximum number of RAM ranges.
pub const MAX_REGIONS: usize = 8;
/// Maximum number of ranges of the hypervisor's own memory.
pub const MAX_RESERVED: usize = 16;
/// Maximum number of device address ranges that the host is denied.
pub const MAX_DENIED: usize = 16;
/// Maximum number of physical CPUs.
pub const MAX_CPUS: usize = 64;

/// Index of a physical CPU, below [`MAX_CPUS`]. The binary assigns each CPU a distinct index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuIndex(pub usize);

/// Index of a VM's slot, below [`MAX_VMS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VmIndex(pub u8);

/// Index of a memory object in its VM, below [`MAX_OBJECTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectIndex(pub u8);
