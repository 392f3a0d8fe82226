//! The seeds of the target.

use super::{NEXT, WRITE};

/// The bytes of a seed's steps.
#[derive(Default)]
struct Steps(Vec<u8>);

impl Steps {
    fn new(kind: u8) -> Self {
        Self(vec![kind])
    }

    fn queue(mut self, size: u8, areas: [u8; 3]) -> Self {
        self.0.extend([2, size]);
        self.0.extend(areas.into_iter().flat_map(|page| [page, 0]));
        self
    }

    fn poke(mut self, at: u16, bytes: &[u8]) -> Self {
        self.0.push(0);
        self.0.extend(at.to_le_bytes());
        self.0.push(u8::try_from(bytes.len()).expect("short"));
        self.0.extend(bytes);
        self
    }

    fn describe(mut self, index: u8, page: u8, length: u16, flags: u16, next: u8) -> Self {
        self.0.extend([4, index, page, 0, 0xf1]);
        self.0.extend(length.to_le_bytes());
        self.0.extend([flags.to_le_bytes()[0], next]);
        self
    }

    fn offer(mut self, head: u8) -> Self {
        self.0.extend([5, head]);
        self
    }

    fn race(mut self, after: u8, at: u16, bytes: [u8; 8]) -> Self {
        self.0.extend([1, after]);
        self.0.extend(at.to_le_bytes());
        self.0.extend(bytes);
        self
    }

    fn hide(mut self, page: u8) -> Self {
        self.0.extend([3, page]);
        self
    }

    fn ring(mut self) -> Self {
        self.0.push(6);
        self
    }

    /// A block request for one sector, in descriptors 0 to 2.
    fn request(self, kind: u8, sector: u8, data: u16) -> Self {
        let mut header = [0; 16];
        (header[0], header[8]) = (kind, sector);
        self.poke(0x4000, &header)
            .describe(0, 0x40, 16, NEXT, 1)
            .describe(1, 0x50, 512, NEXT | data, 2)
            .describe(2, 0x60, 1, WRITE, 0)
            .offer(0)
    }
}

/// All seeds.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let honest = [0x00, 0x10, 0x20];
    let block = || Steps::new(1).queue(8, honest);
    let console = || Steps::new(0).queue(8, honest);
    vec![
        ("block-read", block().request(0, 1, WRITE).ring().0),
        ("block-write", block().request(1, 1, 0).ring().0),
        ("block-flush", block().request(4, 0, WRITE).ring().0),
        ("block-id", block().request(8, 0, WRITE).ring().0),
        ("block-unknown", block().request(9, 0, WRITE).ring().0),
        ("block-beyond", block().request(0, 8, WRITE).ring().0),
        ("block-read-only", Steps::new(2).queue(8, honest).request(1, 0, 0).ring().0),
        ("block-private", block().request(0, 1, WRITE).hide(5).ring().0),
        (
            "block-race",
            block().request(0, 1, WRITE).race(3, 0x10, [0xff; 8]).race(5, 0x4000, [0xff; 8]).ring().0,
        ),
        ("console", console().poke(0x4000, b"hello").describe(0, 0x40, 5, 0, 0).offer(0).offer(0).ring().0),
        ("loop", console().describe(0, 0x40, 5, NEXT, 0).offer(0).ring().0),
        ("table-in-buffer", block().request(0, 1, WRITE).describe(1, 0x00, 512, NEXT | WRITE, 2).ring().0),
        ("index-jump", console().poke(0x1002, &[9, 0]).ring().0),
        ("no-size", Steps::new(0).queue(0, honest).ring().0),
        ("odd-size", Steps::new(0).queue(3, honest).ring().0),
        ("misaligned", Steps::new(0).queue(8, [1, 0x10, 0x20]).ring().0),
    ]
}
