//! One loaded program, run on packets of ours.

use std::path::Path;

use anyhow::Context;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};

/// A program under test.
pub(crate) struct Program {
    classifier: SchedClassifier,
}

/// What one run said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// The program's verdict, `TC_ACT_*`.
    pub(crate) code: u32,
    /// ns, of which some 40 are the kernel's two looks at the clock.
    pub(crate) nanoseconds: f64,
}

/// Offsets in `struct __sk_buff` (include/uapi/linux/bpf.h).
mod offset {
    pub(super) const INGRESS_IFINDEX: usize = 36;
    pub(super) const IFINDEX: usize = 40;
    pub(super) const SIZE: usize = 48;
}

impl Program {
    /// The program pinned at `path`.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let classifier =
            SchedClassifier::from_pin(path).with_context(|| format!("opening program {}", path.display()))?;
        Ok(Self { classifier })
    }

    /// Instructions the verifier walked.
    pub(crate) fn verified_instructions(&self) -> anyhow::Result<u32> {
        self.classifier.info()?.verified_instruction_count().context("the kernel does not count instructions")
    }

    /// Runs it once on `packet`, as if seen on device `ifindex` of the calling thread's namespace. Once only: the
    /// kernel keeps what the program did to the packet from one repetition to the next.
    pub(crate) fn run(&self, packet: &[u8], ifindex: u32) -> anyhow::Result<Outcome> {
        let context = context(ifindex);
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.ctx_in = Some(&context);
        let result = self.classifier.test_run(options).context("BPF_PROG_TEST_RUN")?;
        Ok(Outcome { code: result.return_value, nanoseconds: result.duration.as_nanos() as f64 })
    }

    /// The same, with what the program made of the packet instead of the time.
    pub(crate) fn output(&self, packet: &[u8], ifindex: u32) -> anyhow::Result<(u32, Vec<u8>)> {
        let context = context(ifindex);
        let mut out = vec![0; packet.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let result = self.classifier.test_run(options).context("BPF_PROG_TEST_RUN")?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }
}

fn context(ifindex: u32) -> [u8; offset::SIZE] {
    let mut context = [0; offset::SIZE];
    context[offset::IFINDEX..][..4].copy_from_slice(&ifindex.to_ne_bytes());
    context[offset::INGRESS_IFINDEX..][..4].copy_from_slice(&ifindex.to_ne_bytes());
    context
}
