//! Which vCPU runs where: vCPU i on CPU i modulo the number of CPUs, those that share a CPU in turn.

use bare_rt::el1::cpu;
use host::hypervisor::{HostCalls, Refusal};
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

struct Guest {
    vmm: Vmm<BareMetal>,
    /// How many vCPUs it has.
    vcpus: u32,
    /// How many CPUs are in its vCPUs now: from the first entry to an exit that none follows.
    inside: usize,
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
    *GUEST.lock() = Some(Guest { vmm, vcpus, inside: 0 });
    // From here on the others find something to do when they are kicked.
    for number in 1..cpus::online().min(vcpus as usize) {
        interrupts::kick(number);
    }
    let end = serve_until_end(hypervisor);
    loop {
        let mut guest = GUEST.lock();
        if guest.as_ref().is_some_and(|guest| guest.inside == 0)
            && let Some(Guest { vmm, .. }) = guest.take()
        {
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
        let mut task = look(last);
        while let Task::Enter { vm, vcpu, entry, timer_active, deadline } = task {
            interrupts::set_virtual_timer_active(timer_active);
            timer::arm(deadline);
            let exit = hypervisor.vcpu_run(vm, vcpu, &entry);
            interrupts::drain();
            task = finish(vcpu, exit);
            last = Some(vcpu);
        }
        match task {
            Task::End(end) => return end,
            Task::Sleep(deadline) => timer::arm(deadline),
            Task::Enter { .. } => {}
        }
        cpu::wfi();
    }
}

/// Looks for something to do, when this CPU was not in a vCPU.
#[inline(always)] // as `finish`, whose answer has the same destination
fn look(last: Option<VcpuIndex>) -> Task {
    let mut guard = GUEST.lock();
    let Some(guest) = guard.as_mut() else {
        return Task::Sleep(None);
    };
    let task = guest.choose(last);
    if matches!(task, Task::Enter { .. }) {
        guest.inside += 1;
    }
    task
}

/// Hands an exit to the VMM, wakes whom it concerns, and chooses what this CPU does next: all the way to
/// the next entry with the lock taken once.
#[inline(always)] // into its one caller, so that exit and entry stay in registers
fn finish(vcpu: VcpuIndex, exit: Result<ExitRecord, Refusal>) -> Task {
    let mut guard = GUEST.lock();
    let Some(guest) = guard.as_mut() else {
        return Task::Sleep(None);
    };
    let outcome = guest.vmm.handle(vcpu, exit);
    let task = guest.choose(Some(vcpu));
    if !matches!(task, Task::Enter { .. }) {
        guest.inside -= 1;
    }
    drop(guard);
    for other in outcome.kick.iter() {
        kick(cpus::home_of(other));
    }
    if matches!(task, Task::End(_)) {
        kick(0);
    }
    if let Some(notice) = outcome.notice {
        tell(notice);
    }
    task
}

impl Guest {
    /// Chooses among this CPU's vCPUs, beginning with the one after `last`.
    #[inline(always)] // as `finish`
    fn choose(&mut self, last: Option<VcpuIndex>) -> Task {
        let mut turn = turn(last, self.vcpus);
        let mut deadline = None;
        let vcpu = loop {
            let Some(vcpu) = turn.next() else {
                return Task::Sleep(deadline);
            };
            match self.vmm.poll(vcpu, timer::now) {
                Next::Enter => break vcpu,
                Next::Wait { deadline: wake } => deadline = earlier(deadline, wake),
                Next::Off => {}
                Next::End(end) => return Task::End(end),
            }
        };
        // The others say when to come back for them.
        for other in turn {
            match self.vmm.poll(other, timer::now) {
                Next::Enter => deadline = earlier(deadline, Some(timer::slice_end())),
                Next::Wait { deadline: wake } => deadline = earlier(deadline, wake),
                Next::Off => {}
                Next::End(end) => return Task::End(end),
            }
        }
        let (entry, timer_active) = self.vmm.entry(vcpu);
        Task::Enter { vm: self.vmm.vm_handle(), vcpu, entry, timer_active, deadline }
    }
}

/// The earlier of two deadlines; `None` is none.
fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Those of so many vCPUs that are this CPU's, each once, `last` at the end.
fn turn(last: Option<VcpuIndex>, vcpus: u32) -> impl Iterator<Item = VcpuIndex> {
    let first = cpus::current() as u32;
    let step = cpus::online() as u32;
    let after = move |vcpu: u32| if vcpu + step < vcpus { vcpu + step } else { first };
    let start = last.map_or(first, |last| after(last.0));
    let mut next = (first < vcpus).then_some(start);
    core::iter::from_fn(move || {
        let vcpu = next?;
        next = Some(after(vcpu)).filter(|vcpu| *vcpu != start);
        Some(VcpuIndex(vcpu))
    })
}

/// Says what happened besides.
#[cold]
fn tell(notice: Notice) {
    match notice {
        Notice::Attack(attack) => console::record(&Record::Attack {
            read_faulted: attack.read_faulted,
            write_faulted: attack.write_faulted,
        }),
        Notice::BrokenQueue(error) => {
            console::line(format_args!("a driver of the guest's broke its queue: {error}"));
        }
    }
}

/// Makes another CPU look for work; this one does so anyway.
fn kick(number: usize) {
    if number != cpus::current() {
        interrupts::kick(number);
    }
}
