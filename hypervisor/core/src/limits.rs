//! How much of everything there may be, and the numbers that name one of it. The core has no heap: each bound is
//! the length of an array.

/// Most VMs at a time.
pub const MAX_VMS: usize = 16;
/// Most vCPUs of a VM.
pub const MAX_VCPUS: usize = 16;
/// Most memory objects of a VM.
pub const MAX_OBJECTS: usize = 4;
/// Most bindings of a VM.
pub const MAX_BINDINGS: usize = 8;

/// Most ranges of RAM.
pub const MAX_REGIONS: usize = 8;
/// Most ranges of the hypervisor's own memory.
pub const MAX_RESERVED: usize = 16;
/// Most ranges of denied device addresses.
pub const MAX_DENIED: usize = 16;
/// Most physical CPUs.
pub const MAX_CPUS: usize = 64;

/// A physical CPU, counted from 0. The binary gives each CPU one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuIndex(pub usize);

/// The place of a VM in the table of VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VmIndex(pub u8);

/// The place of a memory object in its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectIndex(pub u8);
