//! What the host times by itself: making a VM, giving it memory, taking it apart.
//!
//! The VMs here are made by hand, call by call, so that nothing but the calls is timed. What is not
//! timed calls the hypervisor past the stopwatch.

use alloc::vec::Vec;

use bare_rt::el1::cpu;
use host::hypervisor::{HostCalls as _, Progress, Refusal};
use host::machine::{RAM_BASE, UART_BASE};
use host::memory::{FrameAllocator as _, HostMemory as _};
use host::vm::VmError;
use shared_abi::addr::Pfn;
use shared_abi::bench::Operation;
use shared_abi::error::CallError;
use shared_abi::host_call::{InitialContent, ObjectHandle, VcpuIndex, VmHandle};
use shared_abi::vcpu::{Entry, Exit, LIST_REGISTERS, ListRegister, Resume};

use super::super::hypercall::El2::{Plain, Timed};
use super::super::interrupts;
use super::super::memory::MachineFrames;
use super::super::tolerant::TolerantMemory;

/// How often each operation is timed.
const SAMPLES: usize = 8;
/// Pages of a block of 2 MiB.
const BLOCK_PAGES: u64 = 512;
/// Pages of the pool of a VM that is to hold a few blocks in pieces.
const POOL_PAGES: u64 = 64;
/// Pages of the pool of a VM that is to come as far as its first instruction.
const SMALL_POOL_PAGES: u64 = 16;
/// Pages of the memory that such a VM is promised: 128 MiB.
const LAZY_PAGES: u64 = 32_768;
/// The first instructions of a guest: the count, to where x0 points.
const FIRST_INSTRUCTIONS: [u32; 3] = [
    0xd53b_e041, // mrs x1, cntvct_el0
    0xf900_0001, // str x1, [x0]
    0x1400_0000, // b .
];

/// What was timed.
pub(super) struct Timing {
    pub(super) operation: Operation,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) units: u64,
}

/// Times everything.
///
/// # Errors
///
/// The host is out of memory, or a call was refused.
pub(super) fn time_all() -> Result<Vec<Timing>, VmError> {
    let mut timings = Vec::new();
    populate_ahead(&mut timings)?;
    single_pages(&mut timings)?;
    for _ in 0..SAMPLES {
        timings.push(create()?);
    }
    Ok(timings)
}

/// A VM with one object, bound at the start of RAM.
struct BenchVm {
    handle: VmHandle,
    object: ObjectHandle,
    /// Frames that come back when it is gone.
    frames: Vec<(Pfn, u64)>,
}

impl BenchVm {
    fn new(pages: u64) -> Result<Self, VmError> {
        let pool = take(POOL_PAGES, 2)?;
        let handle = Plain.vm_create(true, pool, POOL_PAGES)?;
        let object = Plain.object_create(handle, pages)?;
        Plain.object_bind(object, 0, RAM_BASE.page(), pages)?;
        Ok(Self { handle, object, frames: Vec::from([(pool, POOL_PAGES)]) })
    }

    /// Times the end of the VM: how many pages came back.
    fn destroy(self) -> Result<Timing, VmError> {
        let mut pages = 0;
        let start = cpu::virtual_count();
        loop {
            match Timed.vm_destroy(self.handle)? {
                Progress::More(some) => pages += some,
                Progress::Done(rest) => {
                    pages += rest;
                    break;
                }
            }
        }
        let end = cpu::virtual_count();
        for (first, pages) in self.frames {
            MachineFrames.free(first, pages);
        }
        Ok(Timing { operation: Operation::ReclaimPage, start, end, units: pages })
    }
}

/// Blocks of 2 MiB, each populated ahead in one go.
fn populate_ahead(timings: &mut Vec<Timing>) -> Result<(), VmError> {
    let mut vm = BenchVm::new(SAMPLES as u64 * BLOCK_PAGES)?;
    for index in 0..SAMPLES as u64 {
        let block = take(BLOCK_PAGES, BLOCK_PAGES)?;
        vm.frames.push((block, BLOCK_PAGES));
        let mut done = 0;
        let start = cpu::virtual_count();
        while done < BLOCK_PAGES {
            let progress = Timed.object_populate(
                vm.object,
                index * BLOCK_PAGES + done,
                Pfn(block.0 + done),
                BLOCK_PAGES - done,
                InitialContent::Zero,
            )?;
            match progress {
                Progress::Done(_) => done = BLOCK_PAGES,
                Progress::More(pages) => done += pages,
            }
        }
        timings.push(Timing {
            operation: Operation::Populate2MPage,
            start,
            end: cpu::virtual_count(),
            units: BLOCK_PAGES,
        });
    }
    vm.destroy().map(drop)
}

/// Single pages, no two of which are neighbours: given, and taken back when the VM is torn down.
fn single_pages(timings: &mut Vec<Timing>) -> Result<(), VmError> {
    for _ in 0..SAMPLES {
        let mut vm = BenchVm::new(BLOCK_PAGES)?;
        let frames = take(2 * BLOCK_PAGES, 1)?;
        vm.frames.push((frames, 2 * BLOCK_PAGES));
        for offset in 0..BLOCK_PAGES {
            // What a page costs whose content stays, and one whose content does not: the first few
            // of each VM are timed, after one that pays for the table.
            let content = if offset % 2 == 0 { InitialContent::Keep } else { InitialContent::Zero };
            let hypervisor = if (1..=4).contains(&offset) { Timed } else { Plain };
            let page = Pfn(frames.0 + 2 * offset);
            let start = cpu::virtual_count();
            hypervisor.object_populate(vm.object, offset, page, 1, content)?;
            let end = cpu::virtual_count();
            if hypervisor == Timed {
                timings.push(Timing {
                    operation: match content {
                        InitialContent::Keep => Operation::LaunchPage,
                        InitialContent::Zero => Operation::ZeroPage,
                    },
                    start,
                    end,
                    units: 1,
                });
            }
        }
        timings.push(vm.destroy()?);
    }
    Ok(())
}

/// A VM from the call that makes it to its first instruction, which says itself when that is. Its memory
/// is promised, but for the page that it starts in.
fn create() -> Result<Timing, VmError> {
    let pool = take(SMALL_POOL_PAGES, 2)?;
    let code = take(1, 1)?;
    let mut bytes = [0; 4 * FIRST_INSTRUCTIONS.len()];
    for (to, from) in bytes.chunks_exact_mut(4).zip(FIRST_INSTRUCTIONS) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    TolerantMemory.write(code.base(), &bytes)?;

    // A pending interrupt would end the vCPU's run before its first instruction.
    interrupts::drain();
    let index = VcpuIndex(0);
    let entry = Entry { resume: Resume::Continue, list_registers: [ListRegister::EMPTY; LIST_REGISTERS] };
    let start = cpu::virtual_count();
    let vm = Timed.vm_create(true, pool, SMALL_POOL_PAGES)?;
    let object = Timed.object_create(vm, LAZY_PAGES)?;
    Timed.object_bind(object, 0, RAM_BASE.page(), LAZY_PAGES)?;
    Timed.object_populate(object, 0, code, 1, InitialContent::Keep)?;
    Timed.vcpu_create(vm, index)?;
    Timed.vm_start(vm, RAM_BASE, UART_BASE.0)?;
    let record = Timed.vcpu_run(vm, index, &entry)?;

    let Exit::MmioWrite { value: end, .. } = record.exit else {
        return Err(VmError::Refused(Refusal { error: CallError::NotSupported, detail: 0 }));
    };
    while let Progress::More(_) = Plain.vm_destroy(vm)? {}
    MachineFrames.free(pool, SMALL_POOL_PAGES);
    MachineFrames.free(code, 1);
    Ok(Timing { operation: Operation::VmCreate, start, end, units: 1 })
}

fn take(pages: u64, align_pages: u64) -> Result<Pfn, VmError> {
    MachineFrames.allocate(pages, align_pages).ok_or(VmError::OutOfFrames)
}
