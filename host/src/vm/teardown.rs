//! The end of a VM: everything comes back, and the host looks at it.

use shared_abi::addr::{PAGE_SIZE, Pfn};

use super::{GuestVm, VmError};
use crate::hypervisor::{HostCalls, Progress};
use crate::memory::{FrameAllocator, HostMemory};
use crate::platform::{Platform, Resources};

/// What the host saw when it looked at the pages that came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Teardown {
    /// Pages that were donated and came back; lent ones do not count.
    pub pages_returned: u64,
    /// Those of them that held anything but zeroes, or could not be read.
    pub pages_nonzero: u64,
}

impl GuestVm {
    /// Ends the VM, looks at every page that comes back, and frees it.
    ///
    /// # Errors
    ///
    /// [`VmError::Refused`]; the pages stay lost then.
    pub fn destroy<P: Platform>(self, resources: &mut Resources<P>) -> Result<Teardown, VmError> {
        while let Progress::More(_) = resources.hypervisor.vm_destroy(self.handle)? {}

        let mut seen = Teardown::default();
        let mut look = |first: Pfn, pages: u64, donated: bool| {
            if donated {
                seen.pages_returned += pages;
                seen.pages_nonzero += (first.0..first.0 + pages)
                    .filter(|page| !is_zero(&resources.memory, Pfn(*page)))
                    .count() as u64;
            }
            resources.frames.free(first, pages);
        };
        for (first, pages) in &self.pool {
            look(*first, *pages, true);
        }
        for run in self.pages.runs() {
            look(run.pfn, run.pages, self.protected);
        }
        Ok(seen)
    }
}

/// Whether a page can be read and holds zeroes.
fn is_zero(memory: &impl HostMemory, page: Pfn) -> bool {
    let mut content = [0xff; PAGE_SIZE as usize];
    let (words, _) = match memory.read(page.base(), &mut content) {
        Ok(()) => content.as_chunks::<8>(),
        Err(_) => return false,
    };
    words.iter().all(|word| u64::from_ne_bytes(*word) == 0)
}
