//! Maintenance and control registers: each instruction of a sequence is there, and in its order.
//!
//! The order of TLB maintenance is the core's own statement of it ([`Maintenance`]), run on a recorder.

use std::cell::RefCell;

use hyp_core::machine::event::{Barrier, Scope};
use hyp_core::machine::maintenance::Maintenance;
use hyp_core::machine::{Stage2Id, Vmid};
use shared_abi::addr::Pa;

use crate::binary::shipped;

/// Writes down the instructions of a sequence.
#[derive(Default)]
struct Recorder(RefCell<Vec<String>>);

impl Recorder {
    fn note(&self, names: &[&str]) {
        self.0.borrow_mut().extend(names.iter().map(|name| (*name).to_owned()));
    }
}

impl Maintenance for Recorder {
    fn barrier(&self, barrier: Barrier) {
        self.note(&[match barrier {
            Barrier::DsbIshst => "DSB ISHST",
            Barrier::DsbIsh => "DSB ISH",
            Barrier::DsbNsh => "DSB NSH",
            Barrier::Isb => "ISB",
        }]);
    }

    fn forget(&self, scope: Scope) {
        self.note(&[match scope {
            Scope::Ipa(_) => "TLBI IPAS2E1IS",
            Scope::Combined => "TLBI VMALLE1IS",
            Scope::All => "TLBI VMALLS12E1IS",
            Scope::CombinedHere => "TLBI VMALLE1",
            Scope::InstructionsHere => "IC IALLU",
        }]);
    }

    fn in_stage2(&self, _: Stage2Id, f: impl FnOnce()) {
        // The ISB makes the VMID that of what follows (Arm ARM DDI0487, B2.6.2: context synchronization).
        self.note(&["MRS VTTBR_EL2", "MSR VTTBR_EL2", "ISB"]);
        f();
        self.note(&["MSR VTTBR_EL2", "ISB"]);
    }
}

/// The instructions that a sequence of the core's takes.
fn recorded(sequence: impl FnOnce(&Recorder)) -> Vec<String> {
    let recorder = Recorder::default();
    sequence(&recorder);
    recorder.0.into_inner()
}

fn list(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Each way through a function has one of these sequences, and each of them is there.
#[track_caller]
fn exactly(path: &[&str], mut expected: Vec<Vec<String>>) {
    expected.sort();
    assert_eq!(shipped().function(path).sequences(), expected, "{}", path.join("::"));
}

const SPACE: Stage2Id = Stage2Id { root: Pa(0), vmid: Vmid(1) };

#[test]
fn tlb_maintenance_is_what_the_core_states() {
    exactly(&["maintenance", "publish"], vec![recorded(Maintenance::publish)]);
    exactly(&["maintenance", "invalidate_all"], vec![recorded(|to| to.invalidate_all(SPACE))]);
    exactly(&["maintenance", "forget_previous_vcpu"], vec![recorded(|to| to.forget_previous_vcpu(SPACE))]);

    // A loop over pages: no page, one or two.
    let of_pages = |pages: u64| recorded(|to| to.invalidate(SPACE, 0..pages));
    let found = shipped().function(&["maintenance", "invalidate"]).sequences();
    for sequence in &found {
        assert!((0..3).any(|pages| *sequence == of_pages(pages)), "{sequence:#?}");
    }
    assert!(found.contains(&of_pages(1)) && found.contains(&of_pages(2)), "{found:#?}");
}

/// What [`Machine::wipe`](hyp_core::machine::Machine::wipe) and `clean` promise: zeroes at the point of coherency
/// (DC ZVA, DC CIVAC, DSB ISH), and instruction caches that forgot (IC IALLUIS, DSB ISH; Arm ARM DDI0487, B2.4.4).
#[test]
fn cache_maintenance_is_complete_before_pages_change_hands() {
    // With DIC instruction caches need none (CTR_EL0).
    let forgets = ["MRS CTR_EL0", "IC IALLUIS", "DSB ISH"];
    let needs_not = ["MRS CTR_EL0", "DSB ISH"];
    exactly(&["maintenance", "forget_instructions"], vec![list(&forgets), list(&needs_not)]);
    exactly(&["maintenance", "clean_and_invalidate"], vec![list(&["MRS CTR_EL0", "DC CIVAC", "DSB ISH"])]);
    exactly(
        &["maintenance", "clean"],
        vec![list(&["call clean_and_invalidate", "call forget_instructions"])],
    );
    let sizes = ["MRS CTR_EL0", "MRS DCZID_EL0"];
    let by_lines = ["DC ZVA", "DC CIVAC", "DSB ISH", "call forget_instructions"];
    let by_stores = ["call memset", "call clean_and_invalidate", "call forget_instructions"];
    exactly(
        &["maintenance", "wipe"],
        [&by_lines[..], &by_stores].map(|way| list(&[&sizes, way].concat())).to_vec(),
    );
}

/// The values are compared by the hypervisor's own test (`hypervisor/src/controls/tests.rs`).
#[test]
fn control_registers_are_written_at_each_switch() {
    let switched = list(&[
        "MSR VTTBR_EL2",
        "MSR HCR_EL2",
        "MSR CPTR_EL2",
        "MSR MDCR_EL2",
        "MSR CNTHCTL_EL2",
        "MSR VMPIDR_EL2",
        "ISB",
    ]);
    exactly(&["state", "select_host"], vec![switched.clone()]);
    exactly(&["state", "select_guest"], vec![switched]);
    exactly(&["state", "untrap_fp"], vec![list(&["MRS CPTR_EL2", "MSR CPTR_EL2", "ISB"])]);

    let list_registers = ["ICH_LR0_EL2", "ICH_LR1_EL2", "ICH_LR2_EL2", "ICH_LR3_EL2"];
    let all = ["ICH_VMCR_EL2", "ICH_AP0R0_EL2", "ICH_AP1R0_EL2"].into_iter().chain(list_registers);
    let each = |verb: &str| all.clone().map(|register| format!("{verb} {register}")).collect::<Vec<_>>();
    // On before it is given, off once all is stored.
    let turned = list(&["MSR ICH_HCR_EL2"]);
    exactly(&["gic", "load"], vec![[each("MSR"), turned.clone()].concat()]);
    exactly(&["gic", "save"], vec![[each("MRS"), turned].concat()]);
}

#[test]
fn each_cpu_sets_its_control_registers_up() {
    exactly(&["vectors", "install"], vec![list(&["MSR VBAR_EL2", "ISB"])]);
    let takes = ["MSR HCR_EL2", "MSR ICC_SRE_EL2", "ISB", "MRS HCR_EL2"];
    exactly(&["cpu", "take_el2"], vec![list(&takes), list(&[&takes[..], &["MRS ICH_VTR_EL2"]].concat())]);
    exactly(
        &["Stage1", "enable"],
        vec![list(&[
            "MRS ID_AA64MMFR0_EL1",
            "TLBI ALLE2",
            "MSR MAIR_EL2",
            "MSR TCR_EL2",
            "MSR TTBR0_EL2",
            "DSB ISH",
            "ISB",
            "MSR SCTLR_EL2",
            "ISB",
        ])],
    );
    exactly(
        &["state", "init_cpu"],
        vec![list(&[
            "MRS MIDR_EL1",
            "MRS ID_AA64MMFR0_EL1",
            "MSR VTCR_EL2",
            "MSR HSTR_EL2",
            "MSR CNTVOFF_EL2",
            "MSR VPIDR_EL2",
            "MSR SCTLR_EL1",
            "ISB",
            "call no_extensions",
            "call init_cpu",
            "TLBI ALLE1",
            "DSB NSH",
            "ISB",
        ])],
    );

    // Each group of registers is there if the CPU has it.
    let looks = ["MRS ID_AA64DFR0_EL1", "MRS ID_AA64MMFR0_EL1", "MRS ID_AA64MMFR1_EL1"];
    let groups = [
        &["MSR TRFCR_EL1", "MSR TRFCR_EL2"][..],
        &["MSR HCRX_EL2"],
        &["MSR HFGRTR_EL2", "MSR HFGWTR_EL2", "MSR HFGITR_EL2", "MSR HDFGRTR_EL2", "MSR HDFGWTR_EL2"],
    ];
    let chosen = |choice: usize| {
        let groups = groups.iter().enumerate().filter(|(group, _)| choice >> group & 1 == 1);
        list(&groups.fold(looks.to_vec(), |all, (_, group)| [&all, *group].concat()))
    };
    exactly(&["state", "no_extensions"], (0..8).map(chosen).collect());

    let mut clears = list(&["MRS ICH_VTR_EL2", "MSR ICH_HCR_EL2"]);
    clears.extend((0..16).map(|register| format!("MSR ICH_LR{register}_EL2")));
    assert_eq!(shipped().function(&["gic", "init_cpu"]).listing(), clears);
}
