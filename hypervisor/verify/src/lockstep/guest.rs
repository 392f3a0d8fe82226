//! A guest's action on both sides. The core gets it as registers and a trap, as from the hardware.

use hyp_core::call::guest::Services;
use hyp_core::cpu::syndrome::SyndromeRegisters;
use hyp_core::machine::geometry::Geometry;
use hyp_core::trap::guest::{Trap, guest_entry, guest_exit};
use hyp_core::vcpu::GuestAction;
use shared_abi::addr::Gfn;
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::kvm::function;
use shared_abi::vcpu::{Exit, ExitRecord, ListRegister, Resume};

use super::action::GuestStep;
use super::{Divergence, Pair, Verdict, agree};
use crate::fake::on_cpu;
use crate::spec::Spec;
use crate::spec::guest::GuestAnswer;

/// ESR_EL2 of `hvc #0` and of `smc #0`. After the first the PC is past the instruction, after the second at it.
const HVC: u64 = 0x16 << 26 | 1 << 25;
const SMC: u64 = 0x17 << 26 | 1 << 25;
/// ESR_EL2 of an 8-byte store of x5 that takes a translation fault at level 3.
const STORE: u64 = 0x24 << 26 | 1 << 25 | 1 << 24 | 3 << 22 | 5 << 16 | 1 << 15 | 1 << 6 | 0b0111;
/// PSCI functions (DEN0022, section 5.1).
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0xc400_0003;
const SYSTEM_OFF: u32 = 0x8400_0008;
/// The address of the guest's instruction.
const PC: u64 = 0x1000;

/// Returns x0 to x3 of a guest's call, or `None` for a touch.
fn registers(call: GuestStep) -> Option<[u64; 4]> {
    let with = |id: u32, [x1, x2, x3]: [u64; 3]| Some([id.into(), x1, x2, x3]);
    match call {
        GuestStep::Share(x) => with(function::MEM_SHARE, x),
        GuestStep::Unshare(x) => with(function::MEM_UNSHARE, x),
        GuestStep::Relinquish(x) => with(function::MEM_RELINQUISH, x),
        GuestStep::CpuOn(target) => with(CPU_ON, [target.into(), 0, 0]),
        GuestStep::CpuOff => with(CPU_OFF, [0; 3]),
        GuestStep::SystemOff => with(SYSTEM_OFF, [0; 3]),
        GuestStep::Touch(_) => None,
    }
}

/// Runs the action of a loaded vCPU on the specification. `done` is how many pages the core converted.
pub fn specified(spec: &mut Spec, vm: VmHandle, vcpu: VcpuIndex, call: GuestStep, done: u64) -> GuestAnswer {
    match call {
        GuestStep::Share(x) => spec.convert(vm, x, true, done),
        GuestStep::Unshare(x) => spec.convert(vm, x, false, done),
        GuestStep::Relinquish(x) => spec.relinquish(vm, x),
        GuestStep::CpuOn(target) => spec.cpu_on(vm, VcpuIndex(target)),
        GuestStep::CpuOff => spec.cpu_off(vm, vcpu),
        GuestStep::SystemOff => spec.system_off(vm),
        GuestStep::Touch(gfn) => spec.touch(vm, gfn),
    }
}

impl<G: Geometry> Pair<'_, '_, G> {
    pub(super) fn guest(&mut self, cpu: usize, call: GuestStep) -> Result<Verdict, Divergence> {
        let Some((vm, vcpu, false)) = self.on_cpu(cpu) else {
            return Ok(Verdict::Skipped);
        };
        if let GuestStep::Touch(gfn) = call {
            if gfn >= G::IPA_PAGES {
                return Ok(Verdict::Skipped);
            }
            if self.spec.guest_reach(vm, gfn).is_some() {
                // The guest's tables map the page, as checked after each step, so the access does not trap.
                return Ok(Verdict::Done);
            }
        }
        let (action, x, pc) = self.trap(cpu, call);
        let counts = self.counts.entry(vm).or_default();
        counts.0 += u64::from(registers(call).is_some());
        counts.1 += u64::from(matches!(action, GuestAction::Exit(_)));

        if let GuestAction::Exit(exit) = action {
            let record = ExitRecord { exit, list_registers: [ListRegister(0); 4], timer_fired: false };
            self.told.extend(record.emit());
        }
        if let (GuestStep::Relinquish(_), GuestAction::Exit(Exit::NeedPages { pages })) = (call, action) {
            agree!(pages > 0 && pc == PC, "{call:?} is short of {pages} pages");
            self.cpus[cpu].as_mut().expect("it is loaded").exited = true;
            return Ok(Verdict::Exit);
        }
        let (answer, exit, verdict) = match specified(&mut self.spec, vm, vcpu, call, x[1]) {
            Ok(outcome) => match outcome.answer {
                Some(x1) => (Some((0, x1)), outcome.exit, Verdict::Done),
                None => (None, outcome.exit, Verdict::Exit),
            },
            Err(refusal) => {
                let x0 = refusal.x0().cast_unsigned();
                (Some((x0, 0)), None, Verdict::GuestRefused(refusal))
            }
        };
        let expected = exit.map_or(GuestAction::Resume, GuestAction::Exit);
        agree!(action == expected, "{call:?}: {action:?}, expected {expected:?}");
        if let Some((x0, x1)) = answer {
            agree!(x == [x0, x1, 0, 0], "{call:?} is answered {x:x?}, expected {x0:#x}, {x1:#x}");
            agree!(pc == PC + 4, "{call:?} is answered, and the guest goes on at {pc:#x}");
        } else if let (Some(before), Some(Exit::MemoryFault { .. })) = (registers(call), exit) {
            agree!(x == before && pc == PC, "{call:?} is not made again: {x:x?} at {pc:#x}");
        }
        if let Some(on) = &mut self.cpus[cpu] {
            on.exited = exit.is_some();
        }
        Ok(verdict)
    }

    /// Takes the trap. Returns the core's action, x0 to x3, and the PC.
    fn trap(&mut self, cpu: usize, call: GuestStep) -> (GuestAction, [u64; 4], u64) {
        let services = Services { trng: &self.trng, id_register: |_| 0 };
        let secret = self.secret;
        let Some(on) = self.cpus.get_mut(cpu).and_then(Option::as_mut) else {
            return (GuestAction::Resume, [0; 4], 0);
        };
        let loaded = &mut on.loaded;
        let (esr, ipa) = match call {
            GuestStep::Touch(gfn) => (STORE, Gfn(gfn).base().0),
            // HVC and SMC must have the same effect.
            _ => (if cpu == 0 { HVC } else { SMC }, 0),
        };
        loaded.with_context(|context| {
            if let Some(x) = registers(call) {
                context.registers.x[..4].copy_from_slice(&x);
                // HVC sets ELR_EL2 to the next instruction. For an SMC, EL2 must skip it.
                context.registers.pc = if esr == HVC { PC + 4 } else { PC };
            }
            // The registers that the call does not use hold the guest's secret.
            let secret = u64::from_ne_bytes([secret; 8]);
            context.registers.x[4] = secret;
            context.registers.x[5] = 0;
            context.registers.x[6..].fill(secret);
            context.registers.system.sp_el0 = secret;
            context.registers.system.elr_el1 = secret;
        });
        let trap = Trap::Synchronous(SyndromeRegisters { esr, far: ipa, hpfar: (ipa >> 12) << 4 });
        on_cpu(cpu, || {
            let action = guest_exit(loaded, &services, trap);
            if let GuestAction::Exit(Exit::MmioWrite { .. }) = action {
                // The host has emulated the write.
                let _ = guest_entry(loaded, Resume::MmioWritten);
            }
            let x = loaded.with_context(|context| [0, 1, 2, 3].map(|index| context.registers.x[index]));
            (action, x, loaded.with_context(|context| context.registers.pc))
        })
    }

    /// Interrupts the vCPU so that the CPU returns to the host, unless the vCPU has exited already.
    pub(super) fn interrupt(&mut self, cpu: usize) {
        let services = Services { trng: &self.trng, id_register: |_| 0 };
        let Some(on) = self.cpus.get_mut(cpu).and_then(Option::as_mut) else {
            return;
        };
        if !on.exited {
            on_cpu(cpu, || guest_exit(&mut on.loaded, &services, Trap::Interrupt));
            self.counts.entry(on.loaded.vm()).or_default().1 += 1;
        }
    }
}
