//! Every kernel against the CPU.

use super::Way;
use crate::cli::Kv;
use crate::failure::Result;
use incoder::{Config, Error, KernelCheck};
use serde::Serialize;

/// The kernels in one way of using the GPU.
#[derive(Debug, Serialize)]
pub struct Checked {
    pub way: String,
    pub kv: &'static str,
    /// Of each kernel the step that is farthest off.
    pub kernels: Vec<KernelCheck>,
    /// Why there is nothing to compare: one does not compile.
    pub failed: Option<String>,
}

pub fn check(way: &Way, config: &Config, kv: Kv) -> Result<Checked> {
    let (kernels, failed) = match pollster::block_on(way.gpu.check_kernels(config, kv.into())) {
        Ok(checks) => (worst(checks), None),
        Err(error @ Error::Kernel { .. }) => (Vec::new(), Some(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    Ok(Checked { way: way.name.clone(), kv: kv.name(), kernels, failed })
}

/// Of each kernel the check that is farthest off, in the order of the kernels.
fn worst(checks: Vec<KernelCheck>) -> Vec<KernelCheck> {
    let mut worst: Vec<KernelCheck> = Vec::new();
    for check in checks {
        match worst.iter_mut().find(|one| one.kernel == check.kernel) {
            Some(one) if check.error > one.error => *one = check,
            Some(_) => {}
            None => worst.push(check),
        }
    }
    worst
}

impl Checked {
    /// A line for each kernel that is wrong.
    pub fn wrong(&self) -> Vec<String> {
        let how = format!("{}, {} cache", self.way, self.kv);
        let checks = self.kernels.iter().filter(|check| !check.is_right()).map(KernelCheck::to_string);
        checks.chain(self.failed.clone()).map(|what| format!("{how}: {what}")).collect()
    }

    /// The kernel that is farthest off, of what is tolerated.
    pub fn farthest(&self) -> Option<&KernelCheck> {
        self.kernels.iter().max_by(|a, b| a.share().total_cmp(&b.share()))
    }
}
