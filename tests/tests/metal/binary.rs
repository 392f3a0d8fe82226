//! The shipped hypervisor's ELF file: functions by name, and the ways through them.

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

use elf::ElfBytes;
use elf::abi::SHF_EXECINSTR;
use elf::endian::LittleEndian;
use tests::tool::Tool;
use tests::workspace::root;

use crate::a64::{Op, decode};

/// The code of a binary.
pub(crate) struct Binary {
    /// Instructions by address.
    words: BTreeMap<u64, u32>,
    symbols: Vec<Symbol>,
}

struct Symbol {
    name: String,
    address: u64,
    bytes: u64,
}

/// A function's instructions.
pub(crate) struct Function<'a> {
    binary: &'a Binary,
    /// Its first byte's address, and that after its last.
    range: std::ops::Range<u64>,
}

/// The hypervisor that ships, as the tool builds it: to pack an image is to build what ships.
pub(crate) fn shipped() -> &'static Binary {
    static SHIPPED: OnceLock<Binary> = OnceLock::new();
    SHIPPED.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        let run = Tool::new(&["image", "pack", "--output", image.to_str().unwrap()]).run();
        assert_eq!(run.status, Some(0), "{run}");
        let path = root().join("target/bare/aarch64-unknown-none-softfloat/bare/hypervisor");
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Binary::parse(&bytes)
    })
}

impl Binary {
    fn parse(bytes: &[u8]) -> Self {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(bytes).unwrap();
        let mut words = BTreeMap::new();
        for header in elf.section_headers().unwrap() {
            if header.sh_flags & u64::from(SHF_EXECINSTR) != 0 {
                let (code, _) = elf.section_data(&header).unwrap();
                let code = code.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
                words.extend((header.sh_addr..).step_by(4).zip(code));
            }
        }
        let (table, names) = elf.symbol_table().unwrap().expect("the shipped ELF file has symbols");
        let symbols = table
            .iter()
            .map(|symbol| Symbol {
                name: names.get(symbol.st_name as usize).unwrap().to_owned(),
                address: symbol.st_value,
                bytes: symbol.st_size,
            })
            .collect();
        Self { words, symbols }
    }

    /// The function whose path in the hypervisor ends so: `["maintenance", "wipe"]`. It is in one piece, since
    /// the compiler was told to inline it nowhere.
    #[track_caller]
    pub(crate) fn function(&self, path: &[&str]) -> Function<'_> {
        // Each part of a mangled name has its length before it.
        let end: String = path.iter().map(|part| format!("{}{part}", part.len())).collect();
        let found = |symbol: &&Symbol| symbol.name.contains("10hypervisor") && symbol.name.ends_with(&end);
        let symbol = self.symbols.iter().find(found).unwrap_or_else(|| {
            panic!("no function {}: is it called, and kept in one piece?", path.join("::"));
        });
        assert!(symbol.bytes != 0, "{}", symbol.name);
        Function { binary: self, range: symbol.address..symbol.address + symbol.bytes }
    }

    /// The address of a symbol that is not mangled.
    #[track_caller]
    pub(crate) fn address(&self, name: &str) -> u64 {
        self.symbols.iter().find(|symbol| symbol.name == name).unwrap_or_else(|| panic!("no {name}")).address
    }

    /// The instruction at an address.
    #[track_caller]
    pub(crate) fn at(&self, address: u64) -> Op {
        decode(self.words[&address], address)
    }

    /// The last part of the name of what is at an address.
    pub(crate) fn name_at(&self, address: u64) -> String {
        let Some(symbol) = self.symbols.iter().find(|symbol| symbol.address == address && symbol.bytes != 0)
        else {
            return format!("{address:#x}");
        };
        // A crate's number is of digits and letters, which may look like an identifier: it ends at the underscore.
        let name = symbol.name.split_once("Cs").and_then(|(_, crate_on)| crate_on.split_once('_'));
        let name = name.map_or(&symbol.name[..], |(_, path)| path);
        let last = name.char_indices().find_map(|(at, _)| {
            let digits = name[at..].find(|c: char| !c.is_ascii_digit())?;
            let identifier = &name[at + digits..];
            (name[at..at + digits].parse() == Ok(identifier.len())).then_some(identifier)
        });
        last.unwrap_or(name).to_owned()
    }

    /// What a watched instruction is called in a sequence; `None` for one that is not watched.
    fn watched(&self, op: &Op) -> Option<String> {
        match op {
            Op::Named(name) => Some(name.clone()),
            Op::Read { register, .. } => Some(format!("MRS {register}")),
            Op::Write { register, .. } => Some(format!("MSR {register}")),
            Op::Call { target } => Some(format!("call {}", self.name_at(*target))),
            Op::CallRegister => Some("call a register".to_owned()),
            _ => None,
        }
    }
}

impl Function<'_> {
    /// Its instructions in the order of their addresses.
    pub(crate) fn instructions(&self) -> Vec<Op> {
        self.range.clone().step_by(4).map(|address| self.binary.at(address)).collect()
    }

    /// Its watched instructions in the order of their addresses.
    pub(crate) fn listing(&self) -> Vec<String> {
        self.instructions().iter().filter_map(|op| self.binary.watched(op)).collect()
    }

    /// All ways through it on which each conditional branch goes each way once at most: so a loop is gone through
    /// once and twice. A branch to another function is a call at the end. What ends in a panic is no way.
    pub(crate) fn ways(&self) -> Vec<Vec<Op>> {
        let mut ways = Vec::new();
        let mut pending = vec![(self.range.start, Vec::new(), Vec::new())];
        while let Some((mut address, mut way, mut gone)) = pending.pop() {
            assert!(ways.len() + pending.len() < 1000, "too many ways");
            loop {
                if !self.range.contains(&address) {
                    way.push(Op::Call { target: address });
                    ways.push(way);
                    break;
                }
                let op = self.binary.at(address);
                let next = address + 4;
                match op {
                    Op::Trap => break,
                    Op::Call { target } if self.binary.name_at(target).contains("panic") => break,
                    Op::Return => {
                        ways.push(way);
                        break;
                    }
                    Op::Named(ref name) if name == "ERET" => {
                        way.push(op);
                        ways.push(way);
                        break;
                    }
                    Op::Branch { target, conditional: false } => {
                        let turn = (address, target);
                        if gone.contains(&turn) {
                            break;
                        }
                        gone.push(turn);
                        address = target;
                    }
                    Op::Branch { target, conditional: true } => {
                        if !gone.contains(&(address, target)) {
                            let mut gone = gone.clone();
                            gone.push((address, target));
                            pending.push((target, way.clone(), gone));
                        }
                        if gone.contains(&(address, next)) {
                            break;
                        }
                        gone.push((address, next));
                        address = next;
                    }
                    op => {
                        way.push(op);
                        address = next;
                    }
                }
            }
        }
        ways
    }

    /// The watched instructions of each way through it, without doubles. Of an instruction, or two, that follow
    /// upon themselves one is kept: a loop over cache lines is gone through many at a time.
    pub(crate) fn sequences(&self) -> Vec<Vec<String>> {
        let mut sequences: Vec<Vec<String>> = self
            .ways()
            .iter()
            .map(|way| {
                let mut sequence: Vec<String> = Vec::new();
                for name in way.iter().filter_map(|op| self.binary.watched(op)) {
                    sequence.push(name);
                    if sequence.last().is_some_and(|name| name.starts_with("DC ")) {
                        fold_lines(&mut sequence);
                    }
                }
                sequence
            })
            .collect();
        sequences.sort();
        sequences.dedup();
        sequences
    }
}

/// Drops the last instructions if they repeat those before them.
fn fold_lines(sequence: &mut Vec<String>) {
    for unit in [1, 2] {
        if let Some(start) = sequence.len().checked_sub(2 * unit)
            && sequence[start..start + unit] == sequence[start + unit..]
        {
            sequence.truncate(start + unit);
        }
    }
}
