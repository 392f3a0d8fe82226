//! The seeds of the target.

/// The bytes of a seed's steps.
#[derive(Default)]
struct Steps(Vec<u8>);

impl Steps {
    /// A protected VM whose first `pages` pages are present.
    fn new(pages: u8) -> Self {
        Self(vec![pages << 1])
    }

    fn step(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// A hypercall: an index of [`FUNCTIONS`](super::FUNCTIONS), and its arguments.
    fn call(self, function: u8, x: [u8; 3]) -> Self {
        self.step(&[0, function, 0]).step(&x)
    }

    /// A data abort. `page` is encoded as arguments are.
    fn abort(self, iss: u32, page: u8) -> Self {
        self.step(&[1, 0]).step(&iss.to_le_bytes()).step(&[page, 0, 0, 0x11])
    }
}

/// All seeds.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    /// The encoded argument for the guest's first page.
    const FIRST_PAGE: u8 = 12;
    /// A translation fault at level 3, from a 32-bit load or store of register 4.
    const LOAD: u32 = 1 << 24 | 2 << 22 | 4 << 16 | 7;
    const STORE: u32 = LOAD | 1 << 6;
    /// An access to ICC_SGI1R_EL1 (S3_0_C12_C11_5), MSR x4.
    const SGI: u32 = 3 << 20 | 5 << 17 | 12 << 10 | 4 << 5 | 11 << 1;
    let new = || Steps::new(4);
    let functions = (0..32).fold(new(), |steps, function| {
        // CPU_OFF, SYSTEM_OFF and SYSTEM_RESET end the run.
        if [16, 22, 23].contains(&function) { steps } else { steps.call(function, [FIRST_PAGE, 1, 0]) }
    });
    vec![
        ("every-call", functions.0),
        ("share", new().call(3, [FIRST_PAGE, 1, 0]).call(4, [FIRST_PAGE, 1, 0]).0),
        ("share-range", new().call(3, [FIRST_PAGE, 9, 0]).call(4, [FIRST_PAGE, 4, 0]).0),
        ("share-absent", new().call(3, [FIRST_PAGE + 6, 1, 0]).0),
        ("relinquish", new().call(9, [FIRST_PAGE, 0, 0]).abort(LOAD, FIRST_PAGE).step(&[7, 0, 0, 30, 1]).0),
        ("cpu-off", new().call(16, [0; 3]).step(&[6, 0]).0),
        ("cpu-on", new().call(18, [0x81, 0, 0]).step(&[6, 1]).call(19, [0x80, 0, 0]).0),
        ("off", new().call(22, [0; 3]).step(&[6, 0]).0),
        (
            "device",
            new()
                .abort(LOAD, 0)
                .step(&[5, 1, 1, 2, 3, 4, 5, 6, 7, 8])
                .abort(STORE, 0)
                .step(&[5, 2])
                .abort(STORE, 0)
                .step(&[5, 3])
                .0,
        ),
        (
            "guard",
            new()
                .call(6, [0x80, 0, 0])
                .call(7, [0, 0, 0])
                .abort(LOAD, 0)
                .abort(LOAD, 1)
                .call(8, [0, 0, 0])
                .abort(LOAD, 0)
                .0,
        ),
        ("absent", new().abort(LOAD, FIRST_PAGE + 6).step(&[7, 0, 6, 30, 1]).0),
        ("poisoned", new().step(&[7, 2, 0, 14, 0]).abort(LOAD, FIRST_PAGE + 2).step(&[6, 0]).0),
        ("sgi", new().step(&[3]).step(&SGI.to_le_bytes()).step(&[0xf1, 1, 2]).0),
        ("wfi", new().step(&[4, 0, 0, 0, 0x06, 0, 0]).0),
        ("fp", new().step(&[4, 0, 0, 0, 0x1e, 0, 0]).0),
        ("ordinary", Steps(vec![9]).call(0, [0; 3]).call(3, [FIRST_PAGE, 1, 0]).0),
    ]
}
