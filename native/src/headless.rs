//! Quiet on machines without a desktop session.

/// Mesa's device-select layer looks for a Wayland compositor whenever Vulkan starts, and where there is no session it
/// prints two lines that begin with "error:" on our stderr. It has a switch, which is an environment variable; a
/// running program cannot set one safely, so this one starts itself over with it: same process, same everything else.
#[cfg(target_os = "linux")]
pub fn silence_device_select() {
    use std::os::unix::process::CommandExt;
    let is_set = |name: &str| std::env::var_os(name).is_some();
    if is_set("XDG_RUNTIME_DIR") || is_set("NODEVICE_SELECT") {
        return;
    }
    if let Ok(this) = std::env::current_exe() {
        let mut again = std::process::Command::new(this);
        again.args(std::env::args_os().skip(1)).env("NODEVICE_SELECT", "1");
        // Comes back only when it could not be started: then the two lines stay, and nothing else is lost.
        let _ = again.exec();
    }
}

#[cfg(not(target_os = "linux"))]
pub fn silence_device_select() {}
