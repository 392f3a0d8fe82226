//! Which vCPU runs where: vCPU i on CPU i modulo the number of CPUs, those that share a CPU in turn.

use core::sync::atomic::{AtomicU32, Ordering};

use bare_rt::el1::cpu;
use host::hypervisor::{Hypervisor, Refusal};
use host::vmm::{End, Next, Notice, Vmm};
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::record::Record;
use shared_abi::vcpu::{Entry, ExitRecord};

use super::guest::BareMetal;
use super::hypercall::El2;
use super::sleep_lock::SleepLock;
use super::{console, cpus, interrupts, timer};

/// The VM that runs, if one does.
static GUEST: SleepLock<Option<Guest>> = SleepLock::new(None);
/// How many vCPUs it has.
static VCPUS: AtomicU32 = AtomicU32::new(0);

struct Guest {
    vmm: Vmm<BareMetal>,
    /// How many of its vCPUs are entered now.
    entered: usize,
}

/// What a CPU does next.
enum Task {
    /// Enter a vCPU.
    Enter {
        vm: VmHandle,
        vcpu: VcpuIndex,
        entry: Entry,
        /// Whether the virtual timer's physical interrupt is to be active meanwhile.
        timer_active: bool,
        /// When to come back for another vCPU.
        deadline: Option<u64>,
    },
    /// Nothing, until it is kicked or a deadline passes.
    Sleep(Option<u64>),
    /// The VM has ended.
    End(End),
}

/// Runs a VM on all CPUs to its end; this one, the boot CPU, enters vCPUs by `hypervisor`.
pub(crate) fn run(vmm: Vmm<BareMetal>, vcpus: u32, hypervisor: El2) -> (Vmm<BareMetal>, End) {
    *GUEST.lock() = Some(Guest { vmm, entered: 0 });
    VCPUS.store(vcpus, Ordering::Release);
    // From here on the others find something to do when they are kicked.
    for number in 1..cpus::online().min(vcpus as usize) {
        interrupts::kick(number);
    }
    let end = serve_until_end(hypervisor);
    loop {
        let mut guest = GUEST.lock();
        if guest.as_ref().is_some_and(|guest| guest.entered == 0)
            && let Some(Guest { vmm, .. }) = guest.take()
        {
            VCPUS.store(0, Ordering::Release);
            return (vmm, end);
        }
        drop(guest);
        // Who leaves a vCPU last kicks this CPU.
        cpu::wfi();
        interrupts::drain();
    }
}

/// Runs this CPU's share of every VM. For all other CPUs.
pub(crate) fn work() -> ! {
    loop {
        serve_until_end(El2::Plain);
        timer::arm(None);
        cpu::wfi();
        interrupts::drain();
    }
}

fn serve_until_end(hypervisor: El2) -> End {
    let mut last = None;
    loop {
        interrupts::drain();
        match next_task(last) {
            Task::Enter { vm, vcpu, entry, timer_active, deadline } => {
                interrupts::set_virtual_timer_active(timer_active);
                timer::arm(deadline);
                let exit = hypervisor.vcpu_run(vm, vcpu, &entry);
                interrupts::drain();
                last = Some(vcpu);
                finish(vcpu, exit);
            }
            Task::Sleep(deadline) => {
                timer::arm(deadline);
                cpu::wfi();
            }
            Task::End(end) => return end,
        }
    }
}

/// Chooses among this CPU's vCPUs, beginning with the one after `last`.
fn next_task(last: Option<VcpuIndex>) -> Task {
    let mut guard = GUEST.lock();
    let Some(guest) = guard.as_mut() else {
        return Task::Sleep(None);
    };
    let now = timer::now();
    let mut chosen = None;
    let mut deadline: Option<u64> = None;
    for vcpu in turn(last) {
        let wake = match guest.vmm.poll(vcpu, now) {
            Next::End(end) => return Task::End(end),
            Next::Off => None,
            Next::Wait { deadline } => deadline,
            Next::Enter if chosen.is_none() => {
                chosen = Some(vcpu);
                None
            }
            Next::Enter => Some(timer::slice_end()),
        };
        deadline = match (deadline, wake) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    let Some(vcpu) = chosen else {
        return Task::Sleep(deadline);
    };
    guest.entered += 1;
    let entry = guest.vmm.entry(vcpu);
    Task::Enter {
        vm: guest.vmm.vm_handle(),
        vcpu,
        entry,
        timer_active: guest.vmm.timer_line_active(vcpu),
        deadline,
    }
}

/// This CPU's vCPUs, `last` at the end.
fn turn(last: Option<VcpuIndex>) -> impl Iterator<Item = VcpuIndex> {
    let first = cpus::current() as u32;
    let step = cpus::online() as u32;
    let end = VCPUS.load(Ordering::Acquire);
    let mine = end.saturating_sub(first).div_ceil(step);
    let mut next = last.map_or(first, |last| last.0 + step);
    (0..mine).map(move |_| {
        if next >= end {
            next = first;
        }
        let vcpu = VcpuIndex(next);
        next += step;
        vcpu
    })
}

/// Hands an exit to the VMM, and wakes whom it concerns.
fn finish(vcpu: VcpuIndex, exit: Result<ExitRecord, Refusal>) {
    let mut guard = GUEST.lock();
    let Some(guest) = guard.as_mut() else {
        return;
    };
    guest.entered -= 1;
    let outcome = guest.vmm.handle(vcpu, exit);
    drop(guard);
    for other in outcome.kick.iter() {
        kick(cpus::home_of(other));
    }
    if matches!(outcome.next, Next::End(_)) {
        kick(0);
    }
    match outcome.notice {
        Some(Notice::Attack(attack)) => console::record(&Record::Attack {
            read_faulted: attack.read_faulted,
            write_faulted: attack.write_faulted,
        }),
        Some(Notice::BrokenQueue(error)) => {
            console::line(format_args!("a driver of the guest's broke its queue: {error}"));
        }
        None => {}
    }
}

/// Makes another CPU look for work; this one does so anyway.
fn kick(number: usize) {
    if number != cpus::current() {
        interrupts::kick(number);
    }
}
