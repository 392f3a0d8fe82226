//! A machine made of a `Vec`, for the tests of this crate: memory that faults where the hypervisor says
//! so, an allocator, and a hypervisor that keeps the books of one VM.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use shared_abi::addr::{PAGE_SIZE, Pa, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{Arguments, HostCall, InitialContent};

use crate::hypervisor::HostCalls;
use crate::memory::{Fault, FrameAllocator, HostMemory};
use crate::platform::{Platform, Resources};
use crate::virtio::block::{BlockBackend, DiskError, SECTOR_BYTES};

/// The first page of the fake RAM.
pub(crate) const FIRST: u64 = 0x8_0000;
/// Its size.
pub(crate) const PAGES: u64 = 4096;

/// What the parts of the machine share.
#[derive(Debug)]
pub(crate) struct State {
    ram: Vec<u8>,
    /// Pages that the host may not touch.
    pub(crate) private: BTreeSet<u64>,
    free: BTreeSet<u64>,
    donated: BTreeSet<u64>,
    /// Every call but the runs, in order.
    pub(crate) calls: Vec<HostCall>,
    /// How many more pages of the pool there are before NoMemory.
    pub(crate) pool_left: u64,
    /// The call that is refused, by its place in `calls`.
    pub(crate) refuse: Option<usize>,
    /// Pages that a destroyed VM gives back unwiped.
    pub(crate) leak: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct FakeMachine(pub(crate) Rc<RefCell<State>>);

impl FakeMachine {
    pub(crate) fn new() -> Self {
        Self(Rc::new(RefCell::new(State {
            ram: vec![0xee; (PAGES * PAGE_SIZE) as usize],
            private: BTreeSet::new(),
            free: (FIRST..FIRST + PAGES).collect(),
            donated: BTreeSet::new(),
            calls: Vec::new(),
            pool_left: 8,
            refuse: None,
            leak: false,
        })))
    }

    pub(crate) fn resources(&self) -> Resources<Fake> {
        Resources { hypervisor: self.clone(), memory: self.clone(), frames: self.clone() }
    }

    pub(crate) fn free_pages(&self) -> u64 {
        self.0.borrow().free.len() as u64
    }

    /// The guest shares the page.
    pub(crate) fn share(&self, pfn: Pfn) {
        assert!(self.0.borrow_mut().private.remove(&pfn.0));
    }

    fn range(&self, pa: Pa, bytes: usize) -> Result<std::ops::Range<usize>, Fault> {
        let state = self.0.borrow();
        let start = pa.0.checked_sub(FIRST * PAGE_SIZE).ok_or(Fault(pa))? as usize;
        let end = start.checked_add(bytes).filter(|end| *end <= state.ram.len());
        let last = pa.0 + (bytes as u64).max(1) - 1;
        let private = state.private.range(pa.page().0..=Pa(last).page().0).next();
        match (end, private) {
            (Some(end), None) => Ok(start..end),
            _ => Err(Fault(pa)),
        }
    }
}

impl HostMemory for FakeMachine {
    fn read(&self, from: Pa, into: &mut [u8]) -> Result<(), Fault> {
        let range = self.range(from, into.len())?;
        into.copy_from_slice(&self.0.borrow().ram[range]);
        Ok(())
    }

    fn write(&self, to: Pa, from: &[u8]) -> Result<(), Fault> {
        let range = self.range(to, from.len())?;
        self.0.borrow_mut().ram[range].copy_from_slice(from);
        Ok(())
    }
}

impl FrameAllocator for FakeMachine {
    fn allocate(&mut self, pages: u64, align_pages: u64) -> Option<Pfn> {
        let mut state = self.0.borrow_mut();
        let first = (FIRST..FIRST + PAGES)
            .step_by(align_pages as usize)
            .find(|first| (*first..first + pages).all(|page| state.free.contains(&page)))?;
        state.free.retain(|page| !(first..first + pages).contains(page));
        Some(Pfn(first))
    }

    fn free(&mut self, first: Pfn, pages: u64) {
        let mut state = self.0.borrow_mut();
        for page in first.0..first.0 + pages {
            assert!(!state.private.contains(&page), "freed while private");
            assert!(state.free.insert(page), "freed twice");
        }
    }
}

impl State {
    fn donate(&mut self, first: Pfn, pages: u64, wipe: bool) {
        for page in first.0..first.0 + pages {
            assert!(!self.free.contains(&page), "donated while free");
            assert!(self.private.insert(page), "donated twice");
            self.donated.insert(page);
            if wipe {
                self.wipe(page);
            }
        }
    }

    fn wipe(&mut self, page: u64) {
        let start = ((page - FIRST) * PAGE_SIZE) as usize;
        self.ram[start..start + PAGE_SIZE as usize].fill(0);
    }

    fn call(&mut self, call: HostCall) -> Result<u64, (CallError, u64)> {
        /// What populating does at once.
        const BOUND: u64 = 100;
        self.calls.push(call);
        if self.refuse == Some(self.calls.len() - 1) {
            return Err((CallError::Denied, 0));
        }
        match call {
            HostCall::VmCreate { first, pages, .. } => {
                self.donate(first, pages, true);
                Ok(1)
            }
            HostCall::VmTopUp { first, pages, .. } => {
                self.donate(first, pages, true);
                self.pool_left += pages;
                Ok(0)
            }
            HostCall::ObjectPopulate { first, pages, content, .. } => {
                if self.pool_left == 0 {
                    return Err((CallError::NoMemory, 3));
                }
                self.pool_left -= 1;
                let done = pages.min(BOUND);
                self.donate(first, done, content == InitialContent::Zero);
                if done == pages { Ok(done) } else { Err((CallError::Again, done)) }
            }
            HostCall::VmDestroy { .. } => {
                let batch: Vec<u64> = self.donated.iter().copied().take(BOUND as usize).collect();
                for page in &batch {
                    self.donated.remove(page);
                    self.private.remove(page);
                    if !self.leak {
                        self.wipe(*page);
                    }
                }
                let done = batch.len() as u64;
                if self.donated.is_empty() { Ok(done) } else { Err((CallError::Again, done)) }
            }
            _ => Ok(1),
        }
    }
}

impl HostCalls for FakeMachine {
    fn invoke(&self, function: u32, x: &mut Arguments) -> u64 {
        let call = HostCall::parse(function, x).unwrap();
        *x = [0; 17];
        let (code, value) = match self.0.borrow_mut().call(call) {
            Ok(value) => (0, value),
            Err((error, detail)) => (error.code(), detail),
        };
        x[0] = value;
        code
    }
}

/// A disk in memory.
#[derive(Debug)]
pub(crate) struct RamDisk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) read_only: bool,
    pub(crate) broken: bool,
}

impl RamDisk {
    pub(crate) fn new(sectors: usize) -> Self {
        Self {
            bytes: (0..sectors * SECTOR_BYTES).map(|n| (n / 7) as u8).collect(),
            read_only: false,
            broken: false,
        }
    }
}

impl BlockBackend for RamDisk {
    fn sectors(&self) -> u64 {
        (self.bytes.len() / SECTOR_BYTES) as u64
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let start = sector as usize * SECTOR_BYTES;
        into.copy_from_slice(&self.bytes[start..start + into.len()]);
        if self.broken { Err(DiskError) } else { Ok(()) }
    }

    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        let start = sector as usize * SECTOR_BYTES;
        self.bytes[start..start + from.len()].copy_from_slice(from);
        if self.broken { Err(DiskError) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        if self.broken { Err(DiskError) } else { Ok(()) }
    }
}

/// What was printed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Printed(pub(crate) Rc<RefCell<Vec<u8>>>);

impl embedded_io::ErrorType for Printed {
    type Error = core::convert::Infallible;
}

impl embedded_io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// The front end of all this.
#[derive(Debug)]
pub(crate) struct Fake;

impl Platform for Fake {
    type Hypervisor = FakeMachine;
    type Memory = FakeMachine;
    type Frames = FakeMachine;
    type Disk = RamDisk;
    type Console = Printed;
}
