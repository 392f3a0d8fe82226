//! A call of the host's, done to both.

use std::format;
use std::vec::Vec;

use bootimg::measure::LaunchMeasurement;
use shared_abi::addr::{Gfn, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{Arguments, Content, HostCall, ObjectHandle, PageState, VmHandle};

use super::{Divergence, HOST_BYTE, Pair, Verdict, agree, guest_space};
use crate::geometry::Geometry;
use crate::hypervisor::CallFailure;
use crate::spec::Owner;
use crate::spec::refusals::Refusal;

impl<G: Geometry> Pair<'_, '_, G> {
    pub(super) fn host_call(&mut self, function: u32, registers: &Arguments) -> Result<Verdict, Divergence> {
        let Ok(call) = HostCall::parse(function, registers) else {
            return Ok(Verdict::BadValue);
        };
        if let HostCall::VcpuRun { .. } = call {
            return Ok(Verdict::Skipped);
        }
        let expected = self.spec.refusal(&call);
        if let (HostCall::VmDestroy { vm }, Ok(())) = (call, expected)
            && let Some(space) = self.spaces.get(&vm)
        {
            // Its tables are about to be taken apart: nobody walks them any more.
            self.real.machine().unwatch(*space);
        }
        let real = self.real.host_call(&call);
        match real {
            Ok(x) => self.told.extend([0].into_iter().chain(x)),
            Err(CallFailure { error, value }) => self.told.extend([error.code(), value]),
        }
        match (real, expected) {
            (Ok(x), Ok(())) => {
                self.answered(&call, x)?;
                self.spec.commit(&call, x[0]);
                self.made(&call, x[0])?;
                Ok(Verdict::Done)
            }
            (Err(CallFailure { error: CallError::Again, value }), Ok(())) => {
                self.again(&call, value)?;
                Ok(Verdict::Again)
            }
            // What pages a pool has left is nobody's business outside, so it may be found short before
            // anything else is.
            (Err(CallFailure { error: CallError::NoMemory, value }), _) if takes_tables(&call) => {
                agree!(value > 0, "{call:?} is short of no page");
                self.short_of = value;
                Ok(Verdict::NoMemory)
            }
            (Err(failure), Err(refusal)) if self.tolerates(&call, failure.error, refusal) => {
                agree!(failure.value == 0, "{call:?}: {failure:?} has a value");
                Ok(Verdict::Refused(refusal))
            }
            (real, expected) => Err(Divergence(format!("{call:?}: {real:?}, expected {expected:?}"))),
        }
    }

    fn tolerates(&self, call: &HostCall, error: CallError, refusal: Refusal) -> bool {
        // A VM that is being torn down loses its objects one by one.
        let dying_object = refusal == Refusal::Dying && object_of(call).is_some();
        error == refusal.error() || (dying_object && error == CallError::NotFound)
    }

    /// What a call has answered, before the specification changes.
    fn answered(&self, call: &HostCall, x: [u64; 5]) -> Result<(), Divergence> {
        match *call {
            HostCall::ObjectPopulate { pages, .. } | HostCall::ObjectPunch { pages, .. } => {
                agree!(x[0] == pages, "{call:?} is done after {} pages", x[0]);
                self.populated(call, pages)?;
            }
            HostCall::ObjectQuery { object, offset } => {
                let state = PageState::from_code(x[0]);
                agree!(x[1] > 0, "{call:?} answers an empty run");
                for offset in offset..offset + x[1] {
                    let expected = self.spec.state(object, offset);
                    agree!(
                        expected.is_some() && state == expected,
                        "{call:?}: offset {offset} is {state:?}, expected {expected:?}"
                    );
                }
            }
            HostCall::VmStart { vm, entry, argument } => {
                let mut measurement = LaunchMeasurement::new();
                let kept = self.spec.vms.get(&vm).map_or(&[][..], |vm| &vm.kept);
                for gfn in kept {
                    measurement.page(Gfn(*gfn), &[HOST_BYTE; 4096]);
                }
                if self.spec.vms.get(&vm).is_some_and(|vm| vm.void) {
                    measurement.void();
                }
                let digest = measurement.finish(entry, argument);
                let words: Vec<u8> = x[1..].iter().flat_map(|word| word.to_le_bytes()).collect();
                agree!(
                    !self.checking_content || (x[0] == 0 && words == digest.0),
                    "{call:?}: another measurement"
                );
            }
            HostCall::VmCounters { vm } => {
                let (hypercalls, exits) = self.counts.get(&vm).copied().unwrap_or_default();
                // The search goes back to states, the counts do not.
                let counted = if self.checking { [hypercalls, exits] } else { [x[0], x[1]] };
                let expected = [counted[0], counted[1], self.spec.shared(vm), 0, 0];
                agree!(x == expected, "{call:?}: {x:?}, expected {expected:?}");
            }
            HostCall::VmDestroy { vm } => {
                let pages = self.leaving(vm).len() as u64;
                agree!(x[0] == pages, "{call:?} returns {} pages, expected {pages}", x[0]);
            }
            _ => {}
        }
        Ok(())
    }

    /// What the pages hold that came to a guest.
    fn populated(&self, call: &HostCall, pages: u64) -> Result<(), Divergence> {
        if let HostCall::ObjectPopulate { first, content, .. } = *call
            && self.checking_content
        {
            let expected = match content {
                Content::Keep => HOST_BYTE,
                Content::Zero => 0,
            };
            for page in first.0..first.0 + pages {
                let byte = self.real.machine().uniform_byte(Pfn(page));
                agree!(byte == Some(expected), "{call:?}: page {page} holds {byte:?}");
            }
        }
        Ok(())
    }

    /// The pages of a VM that its end gives back: its pool, and its memory unless that was only lent.
    fn leaving(&self, vm: VmHandle) -> Vec<u64> {
        let protected = self.spec.vms.get(&vm).is_some_and(|vm| vm.protected);
        let owned = |owner: Owner| match owner {
            Owner::Pool(of) => of == vm,
            Owner::Memory { vm: of, .. } => of == vm && protected,
            Owner::Host | Owner::Hypervisor => false,
        };
        let pages = self.spec.owners.iter().filter(|(_, owner)| owned(**owner));
        pages.map(|(page, _)| *page).collect()
    }

    /// A part of a call was done.
    fn again(&mut self, call: &HostCall, value: u64) -> Result<(), Divergence> {
        match *call {
            HostCall::ObjectPopulate { pages, .. } => {
                agree!(
                    value > 0 && value < pages && value <= self.spec.at_once(call),
                    "{call:?}: again after {value}"
                );
                self.populated(call, value)?;
                self.spec.commit(call, value);
            }
            HostCall::ObjectPunch { pages, .. } => {
                agree!(value > 0 && value < pages, "{call:?}: again after {value}");
                self.spec.commit(call, value);
            }
            HostCall::VmDestroy { vm } => {
                let before = self.leaving(vm);
                let gone: Vec<u64> = self.pages_of(vm).filter(|page| self.is_hosts(*page)).collect();
                let told = gone.iter().filter(|page| before.contains(page)).count() as u64;
                agree!(value == told, "{call:?}: {value} pages of {told} returned so far");
                self.spec.returned(vm, &gone);
            }
            HostCall::ObjectDestroy { .. } => {}
            _ => return Err(Divergence(format!("{call:?}: not finished"))),
        }
        Ok(())
    }

    fn pages_of(&self, vm: VmHandle) -> impl Iterator<Item = u64> {
        let of_vm = move |owner: &Owner| match *owner {
            Owner::Pool(of) | Owner::Memory { vm: of, .. } => of == vm,
            Owner::Host | Owner::Hypervisor => false,
        };
        let pages = self.spec.owners.iter().filter(move |(_, owner)| of_vm(owner));
        pages.map(|(page, _)| *page)
    }

    /// Whether the core's record says that a page is the host's alone.
    fn is_hosts(&self, page: u64) -> bool {
        let host = self.real.host.lock(self.real.machine());
        host.records().get(Pfn(page)) == Some(crate::record::Record::HOST)
    }

    /// Keeps what a call made.
    fn made(&mut self, call: &HostCall, x1: u64) -> Result<(), Divergence> {
        let handle = u32::try_from(x1).unwrap_or(u32::MAX);
        match *call {
            HostCall::VmCreate { first, protected, .. } => {
                if !protected {
                    self.ordinary.insert(VmHandle(handle));
                }
                agree!(!self.vms.contains(&handle), "VM handle {handle:#x} came back");
                self.vms.push(handle);
                let space = guest_space(VmHandle(handle), first.0);
                self.spaces.insert(VmHandle(handle), space);
                self.real.machine().watch(space);
            }
            HostCall::ObjectCreate { .. } => {
                agree!(!self.objects.contains(&handle), "object handle {handle:#x} came back");
                self.objects.push(handle);
            }
            HostCall::VmDestroy { vm } => {
                self.spaces.remove(&vm);
                self.counts.remove(&vm);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether a call may find the pool too short.
const fn takes_tables(call: &HostCall) -> bool {
    matches!(
        call,
        HostCall::ObjectCreate { .. }
            | HostCall::ObjectPopulate { .. }
            | HostCall::ObjectPunch { .. }
            | HostCall::VcpuCreate { .. }
            | HostCall::ForceReclaim { .. }
    )
}

/// The object that a call names.
const fn object_of(call: &HostCall) -> Option<ObjectHandle> {
    match *call {
        HostCall::ObjectBind { object, .. }
        | HostCall::ObjectUnbind { object, .. }
        | HostCall::ObjectPopulate { object, .. }
        | HostCall::ObjectPunch { object, .. }
        | HostCall::ObjectQuery { object, .. }
        | HostCall::ObjectDestroy { object } => Some(object),
        _ => None,
    }
}
