//! Everything that a host can ask of the hypervisor, on the real core.
//!
//! Calls are made from registers, as at EL2. What holds after each: a refusal changed nothing; no page
//! has two guests; the host reaches a protected guest's page exactly if that guest shares it, and what
//! comes back from a guest is wiped; TLBs know no more than tables say, and every descriptor was written
//! as break-before-make wants it; at the end all VMs can be destroyed and nothing is lost.

use hyp_core::exit::{GuestAction, Services, Trap, guest_exit};
use hyp_core::fake::Fake;
use hyp_core::hypervisor::{CpuIndex, HostAbort, HostAccess};
use hyp_core::loaded::Loaded;
use hyp_core::trng::Trng;
use shared_abi::addr::Ipa;
use shared_abi::error::CallError;
use shared_abi::host_call::{Arguments, HostCall, VcpuIndex, VmHandle};

use crate::board::{Board, DENIED, GUEST_FIRST, PAGES, RAM, RESERVED, Tiny, with_board};
use crate::input::Input;

/// The function ID of the first host call.
const BASE: u32 = 0xc600_8000;
/// KVM's functions (docs/abi.md).
const MEM_SHARE: u64 = 0xc600_0003;
const MEM_UNSHARE: u64 = 0xc600_0004;
/// ESR_EL2 of `hvc #0`.
const HVC: u64 = 0x5a00_0000;

/// Runs the target on an input: steps.
pub fn run(data: &[u8]) {
    /// A step looks at every page of every VM.
    const MAX_STEPS: usize = 200;
    with_board(|board| {
        let mut input = Input::new(data);
        let mut cpus: Cpus<'_, '_> = [None, None];
        for _ in 0..MAX_STEPS {
            if input.is_empty() {
                break;
            }
            step(board, &mut cpus, &mut input);
        }
        drop(cpus);
        board.finish();
    });
}

/// The vCPU that each CPU has loaded.
type Cpus<'h, 'm> = [Option<Loaded<'h, 'm, Fake<Tiny>>>; 2];

fn step<'h, 'm>(board: &mut Board<'h, 'm>, cpus: &mut Cpus<'h, 'm>, input: &mut Input<'_>) {
    match input.u8() % 8 {
        // Handles that were ever given out are used for ever: stale ones must name nothing.
        kind @ 0..=2 => {
            let function = u32::from(input.u8());
            let first = match kind {
                0 => input.number(),
                1 => u64::from(pick(&board.vms, input).0),
                _ => u64::from(pick(&board.objects, input).0),
            };
            let mut x: Arguments = [0; 17];
            x[0] = first;
            for register in x.iter_mut().take(5).skip(1) {
                *register = input.number();
            }
            call(board, BASE.wrapping_add(function), &x);
        }
        3 => {
            let (flags, first, run) = (input.u8(), input.u8(), input.u8());
            let first = RESERVED.0 + RESERVED.1 + u64::from(first % 64);
            board.ready(flags & 1 != 0, first, (run % 17).into());
        }
        4 => {
            let vm = pick(&board.vms, input);
            let share = input.u8() & 1 != 0;
            let (gfn, pages) = (input.number(), input.number());
            let gfn = match gfn {
                near @ 0..0x40 => GUEST_FIRST.wrapping_add(near),
                far => far,
            };
            guest_call(board, cpus, vm, share, gfn, pages);
        }
        5 => {
            let page = input.number();
            let access = match input.u8() % 3 {
                0 => HostAccess::Read,
                1 => HostAccess::Write,
                _ => HostAccess::Execute,
            };
            touch(board, page & ((1 << 52) - 1), access);
        }
        6 => {
            // A CPU runs one vCPU at a time.
            let (cpu, vm) = (usize::from(input.u8() % 2), pick(&board.vms, input));
            let vcpu = VcpuIndex(u32::from(input.u8() % 3));
            cpus[cpu] = None;
            cpus[cpu] = load(board, cpu, vm, vcpu).ok();
        }
        _ => cpus[usize::from(input.u8() % 2)] = None,
    }
}

fn pick<T: Copy>(all: &[T], input: &mut Input<'_>) -> T {
    // From the end, so that small numbers name what is new.
    let index = usize::from(input.u8()) % all.len();
    all[all.len() - 1 - index]
}

fn load<'h, 'm>(
    board: &Board<'h, 'm>,
    cpu: usize,
    vm: VmHandle,
    vcpu: VcpuIndex,
) -> Result<Loaded<'h, 'm, Fake<Tiny>>, CallError> {
    board.hypervisor().vcpu_load(CpuIndex(cpu), vm, vcpu)
}

/// A call as it comes in registers.
fn call(board: &mut Board<'_, '_>, function: u32, x: &Arguments) {
    let parsed = match HostCall::parse(function, x) {
        Ok(parsed) => parsed,
        Err(error) => {
            let known = [CallError::NotSupported, CallError::InvalidParameter];
            assert!(known.contains(&error), "{error:?}");
            return;
        }
    };
    // Writing it again gives the registers that count.
    let (again, registers) = parsed.emit();
    assert_eq!(again, function);
    assert_eq!(HostCall::parse(again, &registers), Ok(parsed));
    if let HostCall::VcpuRun { vm, vcpu, .. } = parsed {
        drop(load(board, 0, vm, vcpu));
        board.check();
        return;
    }
    // Only the tests ask for so much; the fake machine wipes page by page.
    let _ = board.call(&parsed);
}

/// A guest asks for pages to be shared, or taken back.
fn guest_call<'h, 'm>(
    board: &mut Board<'h, 'm>,
    cpus: &mut Cpus<'h, 'm>,
    vm: VmHandle,
    share: bool,
    gfn: u64,
    pages: u64,
) {
    cpus[1] = None;
    let Ok(mut vcpu) = load(board, 1, vm, VcpuIndex(0)) else {
        return;
    };
    vcpu.with_context(|context| {
        let function = if share { MEM_SHARE } else { MEM_UNSHARE };
        context.x[..4].copy_from_slice(&[function, gfn.wrapping_shl(12), pages, 0]);
    });
    let trng = Trng::new(&[1; 32]);
    let services = Services {
        trng: &trng,
        id_register: |_| 0,
    };
    let trap = Trap::Synchronous {
        esr: HVC,
        far: 0,
        hpfar: 0,
    };
    let action = guest_exit(&mut vcpu, &services, trap);
    let [status, done] = vcpu.with_context(|context| [context.x[0], context.x[1]]);
    if action == GuestAction::Resume && status == 0 {
        assert!(done >= 1 && done <= pages.max(1), "{done} of {pages} pages");
        board.guest_shared(vm, gfn, done, share);
    }
    board.check();
}

/// The host touches a page: it gets what is its own, and nothing else.
fn touch(board: &mut Board<'_, '_>, page: u64, access: HostAccess) {
    let hypervisor = board.hypervisor();
    let answer = hypervisor.host_abort(Ipa(page << 12), access);
    let reached = page < PAGES
        && hypervisor
            .machine()
            .walk(hypervisor.host_space(), page)
            .is_some();
    if answer == HostAbort::Retry {
        assert!(reached, "page {page:#x} faults for ever");
    }
    let within = |(first, pages): (u64, u64)| page >= first && page - first < pages;
    if within(DENIED) || within(RESERVED) || page >= PAGES {
        assert_eq!(answer, HostAbort::Inject, "page {page:#x}");
    }
    if access == HostAccess::Execute && !within(RAM) {
        assert_eq!(answer, HostAbort::Inject, "code from a device");
    }
    board.check();
}

/// Steps of a seed.
#[derive(Default)]
struct Steps(Vec<u8>);

impl Steps {
    fn step(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// A started VM whose pool is at the host's page `first`.
    fn ready(self, protected: bool, first: u8, run: u8) -> Self {
        self.step(&[3, protected.into(), first, run])
    }

    /// A call on the newest VM.
    fn vm(self, function: u8, x: [u8; 4]) -> Self {
        self.step(&[1, function, 0]).step(&x)
    }

    /// A call on the newest object.
    fn object(self, function: u8, x: [u8; 4]) -> Self {
        self.step(&[2, function, 0]).step(&x)
    }

    fn share(self, share: bool, page: u8, pages: u8) -> Self {
        self.step(&[4, 0, share.into(), page, pages])
    }
}

/// Inputs to start from.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let new = Steps::default;
    let ready = || new().ready(true, 0, 4);
    vec![
        ("version", new().step(&[0, 0, 0, 0, 0, 0, 0]).0),
        ("create", new().step(&[0, 1, 1, 54, 12, 0, 0]).0),
        (
            "by-hand",
            new()
                .step(&[0, 1, 1, 54, 12, 0, 0])
                .vm(3, [16, 0, 0, 0])
                .object(4, [0, 32, 16, 0])
                .object(6, [0, 68, 16, 1])
                .vm(10, [0, 0, 0, 0])
                .vm(11, [0, 0, 0, 0])
                .step(&[6, 0, 0, 0])
                .vm(13, [0; 4])
                .step(&[7, 0])
                .vm(13, [0; 4])
                .0,
        ),
        ("share", ready().share(true, 0, 1).share(false, 0, 1).0),
        (
            "share-range",
            ready().share(true, 0, 4).share(false, 1, 9).0,
        ),
        ("share-absent", ready().share(true, 5, 1).0),
        (
            "share-block",
            new()
                .ready(true, 0, 8)
                .share(true, 4, 4)
                .object(7, [4, 4, 0, 0])
                .0,
        ),
        ("punch", ready().object(7, [0, 2, 0, 0]).object(8, [0; 4]).0),
        (
            "reclaim",
            ready().step(&[0, 14, 68, 0, 0, 0, 0]).share(true, 0, 1).0,
        ),
        (
            "two",
            new()
                .ready(true, 0, 4)
                .ready(true, 20, 4)
                .share(true, 0, 4)
                .step(&[1, 13, 1, 0, 0, 0, 0])
                .0,
        ),
        (
            "ordinary",
            new()
                .ready(false, 0, 8)
                .object(7, [0, 3, 0, 0])
                .share(true, 4, 1)
                .0,
        ),
        ("top-up", ready().vm(2, [80, 3, 0, 0]).vm(15, [0; 4]).0),
        ("touch", ready().step(&[5, 68, 1, 5, 3, 0, 5, 1, 1]).0),
        (
            "run-twice",
            ready()
                .step(&[6, 0, 0, 0, 6, 1, 0, 0, 6, 1, 0, 1])
                .vm(13, [0; 4])
                .0,
        ),
    ]
}
