//! The lines by which hypervisor, host and guest report to the tool.
//!
//! A record is one line on a console: [`PREFIX`], the record's name, then `key=value` words. Everything
//! else on that console is for people. Whose word a record is depends on the console that it came by:
//! the hypervisor's is the second PL011, the host's the first, the guest's the virtio console. A record
//! of the host's proves nothing about a guest's secrecy; the tool takes each fact from the party that
//! knows it.

use core::fmt;

use crate::bench::Operation;

/// What a record's line starts with.
pub const PREFIX: &str = "@cloister ";

/// A SHA-256 digest, printed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // At EL2 this is part of what a start costs, so it is done in one piece.
        let mut text = [0; 64];
        let (pairs, _) = text.as_chunks_mut();
        for ([high, low], byte) in pairs.iter_mut().zip(self.0) {
            (*high, *low) = (hexadecimal(byte >> 4), hexadecimal(byte & 0xf));
        }
        core::str::from_utf8(&text).map_or(Err(fmt::Error), |text| f.write_str(text))
    }
}

/// A digit below 16.
const fn hexadecimal(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'a' - 10 + digit }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value of a record: how it is written as a word and read back.
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

/// The UID of the hypervisor that a guest found: four words of w0 to w3.
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

/// How a guest's VM ended.
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
        /// A report. The documentation of each says who makes it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Record<'a> {
            $($(#[$doc])* $variant {
                $($(#[$field_doc])* $field: $type,)*
            },)*
            /// Hypervisor: it panicked. The machine powers off next.
            Panic {
                /// Where and why: the rest of the line.
                message: &'a str,
            },
            /// Hypervisor, before the host runs: the image, the machine or a launch is not acceptable.
            /// Host: it can't go on. The machine powers off next.
            Refused {
                /// What is wrong: the rest of the line.
                message: &'a str,
            },
        }

        impl fmt::Display for Record<'_> {
            /// Writes the record's whole line, without its end.
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
            /// Reads a line; `None` if it is no record, or not one of this version.
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
        /// All memory that it keeps for itself, in bytes.
        memory_bytes: u64,
        /// The same in pages.
        pages: u64,
        /// CPUs in the device tree.
        cpus: u64,
        /// Executable bytes.
        text_bytes: u64,
        /// RAM of the machine, in bytes.
        ram_bytes: u64,
    }
    /// Hypervisor: a CPU is about to run host code at EL1 for the first time since it was started.
    HostCpu "host-cpu" {
        /// MPIDR_EL1.Aff0 of the CPU.
        cpu: u64,
        /// HCR_EL2.VM as read back from the register.
        stage2: bool,
    }
    /// Hypervisor: a VM starts.
    VmStart "vm-start" {
        /// Private by default.
        protected: bool,
        /// Its measurement is the one that the manifest names.
        measured: bool,
        /// The measurement.
        measurement: Digest,
        /// vCPUs.
        vcpus: u64,
        /// Pages that were populated and measured, or lent.
        pages: u64,
    }
    /// Hypervisor: a VM is gone and all its pages are the host's again.
    VmEnd "vm-end" {
        /// Pages that it gave back, all wiped, in its life; lent ones not counted.
        pages_returned: u64,
        /// Hypercalls that the hypervisor answered.
        hypercalls: u64,
        /// Exits to the host.
        exits: u64,
    }
    /// Hypervisor, if it was built with its oracle, before it powers off: how often it looked, and found
    /// nothing.
    Oracle "oracle" {
        /// Looks at all pages and parties.
        checks: u64,
    }
    /// Hypervisor: the host asked for power off or reset; the machine powers off next.
    PowerOff "power-off" {
        /// Faults injected into the host since it started.
        host_faults: u64,
    }
    /// Host: it runs.
    Host "host" {
        /// CurrentEL.EL.
        el: u64,
        /// CPUs that came up.
        cpus: u64,
    }
    /// Host: the VM is made and about to run.
    Vm "vm" {
        /// Size of its memory object in bytes.
        object_bytes: u64,
        /// Pages donated to it so far, those of the pool among them.
        pages_donated: u64,
        /// vCPUs.
        vcpus: u64,
    }
    /// Host: it tried to read and to write a private page of the guest's.
    Attack "attack" {
        /// The read took a fault.
        read_faulted: bool,
        /// The write took a fault.
        write_faulted: bool,
    }
    /// Host: the VM's run is over and what it cost.
    GuestEnd "guest-end" {
        /// How it ended.
        reason: GuestEnd,
        /// Pages donated over its life, those of the pool among them.
        pages_donated: u64,
        /// Exits that the VMM handled.
        exits: u64,
        /// Bytes that the VMM copied between shared memory and its own.
        copied_bytes: u64,
        /// Block requests served.
        requests: u64,
    }
    /// Host: it has looked at every page that came back.
    Teardown "teardown" {
        /// How many it looked at.
        pages_returned: u64,
        /// How many held anything but zeroes.
        pages_nonzero: u64,
    }
    /// Guest: what it found and did about its hypervisor.
    Guest "guest" {
        /// The vendor-hypervisor UID.
        uid: Uid,
        /// Word 0 of FEATURES.
        features: u64,
        /// Pages that it shared.
        shares: u64,
    }
    /// Guest: its disk job is done.
    Disk "disk" {
        /// Bytes read.
        read_bytes: u64,
        /// Bytes written.
        written_bytes: u64,
        /// Blocks whose digest was right.
        blocks_verified: u64,
        /// Blocks whose digest was wrong, or that could not be read.
        blocks_failed: u64,
        /// SHA-256 of the disk's content as the guest left it.
        sha256: Digest,
        /// Duration in ticks of CNTVCT_EL0.
        ticks: u64,
        /// CNTFRQ_EL0.
        frequency_hz: u64,
    }
    /// Guest: all done; whether its private memory is as it left it, and what it cost.
    GuestDone "guest-done" {
        /// Code, constants and a canary page hash to what they hashed to at the start.
        content_intact: bool,
        /// Hypercalls made.
        hypercalls: u64,
        /// Bytes copied between private and shared memory.
        copied_bytes: u64,
    }
    /// Guest or host, in a benchmark: it has timed something of its own.
    Sample "sample" {
        /// What.
        operation: Operation,
        /// CNTVCT_EL0 before it.
        start: u64,
        /// CNTVCT_EL0 after it.
        end: u64,
        /// How many of them it was: one, or the pages that one call was for.
        units: u64,
    }
    /// Host, in a benchmark: it has called the hypervisor.
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
