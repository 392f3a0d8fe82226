//! A guest's traps, hypercalls and device accesses, and their results.

mod calls;
mod devices;
mod exits;
mod memory;

use hyp_core::call::guest::Services;
use hyp_core::call::trng::Trng;
use hyp_core::cpu::registers::VcpuContext;
use hyp_core::cpu::syndrome::SyndromeRegisters;
use hyp_core::limits::CpuIndex;
use hyp_core::trap::guest::{Trap, guest_entry, guest_exit};
use hyp_core::vcpu::GuestAction;
use hyp_core::vcpu::loaded::LoadedVcpu;
use hyp_verify::fake::Fake;
use shared_abi::addr::Gfn;
use shared_abi::host_call::{HostCall, VcpuIndex};
use shared_abi::vcpu::{Exit, Resume};

use super::bench_machine::{GUEST_FIRST, TestVm, Tiny, TinyHypervisor, tiny};

/// An IPA page without memory.
const DEVICE: u64 = 5;

/// ESR_EL2 of `hvc #0`.
const HVC: u64 = 0x5a00_0000;
/// ESR_EL2 of `smc #0`.
const SMC: u64 = 0x5e00_0000;

/// A started VM with two vCPUs. Pages 0 to 3 of its object are present.
struct Guest {
    hypervisor: TinyHypervisor,
    vm: TestVm,
    trng: Trng,
}

type Vcpu<'h> = LoadedVcpu<'h, 'static, Fake<Tiny>>;

impl Guest {
    fn new(protected: bool) -> Self {
        let hypervisor = tiny();
        let vm = TestVm::new(&hypervisor, protected, 54, 12);
        let second = HostCall::VcpuCreate { vm: vm.vm, index: VcpuIndex(1) };
        hypervisor.host_call(&second).unwrap();
        vm.populate(&hypervisor, 0, 72, 4).unwrap();
        vm.start(&hypervisor);
        Self { hypervisor, vm, trng: Trng::new(&[1; 32]) }
    }

    fn load(&self, index: u32) -> Vcpu<'_> {
        self.hypervisor.vcpu_load(CpuIndex(0), self.vm.vm, VcpuIndex(index)).unwrap()
    }

    fn services(&self) -> Services<'_> {
        Services { trng: &self.trng, id_register: |_| 0x1100_0000_1111_1122 }
    }

    fn trap(&self, vcpu: &mut Vcpu<'_>, esr: u64) -> GuestAction {
        self.abort(vcpu, esr, 0)
    }

    /// Takes a trap with an IPA. The virtual address is equal to it.
    fn abort(&self, vcpu: &mut Vcpu<'_>, esr: u64, ipa: u64) -> GuestAction {
        let trap = Trap::Synchronous(SyndromeRegisters { esr, far: ipa, hpfar: (ipa >> 12) << 4 });
        guest_exit(vcpu, &self.services(), trap)
    }

    /// Makes a hypercall that the core handles. Returns x0 to x3, and checks that x4 and up are preserved.
    fn call(&self, vcpu: &mut Vcpu<'_>, x: [u64; 4]) -> [u64; 4] {
        let action = self.call_raw(vcpu, HVC, x);
        assert_eq!(action, GuestAction::Resume, "{x:#x?}");
        result(vcpu)
    }

    fn call_raw(&self, vcpu: &mut Vcpu<'_>, esr: u64, x: [u64; 4]) -> GuestAction {
        let before = vcpu.with_context(|context| {
            context.registers.x = [0x5afe; 31];
            context.registers.x[..4].copy_from_slice(&x);
            context.clone()
        });
        let action = self.trap(vcpu, esr);
        vcpu.with_context(|context| {
            assert_eq!(context.registers.x[4..], before.registers.x[4..], "x4 and up are preserved");
        });
        action
    }
}

fn result(vcpu: &mut Vcpu<'_>) -> [u64; 4] {
    vcpu.with_context(|context| [0, 1, 2, 3].map(|index| context.registers.x[index]))
}

fn snapshot(vcpu: &mut Vcpu<'_>) -> VcpuContext {
    vcpu.with_context(|context| context.clone())
}
