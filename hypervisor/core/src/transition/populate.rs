//! Host to memory object: donation to a protected VM, a loan to an ordinary one.

use shared_abi::addr::{Gfn, PageRange, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{Content as Fill, ObjectHandle};

use crate::geometry::{Geometry, Level};
use crate::hypervisor::{CallFailure, Hypervisor};
use crate::machine::{Frames, Machine};
use crate::object::{Content, Object};
use crate::record::{ObjectIndex, ObjectPage};
use crate::stage2::batch::Batch;
use crate::stage2::descriptor::Access;
use crate::stage2::table::Mapping;
use crate::vm::{Life, Vm};

/// A checked request, cut to what one call does.
struct Request {
    page: ObjectPage,
    range: PageRange<Pfn>,
    mapping: Mapping,
    fill: Fill,
}

impl<M: Machine> Hypervisor<'_, M> {
    /// Puts host pages into an object.
    ///
    /// | | host | guest |
    /// | --- | --- | --- |
    /// | before | owns, alone | absent, bound |
    /// | after, protected VM | nothing | owns, alone |
    /// | after, ordinary VM | owns, lent | reaches it |
    ///
    /// Each part that one call does succeeds whole or changes nothing.
    #[inline(never)]
    pub(crate) fn populate(
        &self,
        handle: ObjectHandle,
        offset: u64,
        first: Pfn,
        pages: u64,
        fill: Fill,
    ) -> Result<u64, CallFailure> {
        let all = PageRange::<Pfn>::new(first, pages).ok_or(CallError::InvalidParameter)?;
        self.with_object(handle, |vm, index, place| {
            let object = place.object.as_mut().ok_or(CallError::NotFound)?;
            if !object.has(offset, pages) {
                return Err(CallError::InvalidParameter.into());
            }
            let request = check_guest::<M::Geometry>(vm, index, offset, all, fill)?;
            let done = request.range.len();
            self.check_room(vm, object, &request)?;
            // The host's side is checked last: from here on the call can't fail.
            self.take_from_host(request.range, vm.record(request.page))?;
            self.commit(vm, object, &request);
            if done < pages {
                return Err(CallFailure::again(done));
            }
            Ok(done)
        })
    }

    /// Checks that nothing is there and that the pool has the tables.
    #[inline]
    fn check_room(&self, vm: &Vm, object: &Object, request: &Request) -> Result<(), CallFailure> {
        let (offset, pages) = (request.page.offset, request.range.len());
        if !object.is_empty(&self.machine, offset, pages) {
            return Err(CallError::Denied.into());
        }
        let gfn = Gfn(request.mapping.page);
        vm.has_tables::<M::Geometry>(offset, gfn, pages)
    }

    #[inline]
    fn commit(&self, vm: &mut Vm, object: &mut Object, request: &Request) {
        let frames = Frames::new(request.range);
        let (offset, pages) = (request.page.offset, request.range.len());
        match request.fill {
            Fill::Zero if seeded!(PopulatedUnwiped) => {}
            Fill::Keep if seeded!(KeptUncleaned) => {}
            Fill::Zero => self.machine.wipe(&frames),
            Fill::Keep => self.machine.clean(&frames),
        }
        // An ordinary VM's pages stay the host's to write: measuring them would prove nothing.
        if request.fill == Fill::Keep && vm.protected {
            self.measure(vm, &frames, request.mapping.page);
        }
        let whole = object.set(
            &self.machine,
            &mut vm.pool,
            offset,
            pages,
            Content::Absent,
            Content::Present(request.range.first()),
        );
        // A page alone is mostly one entry, and no part of a larger leaf.
        let Mapping { page, to, .. } = request.mapping;
        if whole || vm.tables.map_page(&self.machine, page, to).is_none() {
            self.map_and_merge(vm, object, request);
        }
        vm.report.populated = vm.report.populated.saturating_add(pages);
    }

    /// Maps what was populated, at its ends in leaves that reach beyond it where that can be.
    #[inline(never)]
    fn map_and_merge(&self, vm: &mut Vm, object: &Object, request: &Request) {
        let mut batch = Batch::new(vm.tables.space());
        vm.tables.map(&self.machine, &mut vm.pool, request.mapping, &mut batch);
        let last = request.page.offset.saturating_add(request.range.len().saturating_sub(1));
        self.merge(vm, object, request.page, &mut batch);
        if last != request.page.offset {
            let last = ObjectPage { offset: last, ..request.page };
            self.merge(vm, object, last, &mut batch);
        }
        batch.finish(&self.machine);
    }

    /// Measures pages that the guest is to see from page `first` on.
    #[inline(never)]
    fn measure(&self, vm: &mut Vm, frames: &Frames, first: u64) {
        for (gfn, index) in (first..).zip(0..frames.range().len()) {
            self.machine.with_page(frames, index, |content| vm.measurement.page(Gfn(gfn), content));
        }
    }

    /// Maps the block, and then the giant, around a page of an object as one, if all of it is present
    /// and lies in memory as the guest sees it.
    #[inline(never)]
    fn merge(&self, vm: &mut Vm, object: &Object, page: ObjectPage, batch: &mut Batch) {
        for level in [Level::Two, Level::One] {
            let start = M::Geometry::align_down(level, page.offset);
            let pages = M::Geometry::span(level);
            let (Some(to), Some(gfn)) =
                (object.whole(&self.machine, level, page.offset), vm.gfn(page.object, start, pages))
            else {
                return;
            };
            if !M::Geometry::is_aligned(level, gfn.0) || !M::Geometry::is_aligned(level, to.0) {
                return;
            }
            let mapping = Mapping { page: gfn.0, to, pages, access: Access::Memory };
            vm.tables.map(&self.machine, &mut vm.pool, mapping, batch);
        }
    }
}

/// The guest's side, as far as it needs no look at tables.
#[inline]
fn check_guest<G: Geometry>(
    vm: &Vm,
    object: ObjectIndex,
    offset: u64,
    all: PageRange<Pfn>,
    fill: Fill,
) -> Result<Request, CallError> {
    let most = match fill {
        Fill::Keep if vm.life != Life::New => return Err(CallError::Denied),
        Fill::Keep => G::KEPT_PER_CALL,
        Fill::Zero => G::PAGES_PER_CALL,
    };
    let gfn = vm.gfn(object, offset, all.len()).ok_or(CallError::Denied)?;
    let range = PageRange::<Pfn>::new(all.first(), all.len().min(most)).ok_or(CallError::InvalidParameter)?;
    Ok(Request {
        page: ObjectPage { vm: vm.index, object, offset },
        range,
        mapping: Mapping { page: gfn.0, to: range.first(), pages: range.len(), access: Access::Memory },
        fill,
    })
}
