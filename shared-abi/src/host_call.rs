//! The host's calls to the hypervisor: SMC64 fast calls by `hvc #0`.
//!
//! x0 holds the function ID, x1 and up the arguments. On return x0 is 0 or a [`CallError`]. If the call succeeds, x1
//! to x5 (x1 to x9 for `VcpuRun`) hold its documented results, and 0 where it documents none. If it is refused, x1 is
//! 0 unless the call documents a value for the error, and x2 and up may keep their old values. All other registers
//! keep their values. The interface is private to the image that contains both sides. [`VERSION`] identifies it, and
//! older versions are not supported.
//!
//! A call names pages by physical page number. Donated and lent pages must be the host's own and unshared. A call
//! names guest memory by a memory object's handle and an offset, never by a mapping.

use crate::addr::{Gfn, Ipa, Pfn};
use crate::error::CallError;
use crate::vcpu::Entry;

/// The result of [`HostCall::Version`].
pub const VERSION: u64 = 1;

/// Arguments and results: x1 to x17 (SMCCC 1.2).
pub type Arguments = [u64; 17];

/// Names a VM. It contains a generation, so that a handle names nothing after its VM is destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmHandle(pub u32);

/// Names a memory object. It contains a generation, so that a handle names nothing after its object is destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectHandle(pub u32);

/// The index of a vCPU in its VM, and its MPIDR_EL1.Aff0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuIndex(pub u32);

/// The content of a populated page: the host's, or zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InitialContent {
    /// It is kept and measured: the launch image. This is allowed only before the VM starts.
    Keep,
    /// It is wiped.
    Zero,
}

/// The state of a memory object's page, as [`HostCall::ObjectQuery`] returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum ObjectPageState {
    /// No page is present. The host may populate it.
    Absent = 0,
    /// Only the guest reaches it.
    Private = 1,
    /// Guest and host reach it.
    Shared = 2,
    /// The host took the page by force. It cannot be populated again.
    Poisoned = 3,
}

impl ObjectPageState {
    /// Returns the state that a result register encodes, or `None` for an unknown code.
    #[must_use]
    pub const fn from_code(code: u64) -> Option<Self> {
        match code {
            0 => Some(Self::Absent),
            1 => Some(Self::Private),
            2 => Some(Self::Shared),
            3 => Some(Self::Poisoned),
            _ => None,
        }
    }
}

/// A host call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCall {
    /// x1 = [`VERSION`].
    Version,
    /// Makes a VM. It is protected, or ordinary (the host keeps its memory and lends it).
    ///
    /// Donates `pages` physically contiguous pages from `first` on: the VM's memory pool, from which the hypervisor
    /// takes all memory for this VM. `first` must be even, because the stage-2 root is two pages, aligned to their
    /// size. x1 = [`VmHandle`].
    VmCreate {
        /// Whether its memory is private by default.
        protected: bool,
        /// The first page of the pool.
        first: Pfn,
        /// The number of pages in the pool, at least 3.
        pages: u64,
    },
    /// Donates more pages to a VM's pool.
    VmTopUp {
        /// The VM that owns the pool.
        vm: VmHandle,
        /// The first page. The pages are physically contiguous.
        first: Pfn,
        /// The number of pages.
        pages: u64,
    },
    /// Makes a memory object of `pages` pages for a VM that has not started. x1 = [`ObjectHandle`].
    ObjectCreate {
        /// The VM.
        vm: VmHandle,
        /// Its fixed size in pages.
        pages: u64,
    },
    /// Binds pages of an object to guest-physical addresses. Once the VM has started, bindings are fixed, and each
    /// object page is at one address only.
    ObjectBind {
        /// The object.
        object: ObjectHandle,
        /// The first page in the object.
        offset: u64,
        /// The guest page of the first page.
        gfn: Gfn,
        /// The number of pages.
        pages: u64,
    },
    /// Undoes [`Self::ObjectBind`] for the same range. No page may be present in it.
    ObjectUnbind {
        /// The object.
        object: ObjectHandle,
        /// The first page in the object.
        offset: u64,
        /// The number of pages.
        pages: u64,
    },
    /// Gives physically contiguous pages to an object, at a bound offset where no page is present. Donates them to a
    /// protected VM, or lends them to an ordinary one.
    ///
    /// Bounded work: x1 = the number of pages done. x0 = [`CallError::Again`] if that is not all.
    ObjectPopulate {
        /// The object.
        object: ObjectHandle,
        /// The first page in the object.
        offset: u64,
        /// The first physical page.
        first: Pfn,
        /// The number of pages.
        pages: u64,
        /// Their content afterwards.
        content: InitialContent,
    },
    /// Takes pages out of an object. A protected VM's pages come back wiped, and are poisoned for the guest if the
    /// VM has started. An ordinary VM's pages come back as they are.
    ///
    /// Bounded work: x1 = the number of pages done. x0 = [`CallError::Again`] if that is not all.
    ObjectReclaim {
        /// The object.
        object: ObjectHandle,
        /// The first page in the object.
        offset: u64,
        /// The number of pages.
        pages: u64,
    },
    /// x1 = [`ObjectPageState`] at `offset`. x2 = the number of consecutive pages from `offset` in the same
    /// state, at least 1. The call examines a bounded number of pages, so more pages may follow in the same
    /// state.
    ObjectQuery {
        /// The object.
        object: ObjectHandle,
        /// The page in the object.
        offset: u64,
    },
    /// Destroys an object in which no page is present. Its memory goes back to the pool.
    ObjectDestroy {
        /// The object.
        object: ObjectHandle,
    },
    /// Makes the next vCPU of a VM that has not started. Its registers are in the pool.
    VcpuCreate {
        /// The VM.
        vm: VmHandle,
        /// The vCPU's index. Indices are assigned in order from 0.
        index: VcpuIndex,
    },
    /// Ends the measurement and starts the VM: vCPU 0 can run at `entry`, with x0 = `argument`.
    ///
    /// x1 = 1 if the measurement is the one in the manifest. x2 to x5 = the measurement, as little-endian words.
    VmStart {
        /// The VM.
        vm: VmHandle,
        /// The initial PC.
        entry: Ipa,
        /// The initial x0: the address of the device tree.
        argument: u64,
    },
    /// Enters a vCPU until it exits. [`crate::vcpu`] defines the arguments and results.
    VcpuRun {
        /// The VM.
        vm: VmHandle,
        /// The vCPU.
        vcpu: VcpuIndex,
        /// The host's input to the entry.
        entry: Entry,
    },
    /// Destroys a VM: none of its vCPUs runs again. All its pages return to the host: those of its pool and those
    /// that were private, wiped.
    ///
    /// Bounded work: x1 = the number of pages that came back in this call. x0 = [`CallError::Again`] until all are
    /// back. After that, the handle names nothing.
    VmDestroy {
        /// The VM.
        vm: VmHandle,
    },
    /// Takes one page of a protected VM by force, by its physical number. It comes back wiped, and is poisoned for
    /// the guest.
    ForceReclaim {
        /// The page.
        page: Pfn,
    },
    /// Returns a VM's counters: x1 = the guest's hypercalls that the hypervisor completed, x2 = exits to the host, x3
    /// = pages that the guest shares now.
    VmCounters {
        /// The VM.
        vm: VmHandle,
    },
}

/// The first function ID: SMC64 fast call, owner 6 (vendor hypervisor), number 0x8000. KVM uses the numbers below it.
const BASE: u32 = 0xc600_8000;
/// The function ID of [`HostCall::VcpuRun`].
pub const VCPU_RUN: u32 = BASE + RUN;
/// The function number of `VcpuRun`.
const RUN: u32 = 12;

impl HostCall {
    /// Parses a call from the function ID in w0 and x1 to x17.
    ///
    /// # Errors
    ///
    /// [`CallError::NotSupported`] for an unknown function, [`CallError::InvalidParameter`] for an argument that is
    /// invalid for its type.
    pub fn parse(function: u32, x: &Arguments) -> Result<Self, CallError> {
        match function {
            VCPU_RUN => Self::parse_run(x).map(|(vm, vcpu, entry)| Self::VcpuRun { vm, vcpu, entry }),
            _ => Self::parse_other(function, x),
        }
    }

    /// Parses x1 to x17 of [`VCPU_RUN`].
    ///
    /// # Errors
    ///
    /// [`CallError::InvalidParameter`] for an argument that is invalid for its type.
    #[inline(always)] // mmio_exit: the arguments stay in registers
    pub fn parse_run(x: &Arguments) -> Result<(VmHandle, VcpuIndex, Entry), CallError> {
        Ok((VmHandle(handle(x[0])?), VcpuIndex(handle(x[1])?), Entry::parse(x)?))
    }

    /// Parses a call other than `VcpuRun`.
    ///
    /// # Errors
    ///
    /// Those of [`Self::parse`].
    pub fn parse_other(function: u32, x: &Arguments) -> Result<Self, CallError> {
        let number = function.checked_sub(BASE).ok_or(CallError::NotSupported)?;
        let vm = || handle(x[0]).map(VmHandle);
        let object = || handle(x[0]).map(ObjectHandle);
        match number {
            0 => Ok(Self::Version),
            1 => Ok(Self::VmCreate { protected: flag(x[0])?, first: Pfn(x[1]), pages: x[2] }),
            2 => Ok(Self::VmTopUp { vm: vm()?, first: Pfn(x[1]), pages: x[2] }),
            3 => Ok(Self::ObjectCreate { vm: vm()?, pages: x[1] }),
            4 => Ok(Self::ObjectBind { object: object()?, offset: x[1], gfn: Gfn(x[2]), pages: x[3] }),
            5 => Ok(Self::ObjectUnbind { object: object()?, offset: x[1], pages: x[2] }),
            6 => Ok(Self::ObjectPopulate {
                object: object()?,
                offset: x[1],
                first: Pfn(x[2]),
                pages: x[3],
                content: if flag(x[4])? { InitialContent::Keep } else { InitialContent::Zero },
            }),
            7 => Ok(Self::ObjectReclaim { object: object()?, offset: x[1], pages: x[2] }),
            8 => Ok(Self::ObjectQuery { object: object()?, offset: x[1] }),
            9 => Ok(Self::ObjectDestroy { object: object()? }),
            10 => Ok(Self::VcpuCreate { vm: vm()?, index: VcpuIndex(handle(x[1])?) }),
            11 => Ok(Self::VmStart { vm: vm()?, entry: Ipa(x[1]), argument: x[2] }),
            13 => Ok(Self::VmDestroy { vm: vm()? }),
            14 => Ok(Self::ForceReclaim { page: Pfn(x[0]) }),
            15 => Ok(Self::VmCounters { vm: vm()? }),
            _ => Err(CallError::NotSupported),
        }
    }

    /// Encodes the call: the function ID for w0, and x1 to x17.
    // Of a call that is known where it is made, nothing is left to do at run time.
    #[inline(always)] // first_touch: of a call that is known where it is made, nothing is left to do at run time
    #[must_use]
    pub fn emit(&self) -> (u32, Arguments) {
        let mut x = [0; 17];
        let mut set = |values: &[u64]| {
            for (register, value) in x.iter_mut().zip(values) {
                *register = *value;
            }
        };
        let number = match *self {
            Self::Version => 0,
            Self::VmCreate { protected, first, pages } => {
                set(&[protected.into(), first.0, pages]);
                1
            }
            Self::VmTopUp { vm, first, pages } => {
                set(&[vm.0.into(), first.0, pages]);
                2
            }
            Self::ObjectCreate { vm, pages } => {
                set(&[vm.0.into(), pages]);
                3
            }
            Self::ObjectBind { object, offset, gfn, pages } => {
                set(&[object.0.into(), offset, gfn.0, pages]);
                4
            }
            Self::ObjectUnbind { object, offset, pages } => {
                set(&[object.0.into(), offset, pages]);
                5
            }
            Self::ObjectPopulate { object, offset, first, pages, content } => {
                set(&[object.0.into(), offset, first.0, pages, (content == InitialContent::Keep).into()]);
                6
            }
            Self::ObjectReclaim { object, offset, pages } => {
                set(&[object.0.into(), offset, pages]);
                7
            }
            Self::ObjectQuery { object, offset } => {
                set(&[object.0.into(), offset]);
                8
            }
            Self::ObjectDestroy { object } => {
                set(&[object.0.into()]);
                9
            }
            Self::VcpuCreate { vm, index } => {
                set(&[vm.0.into(), index.0.into()]);
                10
            }
            Self::VmStart { vm, entry, argument } => {
                set(&[vm.0.into(), entry.0, argument]);
                11
            }
            Self::VcpuRun { vm, vcpu, ref entry } => return Self::emit_run(vm, vcpu, entry),
            Self::VmDestroy { vm } => {
                set(&[vm.0.into()]);
                13
            }
            Self::ForceReclaim { page } => {
                set(&[page.0]);
                14
            }
            Self::VmCounters { vm } => {
                set(&[vm.0.into()]);
                15
            }
        };
        (BASE | number, x)
    }

    /// Returns what [`Self::emit`] returns for a `VcpuRun`, but constructs no `HostCall`. If it did, the
    /// compiler could not tell at the end which variant it is.
    #[inline(always)] // mmio_exit: the call is made in registers
    #[must_use]
    pub fn emit_run(vm: VmHandle, vcpu: VcpuIndex, entry: &Entry) -> (u32, Arguments) {
        let mut x = [0; 17];
        (x[0], x[1]) = (vm.0.into(), vcpu.0.into());
        entry.emit(&mut x);
        (BASE | RUN, x)
    }
}

/// Parses a register that must hold a 32-bit value: a handle or an index.
fn handle(register: u64) -> Result<u32, CallError> {
    u32::try_from(register).map_err(|_| CallError::InvalidParameter)
}

/// Parses a register that must hold 0 or 1.
fn flag(register: u64) -> Result<bool, CallError> {
    match register {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CallError::InvalidParameter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::{Entry, ListRegister, Resume};

    #[test]
    fn every_call_round_trips() {
        let vm = VmHandle(0x0001_0002);
        let object = ObjectHandle(0x0003_0004);
        let entry = Entry {
            resume: Resume::MmioRead(0x55),
            list_registers: [ListRegister(1), ListRegister(2), ListRegister(3), ListRegister(4)],
        };
        let calls = [
            HostCall::Version,
            HostCall::VmCreate { protected: true, first: Pfn(7), pages: 9 },
            HostCall::VmTopUp { vm, first: Pfn(7), pages: 9 },
            HostCall::ObjectCreate { vm, pages: 9 },
            HostCall::ObjectBind { object, offset: 1, gfn: Gfn(2), pages: 3 },
            HostCall::ObjectUnbind { object, offset: 1, pages: 3 },
            HostCall::ObjectPopulate {
                object,
                offset: 1,
                first: Pfn(2),
                pages: 3,
                content: InitialContent::Keep,
            },
            HostCall::ObjectReclaim { object, offset: 1, pages: 3 },
            HostCall::ObjectQuery { object, offset: 1 },
            HostCall::ObjectDestroy { object },
            HostCall::VcpuCreate { vm, index: VcpuIndex(1) },
            HostCall::VmStart { vm, entry: Ipa(0x4000_0000), argument: 5 },
            HostCall::VcpuRun { vm, vcpu: VcpuIndex(1), entry },
            HostCall::VmDestroy { vm },
            HostCall::ForceReclaim { page: Pfn(7) },
            HostCall::VmCounters { vm },
        ];
        for (number, call) in calls.into_iter().enumerate() {
            let (function, x) = call.emit();
            assert_eq!(function as usize, BASE as usize + number);
            assert_eq!(HostCall::parse(function, &x), Ok(call));
        }
        let unknown = BASE + calls.len() as u32;
        assert_eq!(HostCall::parse(unknown, &[0; 17]), Err(CallError::NotSupported));
        assert_eq!(HostCall::parse(0x8400_0000, &[0; 17]), Err(CallError::NotSupported));
    }

    #[test]
    fn states_of_a_page_have_numbers() {
        let states = [
            ObjectPageState::Absent,
            ObjectPageState::Private,
            ObjectPageState::Shared,
            ObjectPageState::Poisoned,
        ];
        assert_eq!([0, 1, 2, 3].map(ObjectPageState::from_code), states.map(Some));
        assert_eq!(states.map(|state| state as u64), [0, 1, 2, 3]);
        assert_eq!(ObjectPageState::from_code(4), None);
    }

    #[test]
    fn values_of_no_type_are_refused() {
        let (function, mut x) = HostCall::VmCreate { protected: true, first: Pfn(7), pages: 9 }.emit();
        x[0] = 2;
        assert_eq!(HostCall::parse(function, &x), Err(CallError::InvalidParameter));
        x[0] = 0;
        let ordinary = HostCall::VmCreate { protected: false, first: Pfn(7), pages: 9 };
        assert_eq!(HostCall::parse(function, &x), Ok(ordinary));
        let (function, mut x) = HostCall::VmDestroy { vm: VmHandle(1) }.emit();
        x[0] |= 1 << 32;
        assert_eq!(HostCall::parse(function, &x), Err(CallError::InvalidParameter));
    }
}
