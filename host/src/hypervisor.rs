//! Calling the hypervisor.

use shared_abi::addr::{Gfn, Ipa, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{
    Arguments, HostCall, InitialContent, ObjectHandle, ObjectPageState, VcpuIndex, VmHandle,
};
use shared_abi::record::Digest;
use shared_abi::vcpu::{Entry, ExitRecord};

/// A call that the hypervisor did not carry out, or not to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hypervisor refused: {error}")]
pub struct Refusal {
    /// Why.
    pub error: CallError,
    /// What x1 says about it: how far the call came ([`CallError::Again`]), how many pages the pool
    /// lacks ([`CallError::NoMemory`]), otherwise 0.
    pub detail: u64,
}

impl Refusal {
    /// For an answer that this version of the interface does not have.
    const UNKNOWN_ANSWER: Self = Self { error: CallError::NotSupported, detail: 0 };

    /// What x0, which is not 0, and x1 say.
    #[cold]
    fn new(code: u64, detail: u64) -> Self {
        CallError::from_code(code).map_or(Self::UNKNOWN_ANSWER, |error| Self { error, detail })
    }
}

/// What a bounded call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All of it, on so many pages.
    Done(u64),
    /// So many pages; call again for the rest.
    More(u64),
}

/// How a VM was measured when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The measurement is the one that the manifest names.
    pub measured: bool,
    /// The measurement.
    pub measurement: Digest,
}

/// What a VM has cost so far, as the hypervisor counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Hypercalls of the guest's that the hypervisor answered.
    pub hypercalls: u64,
    /// Exits to the host.
    pub exits: u64,
    /// Pages that the guest shares at the moment.
    pub shared_pages: u64,
}

/// The hypervisor below.
///
/// An implementation provides [`Self::invoke`]; the rest gives it types. All of that is meant to be
/// inlined into one another: then what a call does not use of its 17 registers costs nothing.
pub trait HostCalls {
    /// Makes an SMCCC 1.2 call by `hvc #0`: the function ID in x0, `x` in x1 to x17; returns x0, and
    /// leaves x1 to x17 in `x`.
    fn invoke(&self, function: u32, x: &mut Arguments) -> u64;

    /// Makes a call; x1 to x17 of the answer.
    ///
    /// # Errors
    ///
    /// The [`Refusal`] that x0 and x1 stand for.
    #[inline(always)]
    fn call(&self, call: HostCall) -> Result<Arguments, Refusal> {
        self.call_emitted(call.emit())
    }

    /// Makes a call that is in registers already; x1 to x17 of the answer.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    #[inline(always)]
    fn call_emitted(&self, (function, mut x): (u32, Arguments)) -> Result<Arguments, Refusal> {
        match self.invoke(function, &mut x) {
            0 => Ok(x),
            code => Err(Refusal::new(code, x[0])),
        }
    }

    /// The version of the interface.
    ///
    /// # Errors
    ///
    /// Those of the call.
    fn version(&self) -> Result<u64, Refusal> {
        self.call(HostCall::Version).map(|x| x[0])
    }

    /// Makes a VM out of `pages` contiguous pages from `first` on, an even number.
    ///
    /// # Errors
    ///
    /// Those of the call; the pages are still the host's.
    fn vm_create(&self, protected: bool, first: Pfn, pages: u64) -> Result<VmHandle, Refusal> {
        let call = HostCall::VmCreate { protected, first, pages };
        self.call(call).and_then(handle).map(VmHandle)
    }

    /// Donates pages to a VM's pool.
    ///
    /// # Errors
    ///
    /// Those of the call; the pages are still the host's.
    fn vm_top_up(&self, vm: VmHandle, first: Pfn, pages: u64) -> Result<(), Refusal> {
        self.call(HostCall::VmTopUp { vm, first, pages }).map(drop)
    }

    /// Makes a memory object.
    ///
    /// # Errors
    ///
    /// Those of the call.
    fn object_create(&self, vm: VmHandle, pages: u64) -> Result<ObjectHandle, Refusal> {
        self.call(HostCall::ObjectCreate { vm, pages }).and_then(handle).map(ObjectHandle)
    }

    /// Binds `pages` pages of an object from `offset` on to guest-physical addresses from `gfn` on.
    ///
    /// # Errors
    ///
    /// Those of the call.
    fn object_bind(&self, object: ObjectHandle, offset: u64, gfn: Gfn, pages: u64) -> Result<(), Refusal> {
        let call = HostCall::ObjectBind { object, offset, gfn, pages };
        self.call(call).map(drop)
    }

    /// Gives contiguous pages to an object.
    ///
    /// # Errors
    ///
    /// Those of the call, but for [`CallError::Again`], which is [`Progress::More`].
    fn object_populate(
        &self,
        object: ObjectHandle,
        offset: u64,
        first: Pfn,
        pages: u64,
        content: InitialContent,
    ) -> Result<Progress, Refusal> {
        progress(self.call(HostCall::ObjectPopulate { object, offset, first, pages, content }))
    }

    /// Takes pages out of an object.
    ///
    /// # Errors
    ///
    /// Those of the call, but for [`CallError::Again`], which is [`Progress::More`].
    fn object_reclaim(&self, object: ObjectHandle, offset: u64, pages: u64) -> Result<Progress, Refusal> {
        progress(self.call(HostCall::ObjectReclaim { object, offset, pages }))
    }

    /// The state of an object's page, and how many pages from there on are in it.
    ///
    /// # Errors
    ///
    /// Those of the call.
    fn object_query(&self, object: ObjectHandle, offset: u64) -> Result<(ObjectPageState, u64), Refusal> {
        let x = self.call(HostCall::ObjectQuery { object, offset })?;
        let state = ObjectPageState::from_code(x[0]).ok_or(Refusal::UNKNOWN_ANSWER)?;
        Ok((state, x[1]))
    }

    /// Undoes [`Self::object_bind`] for the same range.
    ///
    /// # Errors
    ///
    /// Those of the call.
    fn object_unbind(&self, object: ObjectHandle, offset: u64, pages: u64) -> Result<(), Refusal> {
        let call = HostCall::ObjectUnbind { object, offset, pages };
        self.call(call).map(drop)
    }

    /// Ends an object in which no page is present.
    ///
    /// # Errors
    ///
    /// Those of the call.
    fn object_destroy(&self, object: ObjectHandle) -> Result<(), Refusal> {
        self.call(HostCall::ObjectDestroy { object }).map(drop)
    }

    /// Takes a page of a protected VM's back by force.
    ///
    /// # Errors
    ///
    /// Those of the call.
    fn force_reclaim(&self, page: Pfn) -> Result<(), Refusal> {
        self.call(HostCall::ForceReclaim { page }).map(drop)
    }

    /// Makes the next vCPU.
    ///
    /// # Errors
    ///
    /// Those of the call.
    fn vcpu_create(&self, vm: VmHandle, index: VcpuIndex) -> Result<(), Refusal> {
        self.call(HostCall::VcpuCreate { vm, index }).map(drop)
    }

    /// Ends the measurement and makes vCPU 0 runnable.
    ///
    /// # Errors
    ///
    /// Those of the call.
    fn vm_start(&self, vm: VmHandle, entry: Ipa, argument: u64) -> Result<Launch, Refusal> {
        let x = self.call(HostCall::VmStart { vm, entry, argument })?;
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(8).zip(&x[1..5]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(Launch { measured: x[0] == 1, measurement: Digest(digest) })
    }

    /// Enters a vCPU until it exits.
    ///
    /// # Errors
    ///
    /// Those of the call: the vCPU was not entered.
    #[inline(always)]
    fn vcpu_run(&self, vm: VmHandle, vcpu: VcpuIndex, entry: &Entry) -> Result<ExitRecord, Refusal> {
        let x = self.call_emitted(HostCall::emit_run(vm, vcpu, entry))?;
        ExitRecord::parse(&x).ok_or(Refusal::UNKNOWN_ANSWER)
    }

    /// Ends a VM, a bounded number of pages at a time.
    ///
    /// # Errors
    ///
    /// Those of the call, but for [`CallError::Again`], which is [`Progress::More`].
    fn vm_destroy(&self, vm: VmHandle) -> Result<Progress, Refusal> {
        progress(self.call(HostCall::VmDestroy { vm }))
    }

    /// What the VM has cost.
    ///
    /// # Errors
    ///
    /// Those of the call.
    fn vm_counters(&self, vm: VmHandle) -> Result<Counters, Refusal> {
        let x = self.call(HostCall::VmCounters { vm })?;
        Ok(Counters { hypercalls: x[0], exits: x[1], shared_pages: x[2] })
    }
}

fn handle(x: Arguments) -> Result<u32, Refusal> {
    u32::try_from(x[0]).map_err(|_| Refusal::UNKNOWN_ANSWER)
}

fn progress(answer: Result<Arguments, Refusal>) -> Result<Progress, Refusal> {
    match answer {
        Ok(x) => Ok(Progress::Done(x[0])),
        Err(Refusal { error: CallError::Again, detail }) => Ok(Progress::More(detail)),
        Err(refusal) => Err(refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every call in the same way.
    struct Fixed(u64, Arguments);

    impl HostCalls for Fixed {
        fn invoke(&self, _function: u32, x: &mut Arguments) -> u64 {
            *x = self.1;
            self.0
        }
    }

    fn answer(code: u64, results: [u64; 6]) -> Fixed {
        let mut x = [0; 17];
        x[..6].copy_from_slice(&results);
        Fixed(code, x)
    }

    #[test]
    fn a_bounded_call_says_how_far_it_came() {
        let more = answer(CallError::Again.code(), [7, 0, 0, 0, 0, 0]);
        assert_eq!(more.vm_destroy(VmHandle(1)), Ok(Progress::More(7)));
        let done = answer(0, [3, 0, 0, 0, 0, 0]);
        assert_eq!(done.object_reclaim(ObjectHandle(1), 0, 3), Ok(Progress::Done(3)));
    }

    #[test]
    fn a_refusal_keeps_what_it_says() {
        let poor = answer(CallError::NoMemory.code(), [5, 0, 0, 0, 0, 0]);
        let refusal = Refusal { error: CallError::NoMemory, detail: 5 };
        assert_eq!(poor.object_create(VmHandle(1), 8), Err(refusal));
        assert_eq!(poor.force_reclaim(Pfn(1)), Err(refusal));
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_a_refusal() {
        let large = answer(0, [1 << 32, 0, 0, 0, 0, 0]);
        assert_eq!(large.vm_create(true, Pfn(2), 4), Err(Refusal::UNKNOWN_ANSWER));
        let state = answer(0, [9, 1, 0, 0, 0, 0]);
        assert_eq!(state.object_query(ObjectHandle(1), 0), Err(Refusal::UNKNOWN_ANSWER));
        let code = answer(0xdead, [0; 6]);
        assert_eq!(code.version(), Err(Refusal::UNKNOWN_ANSWER));
    }

    #[test]
    fn a_measurement_comes_in_four_words() {
        let word = u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        let started = answer(0, [1, word, 0, 0, 1 << 56, 0]);
        let launch = started.vm_start(VmHandle(1), Ipa(0), 0).unwrap();
        assert!(launch.measured);
        assert_eq!(launch.measurement.0[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(launch.measurement.0[31], 1);
    }
}
