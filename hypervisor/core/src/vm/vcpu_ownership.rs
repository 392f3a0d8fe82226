//! The ownership of each vCPU by a CPU: one atomic word per vCPU, which also changes without the VM's lock.
//!
//! A CPU *takes* a vCPU under the VM's lock, after it has checked there that the vCPU may run. After the run
//! it *parks* the vCPU. Any CPU may take a parked vCPU; the CPU that parked it may also *resume* it, which
//! repeats no check and takes no lock. A change of the checked state therefore *revokes* the ownership, under
//! the VM's lock. A parked vCPU is free from then on; a running one is free as soon as its run ends.
//!
//! CPU_ON needs no revocation: a vCPU that is off is not parked, because CPU_OFF revokes its own ownership.
//!
//! | word | meaning |
//! | --- | --- |
//! | 0 | free |
//! | CPU + 1 | parked by that CPU |
//! | CPU + 1, [`RUNNING`] | runs there |
//! | CPU + 1, [`RUNNING`], [`REVOKED`] | runs there; becomes free after the run |
//! | [`REVOKED`] without [`RUNNING`] | free |

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::limits::{CpuIndex, MAX_CPUS};

const FREE: u32 = 0;
const RUNNING: u32 = 1 << 8;
const REVOKED: u32 = 1 << 9;

const _: () = assert!(MAX_CPUS < RUNNING as usize, "a CPU fits below the bits");

/// The ownership word of a vCPU, and its counters. Only the CPU that runs the vCPU writes the counters.
#[derive(Debug)]
pub(crate) struct VcpuOwnership {
    word: AtomicU32,
    hypercalls: AtomicU64,
    exits: AtomicU64,
}

#[expect(clippy::cast_possible_truncation, reason = "a CPU is below MAX_CPUS")]
const fn parked(cpu: CpuIndex) -> u32 {
    (cpu.0 as u32).wrapping_add(1)
}

impl VcpuOwnership {
    /// Makes a free vCPU.
    pub(crate) const fn new() -> Self {
        Self { word: AtomicU32::new(FREE), hypercalls: AtomicU64::new(0), exits: AtomicU64::new(0) }
    }

    /// Takes the vCPU for `cpu` and returns true, unless it runs. The caller holds the VM's lock and has
    /// checked that the vCPU may run.
    pub(crate) fn take(&self, cpu: CpuIndex) -> bool {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (word & RUNNING == 0).then_some(parked(cpu) | RUNNING)
            })
            .is_ok()
    }

    /// Takes the vCPU again for the CPU that parked it. Returns false if another CPU has taken it since, or
    /// if its ownership was revoked.
    pub(crate) fn resume(&self, cpu: CpuIndex) -> bool {
        let parked = parked(cpu);
        self.word.compare_exchange(parked, parked | RUNNING, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Ends the run on `cpu`: parks the vCPU, or frees it if its ownership was revoked.
    pub(crate) fn park(&self, cpu: CpuIndex) {
        let parked = parked(cpu);
        let running = parked | RUNNING;
        if self.word.compare_exchange(running, parked, Ordering::Release, Ordering::Relaxed).is_err() {
            self.word.store(FREE, Ordering::Release);
        }
    }

    /// Revokes the ownership: no CPU can resume the vCPU, and a CPU that runs it cannot park it. A CPU can
    /// still take it under the VM's lock, which the caller holds.
    pub(crate) fn revoke(&self) {
        self.word.fetch_or(REVOKED, Ordering::AcqRel);
    }

    /// Returns whether the vCPU runs. If the ownership is revoked and the caller holds the VM's lock, the
    /// result `false` holds until the caller releases the lock.
    pub(crate) fn is_running(&self) -> bool {
        self.word.load(Ordering::Acquire) & RUNNING != 0
    }

    /// Returns whether the state that was checked at the take may have changed. The vCPU runs on this CPU.
    pub(crate) fn is_revoked(&self) -> bool {
        self.word.load(Ordering::Acquire) & REVOKED != 0
    }

    /// Counts a hypercall that the hypervisor served. The vCPU runs on this CPU.
    pub(crate) fn count_hypercall(&self) {
        count(&self.hypercalls);
    }

    /// Counts an exit to the host. The vCPU runs on this CPU.
    pub(crate) fn count_exit(&self) {
        count(&self.exits);
    }

    /// Returns the numbers of hypercalls and exits.
    pub(crate) fn counts(&self) -> [u64; 2] {
        [&self.hypercalls, &self.exits].map(|count| count.load(Ordering::Relaxed))
    }

    /// Resets the counters for a new vCPU, which no CPU has taken yet.
    pub(crate) fn reset_counts(&self) {
        for count in [&self.hypercalls, &self.exits] {
            count.store(0, Ordering::Relaxed);
        }
    }
}

fn count(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const HERE: CpuIndex = CpuIndex(0);
    const THERE: CpuIndex = CpuIndex(63);

    #[test]
    fn one_cpu_has_it() {
        let ownership = VcpuOwnership::new();
        assert!(ownership.take(HERE));
        assert!(ownership.is_running());
        assert!(!ownership.take(THERE));
        assert!(!ownership.take(HERE));
        assert!(!ownership.resume(HERE), "it runs");
        ownership.park(HERE);
        assert!(!ownership.is_running());
        assert!(ownership.resume(HERE));
        assert!(!ownership.take(THERE));
    }

    #[test]
    fn any_cpu_may_take_a_parked_vcpu() {
        let ownership = VcpuOwnership::new();
        assert!(!ownership.resume(HERE), "it was never taken");
        assert!(ownership.take(HERE));
        ownership.park(HERE);
        assert!(!ownership.resume(THERE));
        assert!(ownership.take(THERE));
        assert!(!ownership.resume(HERE));
        ownership.park(THERE);
        assert!(!ownership.resume(HERE));
        assert!(ownership.resume(THERE));
    }

    #[test]
    fn a_revoked_vcpu_must_be_taken_again() {
        let ownership = VcpuOwnership::new();
        ownership.revoke();
        assert!(ownership.take(HERE));
        assert!(!ownership.is_revoked());
        ownership.revoke();
        ownership.revoke();
        assert!(ownership.is_revoked());
        assert!(ownership.is_running(), "until its run is over");
        ownership.park(HERE);
        assert!(!ownership.is_running());
        assert!(!ownership.resume(HERE));
        assert!(ownership.take(HERE));
        ownership.park(HERE);
        ownership.revoke();
        assert!(!ownership.resume(HERE));
        assert!(ownership.take(THERE));
    }

    /// The model of one CPU: its relation to the vCPU.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Belief {
        Nothing,
        Runs,
        Parked,
    }

    /// Every action of two CPUs and of a holder of the VM's lock, from every reachable state.
    #[test]
    fn no_interleaving_runs_a_vcpu_twice_or_resumes_a_revoked_one() {
        use Belief::{Nothing, Parked, Runs};
        // The word, and for each CPU its belief and whether it may resume a vCPU that it parked.
        let mut seen = BTreeSet::new();
        let mut left = std::vec![(FREE, [(Nothing, false); 2])];
        while let Some((word, cpus)) = left.pop() {
            if !seen.insert((word, cpus)) {
                continue;
            }
            for step in 0..7 {
                let ownership = VcpuOwnership::new();
                ownership.word.store(word, Ordering::Relaxed);
                let (cpu, mut next) = (step % 2, cpus);
                let (other, index) = (1 - cpu, CpuIndex(cpu));
                match (step / 2, cpus[cpu].0) {
                    (0, Nothing | Parked) => {
                        let taken = ownership.take(index);
                        assert_eq!(taken, cpus[other].0 != Runs, "{word:#x} {cpus:?}");
                        if taken {
                            next[cpu] = (Runs, true);
                            next[other].1 = false;
                        }
                    }
                    (1, Parked) => {
                        let resumed = ownership.resume(index);
                        assert_eq!(resumed, cpus[cpu].1, "{word:#x} {cpus:?}");
                        next[cpu] = if resumed { (Runs, true) } else { (Nothing, false) };
                    }
                    (2, Runs) => {
                        ownership.park(index);
                        next[cpu].0 = Parked;
                    }
                    (3, _) => {
                        ownership.revoke();
                        next.iter_mut().for_each(|cpu| cpu.1 = false);
                    }
                    _ => continue,
                }
                let runs = next.iter().filter(|cpu| cpu.0 == Runs).count();
                assert!(runs <= 1, "{next:?}");
                assert_eq!(ownership.is_running(), runs == 1, "{next:?}");
                left.push((ownership.word.load(Ordering::Relaxed), next));
            }
        }
        assert!(seen.len() > 10, "{seen:?}");
    }
}
