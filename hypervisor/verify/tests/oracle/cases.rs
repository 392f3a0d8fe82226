//! The tampered states, and the difference that the oracle must report for each.

use hyp_core::limits::{CpuIndex, VmIndex};
use hyp_core::machine::Machine;
use hyp_core::machine::geometry::Level;
use hyp_core::memory::stage2::descriptor::{MemoryType, leaf, table};
use hyp_core::ownership::host::HostAccess;
use hyp_core::ownership::page_state::PageState;
use hyp_core::verify::tamper;
use hyp_verify::oracle::{OracleRule, Party};
use shared_abi::addr::{Gfn, Pfn};

use super::scene::{
    BLOCK, HOST, HOST_IN_SPLIT_BLOCK, LENT, OFFSET, POOLS, PRIVATE, SHARED, Scene, object_page,
};
use crate::bench_machine::*;

/// The Access flag of a descriptor. The constants after it are single bits too.
const ACCESS_FLAG: u64 = 1 << 10;
const CONTIGUOUS: u64 = 1 << 52;
const NEVER_EXECUTED: u64 = 1 << 54;

pub(super) type Case = (&'static str, fn(&Scene), OracleRule, Party, u64);

/// The tampered states, and the difference that the oracle must report for each.
pub(super) const CASES: &[Case] = {
    use Party::{Host, Hypervisor};
    const FIRST: Party = Party::Vm(VmIndex(0));
    const SECOND: Party = Party::Vm(VmIndex(1));
    const THIRD: Party = Party::Vm(VmIndex(2));
    &[
        (
            "the host reaches a private page",
            |scene| scene.map(scene.hypervisor.host_stage2_id(), PRIVATE, PRIVATE),
            OracleRule::Private,
            Host,
            PRIVATE,
        ),
        (
            "the host does not reach what is shared with it",
            |scene| scene.tamper(scene.hypervisor.host_stage2_id(), SHARED, |_| 0),
            OracleRule::Shared,
            Host,
            SHARED,
        ),
        (
            "the host does not reach its own page",
            |scene| scene.tamper(scene.hypervisor.host_stage2_id(), HOST_IN_SPLIT_BLOCK, |_| 0),
            OracleRule::Host,
            Host,
            HOST_IN_SPLIT_BLOCK,
        ),
        (
            "a guest reaches a host page",
            |scene| scene.map(scene.stage2_id(0), GUEST_FIRST + OFFSET + 2, HOST),
            OracleRule::Host,
            FIRST,
            HOST,
        ),
        (
            "the host does not reach what it lent",
            |scene| scene.tamper(scene.hypervisor.host_stage2_id(), LENT, |_| 0),
            OracleRule::Lent,
            Host,
            LENT,
        ),
        (
            "a protected VM borrows",
            |scene| {
                scene.falsify(PRIVATE, PageState::lent(object_page(0, OFFSET + 1)));
                scene.map(scene.hypervisor.host_stage2_id(), PRIVATE, PRIVATE);
            },
            OracleRule::Lent,
            FIRST,
            PRIVATE,
        ),
        (
            "an ordinary VM owns",
            |scene| {
                scene.falsify(LENT, PageState::guest(object_page(2, 0)));
                scene.tamper(scene.hypervisor.host_stage2_id(), LENT, |_| 0);
            },
            OracleRule::Private,
            THIRD,
            LENT,
        ),
        (
            "the host reaches a page of a pool",
            |scene| scene.map(scene.hypervisor.host_stage2_id(), POOLS[0].0, POOLS[0].0),
            OracleRule::Kept,
            Host,
            POOLS[0].0,
        ),
        (
            "a guest reaches its own tables",
            |scene| scene.map(scene.stage2_id(0), GUEST_FIRST + OFFSET + 2, POOLS[0].0),
            OracleRule::Kept,
            FIRST,
            POOLS[0].0,
        ),
        (
            "a guest reaches the hypervisor",
            |scene| scene.map(scene.stage2_id(0), GUEST_FIRST + OFFSET + 2, RESERVED.0),
            OracleRule::Kept,
            FIRST,
            RESERVED.0,
        ),
        (
            "a table is in a host page",
            |scene| scene.tamper(scene.stage2_id(1), 0, |_| table(Pfn(HOST))),
            OracleRule::Custody,
            SECOND,
            HOST,
        ),
        (
            "a vCPU's registers are in a host page",
            |scene| tamper::move_context(&scene.hypervisor, VmIndex(0), Pfn(HOST)),
            OracleRule::Custody,
            FIRST,
            HOST,
        ),
        (
            "a guest does not reach its page",
            |scene| scene.tamper(scene.stage2_id(0), GUEST_FIRST + OFFSET + 1, |_| 0),
            OracleRule::Bijection,
            FIRST,
            PRIVATE,
        ),
        (
            "a guest reaches another page of its own",
            |scene| scene.map(scene.stage2_id(0), GUEST_FIRST + OFFSET + 1, SHARED),
            OracleRule::Bijection,
            FIRST,
            PRIVATE,
        ),
        (
            "a record names another page of the object",
            |scene| scene.falsify(PRIVATE, PageState::guest(object_page(0, OFFSET + 2))),
            OracleRule::Bijection,
            FIRST,
            PRIVATE,
        ),
        (
            "a record names a VM that is not there",
            |scene| scene.falsify(PRIVATE, PageState::guest(object_page(7, OFFSET + 1))),
            OracleRule::Bijection,
            Party::Vm(VmIndex(7)),
            PRIVATE,
        ),
        (
            "a record gives a page away that the object has",
            |scene| {
                scene.falsify(PRIVATE, PageState::HOST);
                scene.map(scene.hypervisor.host_stage2_id(), PRIVATE, PRIVATE);
            },
            OracleRule::Host,
            FIRST,
            PRIVATE,
        ),
        (
            "a page is in two guests",
            |scene| scene.map(scene.stage2_id(1), GUEST_FIRST + 1, PRIVATE),
            OracleRule::Once,
            SECOND,
            PRIVATE,
        ),
        (
            "a page is at two places of a guest",
            |scene| scene.map(scene.stage2_id(0), GUEST_FIRST + OFFSET + 2, PRIVATE),
            OracleRule::Once,
            FIRST,
            PRIVATE,
        ),
        (
            "a block miscounts",
            |scene| tamper::miscount(&scene.hypervisor, Pfn(SHARED)),
            OracleRule::Counts,
            Hypervisor,
            SHARED,
        ),
        (
            "a VM miscounts what it shares",
            |scene| tamper::overcount_shared(&scene.hypervisor, VmIndex(0)),
            OracleRule::Counts,
            FIRST,
            POOLS[0].0,
        ),
        (
            "a page of a pool is lost",
            |scene| tamper::lose_pool_page(&scene.hypervisor, VmIndex(1)),
            OracleRule::Counts,
            SECOND,
            POOLS[1].0,
        ),
        (
            "a pool has no VM",
            |scene| {
                scene.falsify(HOST, PageState::pool(VmIndex(9)));
                let stage2_id = scene.hypervisor.host_stage2_id();
                let (table, index, _) = scene.slot(stage2_id, HOST);
                scene.machine().write_entry(table, index, 0);
                for page in HOST + 1..HOST + 4 {
                    scene.falsify(page, PageState::pool(VmIndex(9)));
                }
            },
            OracleRule::Counts,
            Party::Vm(VmIndex(9)),
            HOST,
        ),
        (
            "the host reaches a denied device",
            |scene| {
                scene.hypervisor.host_abort(Gfn(2).base(), HostAccess::Read);
                scene.tamper(scene.hypervisor.host_stage2_id(), DENIED.0, |_| {
                    leaf(Level::Three, Pfn(DENIED.0), MemoryType::Device)
                });
            },
            OracleRule::Devices,
            Host,
            DENIED.0,
        ),
        (
            "a guest reaches a device",
            |scene| scene.map(scene.stage2_id(0), GUEST_FIRST + OFFSET + 2, 120),
            OracleRule::Devices,
            FIRST,
            120,
        ),
        (
            "the host reaches one page for another",
            |scene| scene.map(scene.hypervisor.host_stage2_id(), HOST_IN_SPLIT_BLOCK, SHARED),
            OracleRule::Identity,
            Host,
            HOST_IN_SPLIT_BLOCK,
        ),
        (
            "RAM is not accessed",
            |scene| {
                scene.tamper(scene.stage2_id(0), GUEST_FIRST + 4, |leaf| leaf & !ACCESS_FLAG);
            },
            OracleRule::Attributes,
            FIRST,
            BLOCK,
        ),
        (
            "RAM is not executable",
            |scene| {
                scene.tamper(scene.hypervisor.host_stage2_id(), SHARED, |leaf| leaf | NEVER_EXECUTED);
            },
            OracleRule::Attributes,
            Host,
            SHARED,
        ),
        (
            "a leaf is contiguous",
            |scene| {
                scene.tamper(scene.stage2_id(0), GUEST_FIRST + OFFSET, |leaf| leaf | CONTIGUOUS);
            },
            OracleRule::Attributes,
            FIRST,
            SHARED,
        ),
        (
            "a device is memory",
            |scene| {
                scene.hypervisor.host_abort(Gfn(2).base(), HostAccess::Read);
                scene.map(scene.hypervisor.host_stage2_id(), 2, 2);
            },
            OracleRule::Attributes,
            Host,
            2,
        ),
        (
            "an entry is invalid and not zero",
            |scene| scene.tamper(scene.stage2_id(0), GUEST_FIRST, |_| 2),
            OracleRule::Attributes,
            FIRST,
            GUEST_FIRST,
        ),
        (
            "a VM is torn down while it runs",
            |scene| tamper::die_while_running(&scene.hypervisor, VmIndex(0), CpuIndex(1)),
            OracleRule::Dead,
            FIRST,
            0,
        ),
    ]
};
