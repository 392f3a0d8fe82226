//! Target: all that a guest can do to the hypervisor. The input makes hypercalls, aborts and register traps on the
//! real core, on two vCPUs.
//!
//! The target runs each input twice, with different secrets in the registers that the input does not set. The host
//! must see the same in both runs. The target also checks:
//!
//! * A hypercall changes x0 to x3 only. An access that the host handles changes no register.
//! * An exit is true: an MMIO exit is for an IPA without memory, a memory fault for an absent page. Its encoding
//!   decodes to the same exit.
//! * A stopped vCPU is not entered again.
//! * The access of all parties follows from the results of the guests' calls.

mod onlooker;
mod seeds;

use hyp_core::call::guest::Services;
use hyp_core::call::trng::Trng;
use hyp_core::cpu::registers::SystemRegisters;
use hyp_core::cpu::syndrome::SyndromeRegisters;
use hyp_core::limits::CpuIndex;
use hyp_core::trap::guest::{Trap, guest_entry, guest_exit};
use hyp_core::vcpu::GuestAction;
use hyp_core::vcpu::loaded::{GuestPage, LoadedVcpu};
use hyp_verify::fake::Fake;
use shared_abi::addr::{PAGE_SIZE, Pfn};
use shared_abi::error::CallError;
use shared_abi::host_call::{HostCall, InitialContent, ObjectHandle, ObjectPageState, VcpuIndex, VmHandle};
use shared_abi::vcpu::{Exit, ExitRecord, LIST_REGISTERS, ListRegister, Resume, StopReason};

use crate::board::{Board, GUEST_FIRST, POOL_PAGES, Tiny, with_board};
use crate::input::Input;
use onlooker::{Registers, check_hypercall, check_injected, check_resumed};
pub use seeds::seeds;

/// The functions that exist. An input may also call any other.
const FUNCTIONS: [u32; 32] = [
    0x8600_0000,
    0x8600_ff01,
    0xc600_0002,
    MEM_SHARE,
    MEM_UNSHARE,
    0xc600_0005,
    0xc600_0006,
    0xc600_0007,
    0xc600_0008,
    0xc600_0009,
    0xc600_8000,
    0x8000_0000,
    0x8000_0001,
    0x8400_0000,
    0x8400_0001,
    0xc400_0001,
    0x8400_0002,
    0x8400_0003,
    0xc400_0003,
    0x8400_0004,
    0xc400_0004,
    0x8400_0006,
    0x8400_0008,
    0x8400_0009,
    0x8400_000a,
    0x8400_0050,
    0x8400_0051,
    0x8400_0052,
    0x8400_0053,
    0xc400_0053,
    0xc400_0012,
    0x0000_0000,
];
const MEM_SHARE: u32 = 0xc600_0003;
const MEM_UNSHARE: u32 = 0xc600_0004;
/// Function ID bit 16: the caller has no live SVE state. It is a hint and no part of the function number.
const SVE_HINT: u32 = 1 << 16;

/// ESR_ELx.EC and .IL.
const EC_SHIFT: u32 = 26;
const IL: u64 = 1 << 25;
const EC_HVC: u64 = 0x16;
const EC_SMC: u64 = 0x17;
const EC_SYSREG: u64 = 0x18;
const EC_INSTRUCTION_ABORT: u64 = 0x20;
const EC_DATA_ABORT: u64 = 0x24;

/// The first page of the host's memory, where the VM's pool is.
const FIRST: u64 = 54;
/// The number of registers that an input sets. All others hold secrets.
const PUBLIC_REGISTERS: usize = 5;

/// Runs the target on an input: a byte for the kind of VM, then steps.
pub fn run(data: &[u8]) {
    let seen = [0x5ec2_e700, 0x0bad_cafe].map(|secret| play(data, secret));
    assert_eq!(seen[0], seen[1], "the host sees different values for different secrets");
}

/// The host's view of a step.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Exit(Exit),
    /// A store or an SGI whose value comes from a register with a secret. The guest chose to reveal it.
    Value(&'static str),
    Entered(Result<(), CallError>),
    Call(Result<[u64; 5], CallError>),
}

fn play(data: &[u8], secret: u64) -> Vec<Seen> {
    /// The limit of steps, because each step checks every page.
    const MAX_STEPS: usize = 120;
    let mut input = Input::new(data);
    let mut seen = Vec::new();
    with_board(|board| {
        let kind = input.u8();
        let protected = kind & 1 == 0;
        let vm = board.ready(protected, FIRST, u64::from(kind >> 1 & 7));
        let Some(vm) = vm else { return };
        let mut guest = Guest {
            vm,
            object: *board.objects.last().expect("a ready VM has an object"),
            protected,
            trng: Trng::new(&[1; 32]),
            secret,
            vcpu: None,
        };
        guest.load(board, 0);
        for _ in 0..MAX_STEPS {
            if input.is_empty() {
                break;
            }
            guest.step(board, &mut input, &mut seen);
        }
        drop(guest);
        board.finish();
    });
    seen
}

type Vcpu<'h, 'm> = LoadedVcpu<'h, 'm, Fake<Tiny>>;

struct Guest<'h, 'm> {
    vm: VmHandle,
    object: ObjectHandle,
    protected: bool,
    trng: Trng,
    secret: u64,
    vcpu: Option<Vcpu<'h, 'm>>,
}

impl<'h, 'm> Guest<'h, 'm> {
    fn load(&mut self, board: &Board<'h, 'm>, index: u32) -> Option<CallError> {
        self.vcpu = None;
        let loaded = board.hypervisor().vcpu_load(CpuIndex(0), self.vm, VcpuIndex(index));
        match loaded {
            Ok(vcpu) => {
                self.vcpu = Some(vcpu);
                None
            }
            Err(error) => Some(error),
        }
    }

    fn step(&mut self, board: &mut Board<'h, 'm>, input: &mut Input<'_>, seen: &mut Vec<Seen>) {
        match input.u8() % 8 {
            0 => {
                let function = match input.u8() {
                    0xff => input.u32(),
                    index => FUNCTIONS[usize::from(index) % FUNCTIONS.len()],
                };
                let how = input.u8();
                let (imm, class) = (u64::from(how >> 4), [EC_HVC, EC_SMC][usize::from(how & 1)]);
                let x = [u64::from(function), argument(input), input.number(), input.number()];
                self.with_registers(&x);
                self.trap(board, class << EC_SHIFT | IL | imm, 0, 0, seen);
            }
            1 | 2 => {
                let class = [EC_DATA_ABORT, EC_INSTRUCTION_ABORT][usize::from(input.u8() & 1)];
                let iss = u64::from(input.u32()) & (IL - 1);
                let ipa = argument(input).wrapping_add(u64::from(input.u16()) & (PAGE_SIZE - 1));
                let stored = input.number();
                self.with_registers(&[0, 0, 0, 0, stored]);
                self.trap(board, class << EC_SHIFT | IL | iss, ipa, ipa >> 12 << 4, seen);
            }
            3 => {
                let (iss, value) = (u64::from(input.u32()) & (IL - 1), input.number());
                self.with_registers(&[value; PUBLIC_REGISTERS]);
                self.trap(board, EC_SYSREG << EC_SHIFT | IL | iss, 0, 0, seen);
            }
            4 => {
                let (esr, far, hpfar) = (u64::from(input.u32()), input.number(), input.number());
                self.with_registers(&[]);
                self.trap(board, esr, far, hpfar, seen);
            }
            5 => {
                let resume = match input.u8() % 4 {
                    0 => Resume::Continue,
                    1 => Resume::MmioRead(input.u64()),
                    2 => Resume::MmioWritten,
                    _ => Resume::Abort,
                };
                self.enter(resume, seen);
            }
            6 => {
                let index = u32::from(input.u8() % 3);
                if let Some(error) = self.load(board, index) {
                    seen.push(Seen::Entered(Err(error)));
                }
            }
            _ => self.host(board, input, seen),
        }
    }

    /// The host acts in between, on another CPU.
    fn host(&self, board: &mut Board<'h, 'm>, input: &mut Input<'_>, seen: &mut Vec<Seen>) {
        let (kind, offset, page) = (input.u8() % 5, input.u8(), input.u8());
        let (offset, first) = (u64::from(offset % 20), Pfn(FIRST + u64::from(page % 64)));
        let pages = u64::from(input.u8() % 9);
        let (object, vm) = (self.object, self.vm);
        let call = match kind {
            0 => HostCall::ObjectPopulate { object, offset, first, pages, content: InitialContent::Zero },
            1 => HostCall::ObjectReclaim { object, offset, pages },
            2 => HostCall::ForceReclaim { page: first },
            3 => HostCall::VmTopUp { vm, first, pages },
            _ => HostCall::VmCounters { vm },
        };
        let answer = board.call(&call).map_err(|failure| failure.error);
        seen.push(Seen::Call(answer));
    }

    /// Sets these registers of the vCPU, and secrets in all others.
    fn with_registers(&mut self, x: &[u64]) {
        let secret = self.secret;
        let Some(vcpu) = &mut self.vcpu else { return };
        vcpu.with_context(|context| {
            let mut next = secret;
            let mut more = || {
                next = next.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                next
            };
            context.registers.x = [0; 31].map(|_: u64| more());
            context.registers.x[..PUBLIC_REGISTERS].fill(0);
            context.registers.x[..x.len()].copy_from_slice(x);
            context.registers.pc = 0x4020_0000 + (secret & 0xffc);
            context.registers.system = SystemRegisters {
                tpidr_el0: more(),
                tpidr_el1: more(),
                sp_el0: more(),
                elr_el1: more(),
                ttbr0_el1: more(),
                vbar_el1: more() & !0x7ff,
                // The host learns when the virtual timer fires, so the timer holds no secret.
                cntv_ctl_el0: context.registers.system.cntv_ctl_el0,
                cntv_cval_el0: context.registers.system.cntv_cval_el0,
                ..context.registers.system
            };
        });
    }

    fn trap(&mut self, board: &mut Board<'h, 'm>, esr: u64, far: u64, hpfar: u64, seen: &mut Vec<Seen>) {
        let Some(vcpu) = &mut self.vcpu else { return };
        let before = Registers::of(vcpu);
        let services = Services { trng: &self.trng, id_register: |_| 0x1100_0000_1111_1122 };
        let action = guest_exit(vcpu, &services, Trap::Synchronous(SyndromeRegisters { esr, far, hpfar }));
        let after = Registers::of(vcpu);

        let class = esr >> EC_SHIFT & 0x3f;
        if class == EC_HVC || class == EC_SMC {
            check_hypercall(&before, &after, class, action);
            let function = u32::try_from(before.x[0] & 0xffff_ffff).expect("32 bits") & !SVE_HINT;
            let answered = action == GuestAction::Resume && after.x[0] == 0 && esr & 0xffff == 0;
            if answered && self.protected && [MEM_SHARE, MEM_UNSHARE].contains(&function) {
                let (gfn, pages) = (before.x[1] >> 12, after.x[1]);
                assert!(pages >= 1 && pages <= before.x[2].max(1));
                board.guest_shared(self.vm, gfn, pages, function == MEM_SHARE);
            }
        }
        // A check of every page is slow. A step that is not a call is checked with the next call.
        if class == EC_HVC || class == EC_SMC {
            board.check();
        }
        match action {
            GuestAction::Resume => check_resumed(&before, &after, class),
            GuestAction::EnableFp => assert_eq!(before, after),
            GuestAction::Exit(exit) => self.exit(board, exit, &before, &after, seen),
        }
    }

    fn exit(
        &mut self,
        board: &Board<'h, 'm>,
        exit: Exit,
        before: &Registers,
        after: &Registers,
        seen: &mut Vec<Seen>,
    ) {
        let record =
            ExitRecord { exit, list_registers: [ListRegister::EMPTY; LIST_REGISTERS], timer_fired: false };
        assert_eq!(ExitRecord::parse(&record.emit()), Some(record));
        let vcpu = self.vcpu.as_mut().expect("it exits");
        let mut over = false;
        let mut secret = None;
        match exit {
            Exit::MmioRead { ipa, size } | Exit::MmioWrite { ipa, size, .. } => {
                assert!(ipa.page_offset() + size.bytes() <= PAGE_SIZE);
                assert_eq!(vcpu.classify(ipa.page()), GuestPage::Unbound);
                assert!(vcpu.with_guard(|guard| guard.allows(ipa.page())));
                // The host has not handled the access yet.
                assert_eq!(after.x, before.x);
                assert_eq!((after.pc, after.pstate), (before.pc, before.pstate));
                assert_eq!(after.system, before.system);
                if let Exit::MmioWrite { value, .. } = exit {
                    assert_eq!(value & !size.mask(), 0);
                    let public = before.x[..PUBLIC_REGISTERS].contains(&value) || value == 0;
                    secret = (!public).then_some("store");
                }
            }
            Exit::MemoryFault { gfn } => {
                assert_eq!(vcpu.classify(gfn), GuestPage::Bound(ObjectPageState::Absent));
                assert_eq!((after.x, after.pc), (before.x, after.pc));
            }
            Exit::Sgi { sgi1r } => {
                let public = before.x[..PUBLIC_REGISTERS].contains(&sgi1r) || sgi1r == 0;
                secret = (!public).then_some("SGI");
            }
            Exit::CpuOn { vcpu: index } => assert_eq!(vcpu.is_on(index), Some(true)),
            Exit::CpuOff => assert_eq!(vcpu.is_on(vcpu.vcpu()), Some(false)),
            Exit::Stopped(StopReason::Poisoned(gfn)) => {
                assert_eq!(vcpu.classify(gfn), GuestPage::Bound(ObjectPageState::Poisoned));
                over = true;
            }
            Exit::Stopped(_) | Exit::SystemOff | Exit::SystemReset => over = true,
            _ => {}
        }
        seen.push(secret.map_or(Seen::Exit(exit), Seen::Value));
        if over || exit == Exit::CpuOff {
            let index = vcpu.vcpu().0;
            self.vcpu = None;
            assert_eq!(self.load(board, index), Some(CallError::Denied));
        }
    }

    /// The host enters the vCPU again, with a result for the pending access.
    fn enter(&mut self, resume: Resume, seen: &mut Vec<Seen>) {
        let Some(vcpu) = &mut self.vcpu else { return };
        let before = Registers::of(vcpu);
        let answer = guest_entry(vcpu, resume);
        let after = Registers::of(vcpu);
        match (answer, resume) {
            (Err(_), _) => assert_eq!(before, after, "a refused entry changed something"),
            (Ok(()), Resume::Continue) => {
                assert_eq!((before.x, before.pc), (after.x, after.pc));
            }
            (Ok(()), Resume::MmioRead(_)) => {
                let changed = before.x.iter().zip(&after.x).filter(|(old, new)| old != new);
                assert!(changed.count() <= 1);
                assert_eq!(after.pc, before.pc.wrapping_add(4));
            }
            (Ok(()), Resume::MmioWritten) => {
                assert_eq!(after.x, before.x);
                assert_eq!(after.pc, before.pc.wrapping_add(4));
            }
            (Ok(()), Resume::Abort) => check_injected(&before, &after),
        }
        seen.push(Seen::Entered(answer));
    }
}

/// Reads an argument: usually a page near the guest's memory.
fn argument(input: &mut Input<'_>) -> u64 {
    match input.number() {
        near @ 0..0x80 => (GUEST_FIRST + near).wrapping_sub(POOL_PAGES) << 12,
        number @ 0x80..0x100 => number - 0x80,
        raw => raw,
    }
}
