//! The start of a VM: finishes the launch measurement, then allows vCPU entry.

use shared_abi::addr::Ipa;
use shared_abi::error::{CallError, CallFailure};
use shared_abi::host_call::{VcpuIndex, VmHandle};
use shared_abi::record::Digest;

use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::machine::report::Milestone;
use crate::vm::{Start, VmState};

impl<M: Machine> Hypervisor<'_, M> {
    /// Finishes the launch measurement and powers vCPU 0 on. Returns x1 to x5: whether the measurement equals
    /// the one in the manifest, and the measurement.
    pub(crate) fn vm_start(
        &self,
        handle: VmHandle,
        entry: Ipa,
        argument: u64,
    ) -> Result<[u64; 5], CallFailure> {
        let (digest, report, expected) = self.with_vm(handle, |vm, _| {
            vm.is_new()?;
            let boot = vm.vcpu(VcpuIndex(0)).ok_or(CallError::Denied)?;
            boot.on = true;
            boot.start = Some(Start { entry, argument });
            vm.state = VmState::Started;
            let digest = core::mem::take(&mut vm.measurement).finish(entry, argument);
            vm.report.measurement = Some(digest);
            Ok((digest, vm.report, vm.protected && self.expected == Some(digest)))
        })?;
        self.machine.report(Milestone::Started { expected }, &report);
        Ok(words(u64::from(expected), digest))
    }
}

/// Encodes a flag and a digest as x1 to x5.
fn words(flag: u64, digest: Digest) -> [u64; 5] {
    let mut words = [flag, 0, 0, 0, 0];
    let (chunks, _) = digest.0.as_chunks::<8>();
    for (word, bytes) in words.iter_mut().skip(1).zip(chunks) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}
