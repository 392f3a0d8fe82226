//! The short ways: one page changes hands, no table is needed or left over, no block splits or merges. That
//! is what happens most. What is not like that, or is refused, is left to the general ways as it is.

use shared_abi::addr::{Gfn, PageRange, Pfn};
use shared_abi::host_call::ObjectHandle;

use crate::geometry::Level;
use crate::hypervisor::Hypervisor;
use crate::machine::{Frames, Machine};
use crate::object::Content;
use crate::record::{ObjectPage, Record};
use crate::stage2::descriptor::{Access, leaf};
use crate::transition::share::Sharing;
use crate::vm::{self, Life, VmPlace, object_in};

impl<M: Machine> Hypervisor<'_, M> {
    /// [`Self::convert`] of one page where that is its record and one entry of the host's, no more: what
    /// guests do most. `None` where it is more, or is refused; nothing was done then.
    #[inline(always)]
    pub(crate) fn convert_page<const SHARE: bool>(&self, place: &mut VmPlace, gfn: Gfn) -> Option<()> {
        let sharing = if SHARE { Sharing::Share } else { Sharing::Unshare };
        let Some(vm) = &mut place.vm else {
            return None;
        };
        let (page, _) = vm.object_run(gfn)?;
        let object = object_in(&mut place.objects, page.object())?;
        let Content::Present(to) = object.get(&self.machine, page.offset()) else {
            return None;
        };
        let (before, after) = sharing.records(page);
        self.host.with(&self.machine, |host| host.convert_page(&self.machine, to, before, after))?;
        vm.report.shared = sharing.count(vm.report.shared, 1);
        Some(())
    }

    /// [`Self::populate`] of one page, wiped, where it is an entry of each table, no more; `None` where it is more,
    /// or is refused: nothing was done then.
    #[inline(always)]
    pub(crate) fn populate_page(&self, handle: ObjectHandle, offset: u64, page: Pfn) -> Option<()> {
        let (place, index, generation) = vm::object_place(handle);
        let mut place = self.places.get(place)?.hold(&self.machine);
        let VmPlace { vm: Some(vm), objects, .. } = &mut *place else {
            return None;
        };
        let found = objects.get_mut(usize::from(index.0))?;
        let stale = found.generation != generation && !seeded!(StaleObject);
        if stale || (vm.life == Life::Dying && !seeded!(DyingVm)) {
            return None;
        }
        let Some(object) = &mut found.object else {
            return None;
        };
        let vacancy = object.vacancy(&self.machine, offset)?;
        let of_object = ObjectPage::new(vm.index, index, offset);
        let entry = vm.tables.slot_in_space(&self.machine, vm.gfn(of_object, 1)?.0)?;
        let (record, range) = (vm.record(of_object), PageRange::<Pfn>::new(page, 1)?);
        self.host.hold(&self.machine).convert_page(&self.machine, page, Record::HOST, record)?;
        seeded!(self.machine.wipe(&Frames::new(range)), PopulatedUnwiped => ());
        object.occupy(&self.machine, vacancy, page);
        entry.write(&self.machine, leaf(Level::Three, page, Access::Memory));
        self.machine.publish();
        vm.report.populated = vm.report.populated.wrapping_add(1);
        Some(())
    }
}
