//! The life of a VM: its memory is donated, populated, and comes back.
//!
//! The host names guest memory by its memory object; which physical page it gave for which guest page it
//! remembers in a [`pages::PageMap`], to find what the guest shares, and to get everything back.

use alloc::vec::Vec;

use shared_abi::addr::{Gfn, PAGE_SIZE, PageRange, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{InitialContent, ObjectHandle, VcpuIndex, VmHandle};

use crate::hypervisor::{HostCalls, Launch, Progress, Refusal};
use crate::layout::GuestLayout;
use crate::memory::{Fault, FrameAllocator, HostMemory};
use crate::platform::{Platform, Resources};

pub mod pages;
mod teardown;
#[cfg(test)]
pub(crate) mod tests;

use pages::{GuestRun, PageMap};
pub use teardown::Teardown;

/// Pages of a 2 MiB block.
const BLOCK_PAGES: u64 = 512;
/// The pool that a VM starts with: its metadata, the stage-2 root and a few tables.
const INITIAL_POOL_PAGES: u64 = 32;
/// The least that a pool is topped up by, so that a run of small needs is one call.
const TOP_UP_PAGES: u64 = 16;
/// How often one call may ask for more pages before the host gives up.
const MAX_TOP_UPS: usize = 64;
/// The most pages that one fault brings where no whole block is absent.
const FAULT_PAGES: u64 = 64;

/// Why a VM can't be made, or can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmError {
    /// The hypervisor refused what it should not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The host has no free pages left.
    #[error("the host is out of memory")]
    OutOfFrames,
    /// The host can't reach a page of its own.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The guest wants memory outside its RAM.
    #[error("the guest has no memory at page {:#x}", .0.0)]
    NoMemoryThere(Gfn),
}

/// A VM from its creation on. [`Self::destroy`] ends it; one that is dropped keeps its pages for ever.
#[derive(Debug)]
pub struct GuestVm {
    handle: VmHandle,
    object: ObjectHandle,
    protected: bool,
    ram: PageRange<Gfn>,
    pages: PageMap,
    pool: Vec<(Pfn, u64)>,
}

impl GuestVm {
    /// Makes a VM, populates it with what `layout` says, and starts it: vCPU 0 can be entered.
    ///
    /// # Errors
    ///
    /// [`VmError`]; whatever could be taken back was.
    pub fn launch<P: Platform>(
        resources: &mut Resources<P>,
        layout: &GuestLayout<'_>,
        protected: bool,
    ) -> Result<(Self, Launch), VmError> {
        let mut vm = Self::create(resources, layout.ram, protected)?;
        match vm.build(resources, layout) {
            Ok(launch) => Ok((vm, launch)),
            Err(error) => {
                // The first error is the one to report; pages that do not come back are lost.
                let _ = vm.destroy(resources);
                Err(error)
            }
        }
    }

    /// Its handle.
    #[must_use]
    pub const fn handle(&self) -> VmHandle {
        self.handle
    }

    /// Its pages.
    #[must_use]
    pub const fn pages(&self) -> &PageMap {
        &self.pages
    }

    /// Size of its memory object in bytes.
    #[must_use]
    pub const fn object_bytes(&self) -> u64 {
        self.ram.len() * PAGE_SIZE
    }

    /// Pages given to it so far, those of its pool among them.
    #[must_use]
    pub fn pages_donated(&self) -> u64 {
        self.pages.pages() + self.pool.iter().map(|(_, pages)| pages).sum::<u64>()
    }

    /// Gives the guest a page that it touched, and absent ones behind it: all 2 MiB around it if they
    /// are absent and the host has such a block.
    ///
    /// # Errors
    ///
    /// [`VmError`]; a page that came meanwhile is none.
    pub fn populate<P: Platform>(&mut self, resources: &mut Resources<P>, gfn: Gfn) -> Result<(), VmError> {
        let Some(hole) = self.pages.absent_around(gfn) else {
            // If it is there, another vCPU's fault brought it.
            return if self.ram.contains(gfn) { Ok(()) } else { Err(VmError::NoMemoryThere(gfn)) };
        };
        if hole.len() == BLOCK_PAGES
            && let Some(pfn) = resources.frames.allocate(BLOCK_PAGES, BLOCK_PAGES)
        {
            let run = GuestRun { gfn: hole.first(), pfn, pages: BLOCK_PAGES };
            return self.give(resources, run, InitialContent::Zero);
        }
        let wanted = (hole.end().0 - gfn.0).min(FAULT_PAGES);
        let (pfn, pages) = allocate(&mut resources.frames, wanted)?;
        self.give(resources, GuestRun { gfn, pfn, pages }, InitialContent::Zero)
    }

    /// The guest has given a page back: the host has it to use again.
    pub fn relinquished<P: Platform>(&mut self, resources: &mut Resources<P>, gfn: Gfn) {
        if let Some(pfn) = self.pages.remove(gfn) {
            resources.frames.free(pfn, 1);
        }
    }

    /// Gives the VM's pool at least `pages` more pages.
    ///
    /// # Errors
    ///
    /// [`VmError::OutOfFrames`], and those of the call.
    pub fn top_up<P: Platform>(&mut self, resources: &mut Resources<P>, pages: u64) -> Result<(), VmError> {
        let mut left = pages.max(TOP_UP_PAGES);
        while left != 0 {
            let (first, pages) = allocate(&mut resources.frames, left)?;
            if let Err(refusal) = resources.hypervisor.vm_top_up(self.handle, first, pages) {
                resources.frames.free(first, pages);
                return Err(refusal.into());
            }
            self.pool.push((first, pages));
            left -= pages;
        }
        Ok(())
    }

    fn create<P: Platform>(
        resources: &mut Resources<P>,
        ram: PageRange<Gfn>,
        protected: bool,
    ) -> Result<Self, VmError> {
        let pages = PageMap::new(ram).ok_or(VmError::OutOfFrames)?;
        // The stage-2 root takes two pages, aligned to their size.
        let first = resources.frames.allocate(INITIAL_POOL_PAGES, 2).ok_or(VmError::OutOfFrames)?;
        let created = resources.hypervisor.vm_create(protected, first, INITIAL_POOL_PAGES);
        let handle = match created {
            Ok(handle) => handle,
            Err(refusal) => {
                resources.frames.free(first, INITIAL_POOL_PAGES);
                return Err(refusal.into());
            }
        };
        let mut vm = Self {
            handle,
            object: ObjectHandle(0),
            protected,
            ram,
            pages,
            pool: Vec::from([(first, INITIAL_POOL_PAGES)]),
        };
        match vm.with_pool(resources, |hypervisor| hypervisor.object_create(handle, ram.len())) {
            Ok(object) => {
                vm.object = object;
                Ok(vm)
            }
            Err(error) => {
                let _ = vm.destroy(resources);
                Err(error)
            }
        }
    }

    fn build<P: Platform>(
        &mut self,
        resources: &mut Resources<P>,
        layout: &GuestLayout<'_>,
    ) -> Result<Launch, VmError> {
        let (handle, object, ram) = (self.handle, self.object, self.ram);
        self.with_pool(resources, |hypervisor| hypervisor.object_bind(object, 0, ram.first(), ram.len()))?;
        let mut pages = layout.pages().peekable();
        while let Some(first) = pages.next() {
            let mut run = 1;
            while run < BLOCK_PAGES && pages.next_if_eq(&Gfn(first.0 + run)).is_some() {
                run += 1;
            }
            self.place(resources, layout, first, run)?;
        }
        for index in 0..layout.vcpus {
            self.with_pool(resources, |hypervisor| hypervisor.vcpu_create(handle, VcpuIndex(index)))?;
        }
        self.with_pool(resources, |hypervisor| {
            hypervisor.vm_start(handle, layout.entry, layout.device_tree.0)
        })
    }

    /// Populates `pages` pages from `first` on with their launch content.
    fn place<P: Platform>(
        &mut self,
        resources: &mut Resources<P>,
        layout: &GuestLayout<'_>,
        first: Gfn,
        pages: u64,
    ) -> Result<(), VmError> {
        let mut done = 0;
        while done < pages {
            let gfn = Gfn(first.0 + done);
            let (pfn, count) = allocate(&mut resources.frames, pages - done)?;
            for offset in 0..count {
                let content = layout.content(Gfn(gfn.0 + offset));
                let to = Pfn(pfn.0 + offset).base();
                if let Err(fault) = resources.memory.write(to, &content) {
                    resources.frames.free(pfn, count);
                    return Err(fault.into());
                }
            }
            let run = GuestRun { gfn, pfn, pages: count };
            self.give(resources, run, InitialContent::Keep)?;
            done += count;
        }
        Ok(())
    }

    /// Populates a run with pages that were allocated for it. What the hypervisor did not take goes
    /// back to the allocator.
    fn give<P: Platform>(
        &mut self,
        resources: &mut Resources<P>,
        run: GuestRun,
        content: InitialContent,
    ) -> Result<(), VmError> {
        let object = self.object;
        let offset = run.gfn.0 - self.ram.first().0;
        let mut done = 0;
        let result = loop {
            let (first, left) = (Pfn(run.pfn.0 + done), run.pages - done);
            let populated = self.with_pool(resources, |hypervisor| {
                hypervisor.object_populate(object, offset + done, first, left, content)
            });
            match populated {
                Ok(Progress::Done(_)) => {
                    done = run.pages;
                    break Ok(());
                }
                Ok(Progress::More(pages)) => done += pages.min(left),
                Err(error) => break Err(error),
            }
        };
        if done != 0 {
            self.pages.insert(GuestRun { pages: done, ..run });
        }
        if done != run.pages {
            let rest = Pfn(run.pfn.0 + done);
            resources.frames.free(rest, run.pages - done);
        }
        result
    }

    /// Makes a call, topping the pool up for as long as that is what it lacks.
    fn with_pool<P: Platform, T>(
        &mut self,
        resources: &mut Resources<P>,
        call: impl Fn(&P::Hypervisor) -> Result<T, Refusal>,
    ) -> Result<T, VmError> {
        for _ in 0..MAX_TOP_UPS {
            match call(&resources.hypervisor) {
                Err(Refusal { error: CallError::NoMemory, detail }) => self.top_up(resources, detail)?,
                answer => return Ok(answer?),
            }
        }
        Err(VmError::OutOfFrames)
    }
}

/// Takes as many of `wanted` contiguous pages as there are, halving what it asks for.
fn allocate(frames: &mut impl FrameAllocator, wanted: u64) -> Result<(Pfn, u64), VmError> {
    let mut pages = wanted;
    while pages != 0 {
        if let Some(first) = frames.allocate(pages, 1) {
            return Ok((first, pages));
        }
        pages /= 2;
    }
    Err(VmError::OutOfFrames)
}
