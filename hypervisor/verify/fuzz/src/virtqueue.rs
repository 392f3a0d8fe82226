//! Target: the device side of a virtqueue. The driver writes anything into its rings, also while the device reads
//! them. The target checks:
//!
//! * The device accesses no page that the guest has not shared.
//! * The device writes only to its used ring, and to the buffers of the current chain that a descriptor, as the
//!   device read it, makes writable.
//! * The length that the device reports is at most that of these buffers.
//! * A doorbell causes a bounded amount of work.

mod device;
mod memory;
mod seeds;

use host::memory::GuestMemory;
use host::virtio::queue::{Areas, MAX_SIZE, Queue};
use shared_abi::addr::Ipa;

use crate::input::Input;
use device::Device;
use memory::{Memory, Race, page_map};
pub use seeds::seeds;

/// The start of the guest's memory.
const GUEST: Ipa = Ipa(0x4000_0000);

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const DESCRIPTOR_BYTES: u64 = 16;

/// Runs the target on an input: a byte for the kind of device, then steps.
pub fn run(data: &[u8]) {
    /// The limit of doorbells, because one may copy megabytes.
    const MAX_DOORBELLS: u32 = 4;
    let mut input = Input::new(data);
    let mut device = Device::new(input.u8());
    let memory = Memory::default();
    let pages = page_map();
    let mut queue = None;
    let mut available = 0_u16;
    let mut areas = AREAS;
    let mut doorbells = 0;
    while !input.is_empty() && doorbells < MAX_DOORBELLS {
        match input.u8() % 8 {
            0 => {
                let at = input.u16();
                let length = input.u8();
                let bytes = input.bytes(length.into()).to_vec();
                memory.0.borrow_mut().poke(at, &bytes);
            }
            1 => {
                // Another vCPU's write while the device works.
                let race =
                    Race { after: input.u8().into(), at: input.u16(), bytes: input.u64().to_le_bytes() };
                memory.0.borrow_mut().races.push(race);
            }
            2 => {
                areas = Areas {
                    size: u32::try_from(input.number()).unwrap_or(u32::MAX),
                    descriptors: place(&mut input),
                    driver: place(&mut input),
                    device: place(&mut input),
                };
                queue = Queue::new(&areas).ok();
                available = 0;
                check_areas(&areas, queue.as_ref());
            }
            3 => {
                let page = input.u8() % 16;
                memory.0.borrow_mut().private ^= 1 << page;
            }
            4 => {
                let (index, buffer) = (input.u8(), place(&mut input));
                let (length, flags) = (input.number(), u16::from(input.u8()));
                let mut bytes = buffer.0.to_le_bytes().to_vec();
                bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
                bytes.extend(flags.to_le_bytes());
                bytes.extend(u16::from(input.u8()).to_le_bytes());
                let at = areas.descriptors.0.wrapping_add(DESCRIPTOR_BYTES * u64::from(index));
                memory.0.borrow_mut().poke(offset(Ipa(at)), &bytes);
            }
            5 => {
                let slot = u64::from(available) % u64::from(areas.size.max(1));
                available = available.wrapping_add(1);
                let head = u16::from(input.u8()).to_le_bytes();
                let mut state = memory.0.borrow_mut();
                state.poke(offset(Ipa(areas.driver.0.wrapping_add(4 + 2 * slot))), &head);
                let index = offset(Ipa(areas.driver.0.wrapping_add(2)));
                state.poke(index, &available.to_le_bytes());
            }
            _ => {
                if let Some(ready) = &mut queue {
                    doorbells += 1;
                    memory.0.borrow_mut().begin(&areas);
                    let served = device.serve(ready, &GuestMemory::new(&pages, &memory));
                    memory.0.borrow_mut().end(&served);
                    if served.is_err() {
                        queue = None;
                    }
                }
            }
        }
    }
    device.check();
}

/// The areas that an honest driver would use.
const AREAS: Areas =
    Areas { size: 8, descriptors: GUEST, driver: Ipa(GUEST.0 + 0x1000), device: Ipa(GUEST.0 + 0x2000) };

/// Reads an address, usually in the guest's memory.
fn place(input: &mut Input<'_>) -> Ipa {
    match input.u8() {
        0xff => Ipa(input.u64()),
        high => Ipa(GUEST.0 + (u64::from(high) << 8) + u64::from(input.u8())),
    }
}

fn offset(ipa: Ipa) -> u16 {
    u16::try_from(ipa.0.wrapping_sub(GUEST.0) & 0xffff).expect("16 bits")
}

/// Checks that exactly the valid sizes and areas make a queue (virtio 1.3, 2.7).
fn check_areas(areas: &Areas, queue: Option<&Queue>) {
    let size = u64::from(areas.size);
    let sound = size.is_power_of_two()
        && size <= MAX_SIZE.into()
        && [
            (areas.descriptors, 16, 16 * size),
            (areas.driver, 2, 4 + 2 * size),
            (areas.device, 4, 4 + 8 * size),
        ]
        .iter()
        .all(|(area, alignment, bytes)| {
            area.0.is_multiple_of(*alignment) && area.0.checked_add(*bytes).is_some()
        });
    assert_eq!(queue.is_some(), sound, "{areas:?}");
}
