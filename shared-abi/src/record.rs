//! The lines by which hypervisor, host and guest report to the tool.
//!
//! A record is one line on a console: [`PREFIX`], the record's name, then `key=value` words. All other lines on that
//! console are for people. The console tells which party made the record: the hypervisor uses the second PL011, the
//! host the first one, the guest the virtio console. A record from the host proves nothing about a guest's secrecy,
//! so the tool takes each fact from the party that knows it.

use core::fmt;

use crate::bench::Operation;

/// The start of a record's line.
pub const PREFIX: &str = "@cloister ";

/// A SHA-256 digest, printed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A VM's start at EL2 includes this, so the digits are written at once.
        let mut text = [0; 64];
        let (pairs, _) = text.as_chunks_mut();
        for ([high, low], byte) in pairs.iter_mut().zip(self.0) {
            (*high, *low) = (hexadecimal(byte >> 4), hexadecimal(byte & 0xf));
        }
        core::str::from_utf8(&text).map_or(Err(fmt::Error), |text| f.write_str(text))
    }
}

/// Returns the hexadecimal digit of a value below 16.
const fn hexadecimal(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'a' - 10 + digit }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value in a record: written as a word, and parsed from it.
trait Word {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
    fn read(word: &str) -> Option<Self>
    where
        Self: Sized;
}

impl Word for u64 {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
    fn read(word: &str) -> Option<Self> {
        word.parse().ok()
    }
}

impl Word for bool {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
    fn read(word: &str) -> Option<Self> {
        word.parse().ok()
    }
}

impl Word for Digest {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
    fn read(word: &str) -> Option<Self> {
        let mut digest = [0; 32];
        if word.len() != 64 {
            return None;
        }
        for (index, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(word.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Self(digest))
    }
}

/// The hypervisor's UID that a guest read: w0 to w3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Uid(pub [u32; 4]);

impl Word for Uid {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.0;
        write!(f, "{a:08x}{b:08x}{c:08x}{d:08x}")
    }
    fn read(word: &str) -> Option<Self> {
        let mut uid = [0; 4];
        if word.len() != 32 {
            return None;
        }
        for (index, part) in uid.iter_mut().enumerate() {
            *part = u32::from_str_radix(word.get(8 * index..8 * index + 8)?, 16).ok()?;
        }
        Some(Self(uid))
    }
}

/// How a guest's VM stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestEnd {
    /// PSCI SYSTEM_OFF.
    Off,
    /// PSCI SYSTEM_RESET.
    Reset,
    /// All its vCPUs turned themselves off, or the hypervisor or the VMM stopped it.
    Stopped,
}

impl Word for GuestEnd {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Reset => "reset",
            Self::Stopped => "stopped",
        })
    }
    fn read(word: &str) -> Option<Self> {
        [("off", Self::Off), ("reset", Self::Reset), ("stopped", Self::Stopped)]
            .into_iter()
            .find_map(|(name, end)| (name == word).then_some(end))
    }
}

impl Word for Operation {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
    fn read(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|operation| operation.name() == word)
    }
}

macro_rules! records {
    ($($(#[$doc:meta])* $variant:ident $name:literal {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
    })*) => {
        /// A report. Each variant's documentation starts with the party that makes it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Record<'a> {
            $($(#[$doc])* $variant {
                $($(#[$field_doc])* $field: $type,)*
            },)*
            /// Hypervisor: it panicked. The machine powers off next.
            Panic {
                /// The place and the reason, up to the end of the line.
                message: &'a str,
            },
            /// Hypervisor, before the host runs: it cannot accept the image or the machine. Host: it cannot go on.
            /// The machine powers off next.
            Refused {
                /// The reason, up to the end of the line.
                message: &'a str,
            },
        }

        impl fmt::Display for Record<'_> {
            /// Writes the record's line, without a line end.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(PREFIX)?;
                match self {
                    $(Self::$variant { $($field,)* } => {
                        write_words(f, $name, &[$((stringify!($field), $field),)*])
                    })*
                    Self::Panic { message } => write!(f, "panic {message}"),
                    Self::Refused { message } => write!(f, "refused {message}"),
                }
            }
        }

        impl<'a> Record<'a> {
            /// Parses a line. Returns `None` if it is no record of this version.
            #[must_use]
            pub fn parse(line: &'a str) -> Option<Self> {
                let rest = line.trim_end().strip_prefix(PREFIX)?;
                let (name, words) = rest.split_once(' ').unwrap_or((rest, ""));
                match name {
                    $($name => Some(Self::$variant {
                        $($field: field(words, stringify!($field))?,)*
                    }),)*
                    "panic" => Some(Self::Panic { message: words }),
                    "refused" => Some(Self::Refused { message: words }),
                    _ => None,
                }
            }
        }
    };
}

fn write_words(f: &mut fmt::Formatter<'_>, name: &str, fields: &[(&str, &dyn Word)]) -> fmt::Result {
    f.write_str(name)?;
    for (key, value) in fields {
        f.write_str(" ")?;
        f.write_str(key)?;
        f.write_str("=")?;
        value.write(f)?;
    }
    Ok(())
}

fn field<T: Word>(words: &str, key: &str) -> Option<T> {
    words.split(' ').find_map(|word| T::read(word.strip_prefix(key)?.strip_prefix('=')?))
}

records! {
    /// Hypervisor: it owns EL2 and its memory.
    Hypervisor "hypervisor" {
        /// The memory that it keeps for itself, in bytes.
        memory_bytes: u64,
        /// The same memory in pages.
        pages: u64,
        /// The number of CPUs in the device tree.
        cpus: u64,
        /// The size of its executable code, in bytes.
        text_bytes: u64,
        /// The machine's RAM, in bytes.
        ram_bytes: u64,
    }
    /// Hypervisor: a CPU runs the host's code next, for the first time since the CPU was started.
    HostCpu "host-cpu" {
        /// MPIDR_EL1.Aff0 of the CPU.
        cpu: u64,
        /// HCR_EL2.VM, as read back from the register.
        stage2: bool,
    }
    /// Hypervisor: a VM starts.
    VmStart "vm-start" {
        /// The VM's memory is private by default.
        protected: bool,
        /// The measurement is the one in the manifest.
        measured: bool,
        /// The measurement.
        measurement: Digest,
        /// The number of vCPUs.
        vcpus: u64,
        /// The number of pages populated so far: measured, wiped or lent.
        pages: u64,
    }
    /// Hypervisor: a VM is destroyed, and all its pages are the host's again.
    VmEnd "vm-end" {
        /// The number of pages that came back wiped over its life. Lent pages are not counted.
        pages_returned: u64,
        /// The number of hypercalls that the hypervisor completed.
        hypercalls: u64,
        /// The number of exits to the host.
        exits: u64,
    }
    /// Hypervisor with the oracle, before it powers off: the number of checks, none of which found a difference.
    Oracle "oracle" {
        /// The number of checks of all pages and parties.
        checks: u64,
    }
    /// Hypervisor: the host asked for power-off or reset. The machine powers off next.
    PowerOff "power-off" {
        /// The number of faults injected into the host since boot.
        host_faults: u64,
    }
    /// Host: it has started.
    Host "host" {
        /// CurrentEL.EL: the exception level.
        el: u64,
        /// The number of CPUs that came up.
        cpus: u64,
    }
    /// Host: the VM is built and starts next.
    Vm "vm" {
        /// The size of its memory object in bytes.
        object_bytes: u64,
        /// The number of pages donated to it so far, with those of the pool.
        pages_donated: u64,
        /// The number of vCPUs.
        vcpus: u64,
    }
    /// Host: it tried to read and to write a private page of the guest.
    Attack "attack" {
        /// The read took a fault.
        read_faulted: bool,
        /// The write took a fault.
        write_faulted: bool,
    }
    /// Host: the VM has stopped. The fields are its costs.
    GuestEnd "guest-end" {
        /// How it stopped.
        reason: GuestEnd,
        /// The number of pages donated over its life, with those of the pool.
        pages_donated: u64,
        /// The number of exits that the VMM handled.
        exits: u64,
        /// The number of bytes that the VMM copied between shared memory and its own.
        copied_bytes: u64,
        /// The number of block requests served.
        requests: u64,
    }
    /// Host: it has read every page that came back.
    Teardown "teardown" {
        /// The number of pages that it read.
        pages_returned: u64,
        /// The number of pages that were not all zeroes.
        pages_nonzero: u64,
    }
    /// Guest: its hypervisor, and the pages that it shares.
    Guest "guest" {
        /// The vendor-hypervisor UID.
        uid: Uid,
        /// Word 0 of the result of FEATURES.
        features: u64,
        /// The number of pages that it shared.
        shares: u64,
    }
    /// Guest: its disk job is complete.
    Disk "disk" {
        /// Bytes read.
        read_bytes: u64,
        /// Bytes written.
        written_bytes: u64,
        /// The number of blocks with the right digest.
        blocks_verified: u64,
        /// The number of blocks with a wrong digest, or that could not be read.
        blocks_failed: u64,
        /// SHA-256 of the disk's content after the job.
        sha256: Digest,
        /// Duration in ticks of CNTVCT_EL0.
        ticks: u64,
        /// CNTFRQ_EL0.
        frequency_hz: u64,
    }
    /// Guest: it has finished. The fields tell whether its private memory is intact, and its costs.
    GuestDone "guest-done" {
        /// The hash of its code, constants and a canary page is still that of the start.
        content_intact: bool,
        /// The number of hypercalls made.
        hypercalls: u64,
        /// The number of bytes copied between private and shared memory.
        copied_bytes: u64,
    }
    /// Guest or host, in a benchmark: a timed operation of its own.
    Sample "sample" {
        /// The operation.
        operation: Operation,
        /// CNTVCT_EL0 before it.
        start: u64,
        /// CNTVCT_EL0 after it.
        end: u64,
        /// The number of operations: 1, or the pages of one call.
        units: u64,
    }
    /// Host, in a benchmark: a call to the hypervisor.
    Crossing "crossing" {
        /// CNTVCT_EL0 right before the call.
        entered: u64,
        /// CNTVCT_EL0 right after it.
        left: u64,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn records_round_trip() {
        let records = [
            Record::Hypervisor { memory_bytes: 1, pages: 2, cpus: 3, text_bytes: 4, ram_bytes: 5 },
            Record::HostCpu { cpu: 3, stage2: true },
            Record::VmStart {
                protected: true,
                measured: false,
                measurement: Digest([0xa5; 32]),
                vcpus: 1,
                pages: 7,
            },
            Record::GuestEnd {
                reason: GuestEnd::Reset,
                pages_donated: 1,
                exits: 2,
                copied_bytes: 3,
                requests: 4,
            },
            Record::Guest { uid: Uid(crate::kvm::UID), features: 0x1fd, shares: 9 },
            Record::Sample { operation: Operation::MmioExit, start: 1, end: 2, units: 3 },
            Record::Panic { message: "at x.rs:1: a = b" },
            Record::Refused { message: "the manifest's digest is wrong" },
        ];
        for record in records {
            let line = record.to_string();
            assert_eq!(Record::parse(&line), Some(record), "{line}");
        }
    }

    #[test]
    fn other_lines_are_no_records() {
        assert_eq!(Record::parse("hello"), None);
        assert_eq!(Record::parse("@cloister unknown a=1"), None);
        assert_eq!(Record::parse("@cloister host el=1"), None);
        assert_eq!(Record::parse("@cloister host el=x cpus=1"), None);
    }

    #[test]
    fn a_digest_has_its_length() {
        assert_eq!(Digest::read(&"5a".repeat(32)), Some(Digest([0x5a; 32])));
        assert_eq!(std::format!("{:?}", Digest([0x5a; 32])), "5a".repeat(32));
        for other in ["5a".repeat(31), "5a".repeat(33), "\u{e9}".repeat(32), "5\u{e9}a".repeat(16)] {
            assert_eq!(Digest::read(&other), None, "{other}");
        }
        assert_eq!(Uid::read(&"5a".repeat(16)), Some(Uid([0x5a5a_5a5a; 4])));
        for other in ["5a".repeat(15), "5a".repeat(17), "\u{e9}".repeat(16), "5\u{e9}a".repeat(8)] {
            assert_eq!(Uid::read(&other), None, "{other}");
        }
    }

    #[test]
    fn a_key_is_a_whole_word() {
        assert_eq!(Record::parse("@cloister host xel=7 el=1 cpus=2"), Some(Record::Host { el: 1, cpus: 2 }));
    }
}
