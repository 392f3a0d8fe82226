//! How large the shipped hypervisor is: what runs at EL2 is what has to be believed.

use std::fs;

use elf::ElfBytes;
use elf::abi::SHF_EXECINSTR;
use elf::endian::LittleEndian;
use tests::tool::Tool;
use tests::workspace::root;

/// Bytes of executable sections that are too many.
const LIMIT: u64 = 92 << 10;

#[test]
fn the_hypervisors_code_is_small() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let run = Tool::new(&["image", "pack", "--output", image.to_str().unwrap()]).run();
    assert_eq!(run.status, Some(0), "{run}");

    let path = root().join("target/bare/aarch64-unknown-none-softfloat/bare/hypervisor");
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let elf = ElfBytes::<LittleEndian>::minimal_parse(&bytes).unwrap();
    let (headers, names) = elf.section_headers_with_strtab().unwrap();
    let (headers, names) = (headers.unwrap(), names.unwrap());
    let executable = headers.iter().filter(|header| header.sh_flags & u64::from(SHF_EXECINSTR) != 0);
    let mut total = 0;
    for header in executable {
        let name = names.get(header.sh_name as usize).unwrap();
        println!("{name}: {} bytes", header.sh_size);
        total += header.sh_size;
    }
    println!("executable sections of the hypervisor: {total} bytes (limit {LIMIT})");
    assert!(total > 0 && total < LIMIT, "{total} bytes");
}
