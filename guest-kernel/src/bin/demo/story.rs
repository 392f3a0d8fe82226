//! The demo, step by step.

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec;
use core::{fmt, hint};

use guest_kernel::hyp::{self, MmioGuard};
use guest_kernel::plan::{self, BLOCK_BYTES, Geometry, Plan};
use guest_kernel::virtio::disk::Disk;
use guest_kernel::virtio::hal;
use guest_kernel::{Failure, Guest, conduit, println, time};
use sha2::{Digest as _, Sha256};
use shared_abi::addr::{Ipa, PAGE_SIZE};
use shared_abi::kvm;
use shared_abi::record::{Digest, Record, Uid};

/// Bytes of the canary.
const CANARY_BYTES: usize = 4096;

/// What is in the page that is given back.
const GIVEN_BACK: u8 = 0xa5;

/// A page of private memory that nothing else is in.
#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE as usize]);

const _: () = assert!(align_of::<Page>() as u64 == PAGE_SIZE && size_of::<Page>() as u64 == PAGE_SIZE);

/// What the demo itself finds wrong.
#[derive(Debug)]
enum Wrong {
    NoPlan,
    NoDisk,
    Size { disk: u64, plan: u64 },
    Digest { block: u64 },
    ReadBack { block: u64 },
    Memory,
    GivenBack,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPlan => f.write_str("there is no plan: the demo wants one as its initrd"),
            Self::NoDisk => f.write_str("there is no disk"),
            Self::Size { disk, plan } => {
                write!(f, "the disk has {disk} bytes, but the plan is for {plan}")
            }
            Self::Digest { block } => write!(f, "block {block} is not what the plan says"),
            Self::ReadBack { block } => write!(f, "block {block} does not read as it was written"),
            Self::Memory => f.write_str("private memory has changed"),
            Self::GivenBack => f.write_str("what came for the page given back is no page of zeroes"),
        }
    }
}

impl core::error::Error for Wrong {}

/// The payload.
pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    println!("guest: the demo payload runs");
    let mut canary = Box::new([0; CANARY_BYTES]);
    match hyp::random::<conduit::Conduit>(canary.as_mut_slice()) {
        Ok(()) => println!("guest: the hypervisor's TRNG filled a canary page"),
        Err(error) => {
            println!("guest: no random numbers ({error}); the canary is a pattern");
            canary.fill(0xc5);
        }
    }
    let private = private_digest(guest, &canary);
    describe(guest);

    if guest.initrd().is_empty() {
        return Err(Wrong::NoPlan.into());
    }
    let plan = Plan::parse(guest.initrd())?;
    let disk = guest.disk().ok_or(Wrong::NoDisk)?;
    let mut job = Job::new(disk, plan)?;
    let result = job.run();
    println!("{}", job.record());
    result?;
    println!("guest: {} blocks verified, {} bytes rewritten and read back", job.verified, job.written_bytes);

    give_back(guest)?;

    let content_intact = private_digest(guest, &canary) == private;
    println!(
        "{}",
        Record::GuestDone { content_intact, hypercalls: conduit::calls(), copied_bytes: hal::copied_bytes() }
    );
    if !content_intact {
        return Err(Wrong::Memory.into());
    }
    println!("guest: code, constants and canary are as they were; good bye");
    Ok(())
}

/// Tells what the hypervisor offers and what was made of it.
fn describe(guest: &Guest) {
    let (uid, features) = match guest.hypervisor() {
        Some(hypervisor) => (Uid(kvm::UID), hypervisor.features()),
        None => (Uid([0; 4]), 0),
    };
    println!("{}", Record::Guest { uid, features: features.into(), shares: guest.shared_pages() });
    match guest.hypervisor() {
        None => println!("guest: no KVM vendor services: not protected, nothing to share"),
        Some(hypervisor) => {
            let guard = match hypervisor.mmio_guard() {
                MmioGuard::None => "no MMIO guard",
                MmioGuard::Optional => "an MMIO guard without enrolment",
                MmioGuard::Enrolled => "enrolled in the MMIO guard",
            };
            println!(
                "guest: KVM vendor services, features {features:#x}; {guard}; {} pages shared",
                guest.shared_pages()
            );
        }
    }
}

/// Gives a page with content back to the host, where the hypervisor offers that, and touches it again:
/// the host has to bring another, which is of zeroes, and is the guest's as every other.
fn give_back(guest: &Guest) -> Result<(), Failure> {
    let Some(hypervisor) = guest.hypervisor() else { return Ok(()) };
    let mut page = Box::new(Page([GIVEN_BACK; PAGE_SIZE as usize]));
    // The hypervisor changes what is there: the compiler is told by the exposed address and the call,
    // which may change all memory.
    let ipa = Ipa(page.0.as_mut_ptr().expose_provenance() as u64);
    match hypervisor.relinquish(ipa) {
        Ok(()) => {}
        Err(hyp::Error::NotOffered) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let is_full_of = |page: &Page, byte| page.0.iter().all(|other| *other == byte);
    let came_wiped = is_full_of(&page, 0);
    page.0.fill(!GIVEN_BACK);
    if !came_wiped || !is_full_of(hint::black_box(&page), !GIVEN_BACK) {
        return Err(Wrong::GivenBack.into());
    }
    println!("guest: gave a page back, and found one of zeroes in its place");
    Ok(())
}

/// A digest of what the host must not have changed: code, constants and a page of the heap.
fn private_digest(guest: &Guest, canary: &[u8; CANARY_BYTES]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(guest.code());
    hash.update(canary);
    Digest(hash.finalize().into())
}

/// The work on the disk, and its score.
struct Job<'a> {
    disk: &'a mut Disk,
    plan: Plan<'a>,
    read_bytes: u64,
    written_bytes: u64,
    verified: u64,
    failed: u64,
    /// Of the disk's content as it will be at the end.
    content: Sha256,
    start: time::Instant,
    end: time::Instant,
}

impl<'a> Job<'a> {
    fn new(disk: &'a mut Disk, plan: Plan<'a>) -> Result<Self, Wrong> {
        let (disk_bytes, plan_bytes) = (disk.bytes(), plan.geometry().disk_bytes());
        println!("guest: a disk of {disk_bytes} bytes, {} blocks to verify", plan.geometry().blocks());
        if disk_bytes != plan_bytes {
            return Err(Wrong::Size { disk: disk_bytes, plan: plan_bytes });
        }
        let now = time::now();
        Ok(Self {
            disk,
            plan,
            read_bytes: 0,
            written_bytes: 0,
            verified: 0,
            failed: 0,
            content: Sha256::new(),
            start: now,
            end: now,
        })
    }

    fn run(&mut self) -> Result<(), Failure> {
        let result = self.verify_all().and_then(|()| self.rewrite_region());
        self.end = time::now();
        result
    }

    /// Reads and verifies every block. A wrong one does not end the pass, but is an error in the end.
    fn verify_all(&mut self) -> Result<(), Failure> {
        let geometry = self.plan.geometry().clone();
        let mut buffer = vec![0; BLOCK_BYTES as usize];
        let mut wrong = None;
        for (block, digest) in self.plan.digests() {
            let data = self.read_block(&geometry, block, &mut buffer)?;
            if plan::digest(data) == digest {
                self.verified += 1;
            } else {
                self.failed += 1;
                wrong.get_or_insert(Wrong::Digest { block });
            }
            if geometry.is_written(block) {
                plan::complement(data);
            }
            self.content.update(data);
        }
        wrong.map_or(Ok(()), |wrong| Err(wrong.into()))
    }

    /// Replaces each block of the region by its complement, and reads it back.
    fn rewrite_region(&mut self) -> Result<(), Failure> {
        let geometry = self.plan.geometry().clone();
        let mut buffer = vec![0; BLOCK_BYTES as usize];
        let mut back = vec![0; BLOCK_BYTES as usize];
        for (block, digest) in self.plan.digests() {
            if !geometry.is_written(block) {
                continue;
            }
            let data = self.read_block(&geometry, block, &mut buffer)?;
            // Between the two reads the host could have changed it.
            if plan::digest(data) != digest {
                return Err(Wrong::Digest { block }.into());
            }
            plan::complement(data);
            self.disk.write(geometry.block(block).start, data)?;
            self.written_bytes += data.len() as u64;
            if self.read_block(&geometry, block, &mut back)? != data {
                return Err(Wrong::ReadBack { block }.into());
            }
        }
        Ok(())
    }

    fn read_block<'b>(
        &mut self,
        geometry: &Geometry,
        block: u64,
        buffer: &'b mut [u8],
    ) -> Result<&'b mut [u8], Failure> {
        let span = geometry.block(block);
        let data = &mut buffer[..(span.end - span.start) as usize];
        if let Err(error) = self.disk.read(span.start, data) {
            self.failed += 1;
            return Err(error.into());
        }
        self.read_bytes += data.len() as u64;
        Ok(data)
    }

    fn record(&self) -> Record<'static> {
        Record::Disk {
            read_bytes: self.read_bytes,
            written_bytes: self.written_bytes,
            blocks_verified: self.verified,
            blocks_failed: self.failed,
            sha256: Digest(self.content.clone().finalize().into()),
            ticks: self.end.0 - self.start.0,
            frequency_hz: time::frequency_hz(),
        }
    }
}
