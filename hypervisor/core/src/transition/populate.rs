//! Population of a memory object: a donation to a protected VM, a loan to an ordinary one.

use shared_abi::addr::{Gfn, PageRange, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{InitialContent, ObjectHandle};

use crate::hypervisor::Hypervisor;
use crate::machine::geometry::{Geometry, Level};
use crate::machine::{Frames, Machine};
use crate::memory::object::{Object, Presence};
use crate::memory::stage2::descriptor::MemoryType;
use crate::memory::stage2::table::Mapping;
use crate::memory::tlb::TlbGather;
use crate::ownership::page_state::ObjectPage;
use crate::vm::{Vm, VmState};

/// A checked request, limited to the work of one call.
#[derive(Clone, Copy)]
struct Request {
    page: ObjectPage,
    gfn: Gfn,
    range: PageRange<Pfn>,
}

impl<M: Machine> Hypervisor<'_, M> {
    /// Moves host pages into an object. Returns the number of pages.
    ///
    ///  | | host | guest |
    ///  | --- | --- | --- |
    ///  | before | owns, alone | absent, bound |
    ///  | after, protected VM | nothing | owns, alone |
    ///  | after, ordinary VM | owns, lent | reaches it |
    ///
    /// The part that one call covers succeeds as a whole or changes nothing. If pages are left, the call
    /// returns [`CallError::Again`] with the number of pages that it moved.
    pub(crate) fn populate(
        &self,
        handle: ObjectHandle,
        offset: u64,
        first: Pfn,
        pages: u64,
        fill: InitialContent,
    ) -> Result<u64, CallFailure> {
        let all = PageRange::<Pfn>::new(first, pages).ok_or(CallError::InvalidParameter)?;
        self.with_object(handle, |vm, index, slot| {
            let object = slot.object.as_mut().ok_or(CallError::NotFound)?;
            if !object.has(offset, pages) {
                return Err(CallError::InvalidParameter.into());
            }
            let most = match fill {
                InitialContent::Keep if vm.state != VmState::New => return Err(CallError::Denied.into()),
                InitialContent::Keep => M::Geometry::KEPT_PER_CALL,
                InitialContent::Zero => M::Geometry::PAGES_PER_CALL,
            };
            let page = ObjectPage::new(vm.index, index, offset);
            let gfn = vm.gfn(page, pages).ok_or(CallError::Denied)?;
            let request = Request { page, gfn, range: all.at_most(most) };
            let done = request.range.len();
            if !object.is_empty(&self.machine, offset, done) {
                return Err(CallError::Denied.into());
            }
            vm.has_tables::<M::Geometry>(offset, gfn, done)?;
            // The host's side is checked last: from here on the call cannot fail.
            self.take_from_host(request.range, vm.page_state(page))?;
            self.commit(vm, object, request, fill);
            if done < pages {
                return Err(CallFailure::again(done));
            }
            Ok(done)
        })
    }

    fn commit(&self, vm: &mut Vm, object: &mut Object, request: Request, fill: InitialContent) {
        let Request { page, gfn, range } = request;
        let (frames, pages) = (Frames::new(range), range.len());
        match fill {
            InitialContent::Zero => self.machine.wipe(&frames),
            InitialContent::Keep => self.machine.clean(&frames),
        }
        // The host can still write an ordinary VM's pages, so a measurement of them would prove nothing.
        if fill == InitialContent::Keep && vm.protected {
            self.measure(vm, &frames, gfn.0);
        }
        let (before, after) = (Presence::Absent, Presence::Present(range.first()));
        object.set(&self.machine, &mut vm.pool, page.offset(), pages, before, after);
        self.map_and_merge(vm, object, request);
        vm.report.populated = vm.report.populated.saturating_add(pages);
    }

    /// Maps the populated pages. At both ends this uses a leaf that extends beyond them, if possible.
    fn map_and_merge(&self, vm: &mut Vm, object: &Object, request: Request) {
        let Request { page, gfn, range } = request;
        let mut gather = TlbGather::new(vm.tables.stage2_id());
        let mapping =
            Mapping { page: gfn.0, to: range.first(), pages: range.len(), memory_type: MemoryType::Normal };
        vm.tables.map(&self.machine, &mut vm.pool, mapping, &mut gather);
        let last = page.advance(range.len().saturating_sub(1));
        self.merge(vm, object, page, &mut gather);
        if last != page {
            self.merge(vm, object, last, &mut gather);
        }
        gather.finish(&self.machine);
    }

    /// Adds pages to the measurement, at guest pages from `first` on.
    fn measure(&self, vm: &mut Vm, frames: &Frames, first: u64) {
        for (gfn, index) in (first..).zip(0..frames.range().len()) {
            self.machine.with_page(frames, index, |content| vm.measurement.page(Gfn(gfn), content));
        }
    }

    /// Maps the block around an object page as one leaf, and then the level-1 block, if all of it is present
    /// and contiguous in memory with the guest's alignment.
    fn merge(&self, vm: &mut Vm, object: &Object, page: ObjectPage, gather: &mut TlbGather) {
        for level in [Level::Two, Level::One] {
            let offset = page.offset();
            let Some(to) = object.whole(&self.machine, level, offset) else {
                return;
            };
            let start = ObjectPage::new(vm.index, page.object(), M::Geometry::align_down(level, offset));
            let pages = M::Geometry::span(level);
            let Some(gfn) = vm.gfn(start, pages) else {
                return;
            };
            if !M::Geometry::is_aligned(level, gfn.0) || !M::Geometry::is_aligned(level, to.0) {
                return;
            }
            let mapping = Mapping { page: gfn.0, to, pages, memory_type: MemoryType::Normal };
            vm.tables.map(&self.machine, &mut vm.pool, mapping, gather);
        }
    }
}
