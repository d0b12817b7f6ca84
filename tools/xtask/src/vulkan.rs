//! Which Vulkan drivers this machine has.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The manifests of all installed Vulkan drivers, where the loader looks for them.
fn manifests() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = [
        "/etc/vulkan/icd.d",
        "/usr/local/share/vulkan/icd.d",
        "/usr/share/vulkan/icd.d",
        "/usr/local/etc/vulkan/icd.d",
    ]
    .map(PathBuf::from)
    .into();
    let data = std::env::var("XDG_DATA_DIRS").unwrap_or_default();
    folders.extend(data.split(':').filter(|d| !d.is_empty()).map(|d| Path::new(d).join("vulkan/icd.d")));
    let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    found.sort();
    found.dedup();
    found
}

/// lavapipe, Mesa's software Vulkan, for this processor.
pub fn lavapipe() -> Option<PathBuf> {
    let is_it = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let other_cpu =
            ["i686", "x86_64", "aarch64"].iter().any(|cpu| name.contains(cpu) && *cpu != std::env::consts::ARCH);
        name.starts_with("lvp_icd") && !other_cpu
    };
    manifests().iter().find(is_it).cloned()
}

/// Whether a driver and the loader are there.
pub fn is_there() -> bool {
    let loader = || crate::run::output(Command::new("ldconfig").arg("-p"));
    let loader = || loader().or_else(|| crate::run::output(Command::new("/sbin/ldconfig").arg("-p")));
    !manifests().is_empty() && loader().is_none_or(|libraries| libraries.contains("libvulkan.so.1"))
}
