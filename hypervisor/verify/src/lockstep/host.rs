//! A host call on both sides.

use std::format;
use std::vec::Vec;

use bootimg::measure::LaunchMeasurement;
use hyp_core::call::host::{HostAction, host_call};
use hyp_core::cpu::registers::Registers;
use hyp_core::machine::geometry::Geometry;
use hyp_core::ownership::page_state::PageState;
use hyp_core::verify;
use shared_abi::addr::{Gfn, Ipa, Pfn};
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{Arguments, HostCall, InitialContent, ObjectHandle, VmHandle};

use super::{Divergence, HOST_BYTE, Pair, Verdict, agree, guest_stage2_id};
use crate::spec::host::Refusal;

impl<G: Geometry> Pair<'_, '_, G> {
    pub(super) fn host_call(&mut self, function: u32, registers: &Arguments) -> Result<Verdict, Divergence> {
        let Ok(call) = HostCall::parse(function, registers) else {
            return Ok(Verdict::BadValue);
        };
        if let HostCall::VcpuRun { .. } = call {
            return Ok(Verdict::Skipped);
        }
        if let HostCall::VmDestroy { vm } = call
            && let Some(stage2_id) = self.stage2_ids.get(&vm)
            && self.spec.clone().destroy(vm, &[]).is_ok()
        {
            // The VM's tables are about to be freed: no CPU walks them any more.
            self.real.machine().unwatch(*stage2_id);
        }
        let real = self.dispatch(function, registers)?;
        match real {
            Ok(x) => self.told.extend([0].into_iter().chain(x)),
            Err(CallFailure { error, value }) => self.told.extend([error.code(), value]),
        }
        match real {
            // The specification does not model how many pages a pool has left. The core may find the pool too small
            // before it finds another reason to refuse.
            Err(CallFailure { error: CallError::NoMemory, value }) if takes_tables(&call) => {
                agree!(value > 0, "{call:?} is short of no page");
                self.short_of = value;
                return Ok(Verdict::NoMemory);
            }
            Err(CallFailure { error: CallError::Again, value }) => {
                self.again(&call, value)?;
                return Ok(Verdict::Again);
            }
            _ => {}
        }
        match (real, self.spec.host_call(&call, real.map_or(0, |x| x[0]))) {
            (Ok(x), Ok(expected)) => {
                self.answered(&call, x, expected)?;
                self.made(&call, x[0])?;
                Ok(Verdict::Done)
            }
            (Err(failure), Err(refusal)) if tolerates(&call, failure.error, refusal) => {
                agree!(failure.value == 0, "{call:?}: {failure:?} has a value");
                Ok(Verdict::Refused(refusal))
            }
            (real, expected) => Err(Divergence(format!("{call:?}: {real:?}, expected {expected:?}"))),
        }
    }

    /// Makes the call by registers, as the host does: the dispatcher is the one that runs on metal.
    fn dispatch(
        &self,
        function: u32,
        arguments: &Arguments,
    ) -> Result<Result<[u64; 5], CallFailure>, Divergence> {
        let mut registers = Registers::default();
        registers.x[0] = function.into();
        registers.x[1..18].copy_from_slice(arguments);
        let before = registers.x;
        let action = host_call(self.real, &mut registers, 0);
        agree!(action == HostAction::Resume, "{function:#x} {arguments:x?}: {action:?}");
        let [x0, x1, x2, x3, x4, x5, rest @ ..] = registers.x;
        agree!(rest == before[6..], "{function:#x} {arguments:x?} changes a register beyond x5");
        Ok(match CallError::from_code(x0) {
            Some(error) => Err(CallFailure { error, value: x1 }),
            None => Ok([x1, x2, x3, x4, x5]),
        })
    }

    /// Compares the results of a complete call. The specification gives x1, or x3 for `VmCounters`.
    fn answered(&mut self, call: &HostCall, x: [u64; 5], expected: u64) -> Result<(), Divergence> {
        let expected = match *call {
            HostCall::ObjectPopulate { pages, .. } | HostCall::ObjectReclaim { pages, .. } => {
                agree!(x[0] == pages, "{call:?} is done after {} pages", x[0]);
                self.populated(call, pages)?;
                [expected, 0, 0, 0, 0]
            }
            HostCall::ObjectQuery { object, offset } => {
                agree!(x[1] > 0, "{call:?} returns an empty run");
                for offset in offset..offset + x[1] {
                    let state = self.spec.host_call(&HostCall::ObjectQuery { object, offset }, 0);
                    agree!(state == Ok(x[0]), "{call:?}: offset {offset} is {:?}, expected {state:?}", x[0]);
                }
                [expected, x[1], 0, 0, 0]
            }
            HostCall::VmStart { vm, entry, argument } => {
                if self.checking_content {
                    self.measured(vm, entry, argument, x)?;
                }
                x
            }
            HostCall::VmCounters { vm } => {
                let (hypercalls, exits) = self.counts.get(&vm).copied().unwrap_or_default();
                // The search restores earlier states, but not these counters.
                let counted = if self.checking { [hypercalls, exits] } else { [x[0], x[1]] };
                [counted[0], counted[1], expected, 0, 0]
            }
            _ => [expected, 0, 0, 0, 0],
        };
        agree!(x == expected, "{call:?}: {x:?}, expected {expected:?}");
        Ok(())
    }

    /// Checks the results of a VM's start: the measurement, and that no measurement was expected.
    fn measured(&self, vm: VmHandle, entry: Ipa, argument: u64, x: [u64; 5]) -> Result<(), Divergence> {
        let vm = &self.spec.vms[&vm];
        let mut measurement = LaunchMeasurement::new();
        for gfn in &vm.kept {
            measurement.page(Gfn(*gfn), &[HOST_BYTE; 4096]);
        }
        if vm.void {
            measurement.void();
        }
        let digest = measurement.finish(entry, argument);
        let words: Vec<u8> = x[1..].iter().flat_map(|word| word.to_le_bytes()).collect();
        agree!(x[0] == 0 && words == digest.0, "another measurement at {entry}");
        Ok(())
    }

    /// Checks the content of pages that were given to a guest.
    fn populated(&self, call: &HostCall, pages: u64) -> Result<(), Divergence> {
        if let HostCall::ObjectPopulate { first, content, .. } = *call
            && self.checking_content
        {
            let expected = match content {
                InitialContent::Keep => HOST_BYTE,
                InitialContent::Zero => 0,
            };
            for page in first.0..first.0 + pages {
                let byte = self.real.machine().uniform_byte(Pfn(page));
                agree!(byte == Some(expected), "{call:?}: page {page} holds {byte:?}");
            }
        }
        Ok(())
    }

    /// Handles a call that completed in part.
    fn again(&mut self, call: &HostCall, value: u64) -> Result<(), Divergence> {
        let expected = match *call {
            HostCall::ObjectPopulate { pages, .. } | HostCall::ObjectReclaim { pages, .. } => {
                agree!(value < pages, "{call:?}: again after {value}");
                self.populated(call, value)?;
                self.spec.host_call(call, value)
            }
            HostCall::VmDestroy { vm } => {
                let pages = self.spec.pages_of(vm).into_iter();
                let back: Vec<u64> = pages.filter(|page| self.is_hosts(*page)).collect();
                self.spec.destroy(vm, &back)
            }
            // The object's tables go back to the pool first, which no party can observe.
            HostCall::ObjectDestroy { .. } => self.spec.clone().host_call(call, 0).map(|_| value),
            _ => return Err(Divergence(format!("{call:?}: not finished"))),
        };
        agree!(expected == Ok(value), "{call:?}: again after {value}, expected {expected:?}");
        Ok(())
    }

    /// Returns true if the core's page state gives the page to the host alone.
    fn is_hosts(&self, page: u64) -> bool {
        verify::look(self.real, |view| view.owners().get(Pfn(page)) == Some(PageState::HOST))
    }

    /// Records the handle that a call returned.
    fn made(&mut self, call: &HostCall, x1: u64) -> Result<(), Divergence> {
        let handle = u32::try_from(x1).unwrap_or(u32::MAX);
        match *call {
            HostCall::VmCreate { first, .. } => {
                agree!(!self.vms.contains(&handle), "VM handle {handle:#x} came back");
                self.vms.push(handle);
                let stage2_id = guest_stage2_id(VmHandle(handle), first.0);
                self.stage2_ids.insert(VmHandle(handle), stage2_id);
                self.real.machine().watch(stage2_id);
            }
            HostCall::ObjectCreate { .. } => {
                agree!(!self.objects.contains(&handle), "object handle {handle:#x} came back");
                self.objects.push(handle);
            }
            HostCall::VmDestroy { vm } => {
                self.stage2_ids.remove(&vm);
                self.counts.remove(&vm);
            }
            _ => {}
        }
        Ok(())
    }
}

fn tolerates(call: &HostCall, error: CallError, refusal: Refusal) -> bool {
    // The core frees the objects of a dying VM one by one.
    let dying_object = refusal == Refusal::Dying && object_of(call).is_some();
    error == refusal.x0() || (dying_object && error == CallError::NotFound)
}

/// Returns true if the call may fail because the pool has too few pages.
const fn takes_tables(call: &HostCall) -> bool {
    matches!(
        call,
        HostCall::ObjectCreate { .. }
            | HostCall::ObjectPopulate { .. }
            | HostCall::ObjectReclaim { .. }
            | HostCall::VcpuCreate { .. }
            | HostCall::ForceReclaim { .. }
    )
}

/// Returns the object that a call names.
const fn object_of(call: &HostCall) -> Option<ObjectHandle> {
    match *call {
        HostCall::ObjectBind { object, .. }
        | HostCall::ObjectUnbind { object, .. }
        | HostCall::ObjectPopulate { object, .. }
        | HostCall::ObjectReclaim { object, .. }
        | HostCall::ObjectQuery { object, .. }
        | HostCall::ObjectDestroy { object } => Some(object),
        _ => None,
    }
}
