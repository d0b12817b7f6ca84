//! Clients of `incoder serve` and `incoder lsp`, from the registries: libraries of Python and npm, and two editors.

use crate::{run, setup};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Python packages and editors are unpacked.
const FOLDER: &str = "target/clients";
const TESTS: &str = "tests/clients";
/// What reads Debian's unstable suite: the released one has editors that are too old.
const SOURCES: &str = "/etc/apt/sources.list.d/debian.sources";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Packages that are not needed to run an editor from a folder.
const UNNEEDED: [&str; 4] = ["perl", "dpkg", "tar", "debconf"];

/// The editors: packages of Debian, their programs, and the variables that tell the tests where they are.
const PACKAGES: [&str; 2] = ["neovim", "hx"];
const PROGRAMS: [(&str, &str); 2] = [("nvim", "NEOVIM"), ("hx", "HELIX")];

/// Installs the clients and runs their tests, and nothing else.
pub fn run() -> Result<(), String> {
    installs().iter_mut().try_for_each(run::show)?;
    tests().iter_mut().try_for_each(run::show)
}

/// Python's packages and npm's, as pinned in the repository.
pub fn installs() -> [Command; 3] {
    let mut make = Command::new("python3");
    make.args(["-m", "venv", FOLDER]);
    let mut install = Command::new(python());
    install.args(["-m", "pip", "install", "--quiet", "--requirement", "tests/clients/requirements.txt"]);
    let mut npm = Command::new("npm");
    npm.current_dir(TESTS).args(["ci", "--no-audit", "--no-fund", "--prefer-offline"]);
    [make, install, npm]
}

/// The tests, each with the program that the Rust tests built. Editors that are not to be had are skipped, and why is said.
pub fn tests() -> [Command; 3] {
    let program = std::path::absolute("target/debug/incoder").unwrap_or_else(|_| "target/debug/incoder".into());
    let mut libraries = Command::new(python());
    libraries.arg("tests/clients/check.py").arg(&program);
    let mut editors = Command::new(python());
    editors.arg("tests/clients/editors.py").arg(&program);
    match fetched() {
        Ok(folder) => drop(editors.envs(PROGRAMS.map(|(program, variable)| (variable, folder.join(program))))),
        Err(why) => println!("The tests in Neovim and Helix are skipped: {why}"),
    }
    // Without it the test in Helix says that it is skipped.
    if let Err(why) = setup::tmux() {
        println!("{why}");
    }
    let mut npm = Command::new("node");
    npm.args(["--test", "--test-reporter=spec", "tests/clients/check.test.mjs"]).env("INCODER_PROGRAM", &program);
    [libraries, editors, npm]
}

fn python() -> PathBuf {
    Path::new(FOLDER).join("bin/python")
}

/// The folder with a script for each editor of Debian's unstable suite, which are unpacked there with the C library that they need.
/// Nothing is installed.
fn fetched() -> Result<PathBuf, String> {
    let folder = std::path::absolute(Path::new(FOLDER).join("editors")).map_err(|e| e.to_string())?;
    if PROGRAMS.iter().all(|(program, _)| folder.join(program).exists()) {
        return Ok(folder);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) || !Path::new(KEYRING).exists() {
        return Err("they are fetched from Debian, on x86-64 Debian only".into());
    }
    let uri = archive().ok_or_else(|| format!("{SOURCES} names no archive of Debian"))?;
    let (state, root) = (folder.join("state"), folder.join("root"));
    for part in ["state/lists/partial", "cache/archives/partial", "packages", "root"] {
        fs::create_dir_all(folder.join(part)).map_err(|e| format!("{part}: {e}"))?;
    }
    let (sources, status) = (folder.join("sources.list"), folder.join("status"));
    let line = format!("deb [signed-by={KEYRING}] {uri} sid main\n");
    // No package counts as installed.
    for (path, text) in [(&sources, line.as_str()), (&status, "")] {
        fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.arg("-qq").current_dir(folder.join("packages"));
        let cache = folder.join("cache");
        let own = [("Etc::SourceList", &sources), ("State", &state), ("State::status", &status), ("Cache", &cache)];
        for (name, value) in own {
            apt.arg("-o").arg(format!("Dir::{name}={}", value.display()));
        }
        apt.args(["-o", "Dir::Etc::SourceParts=-", "-o", "APT::Sandbox::User=root"]).args(args);
        apt
    };
    run::show(&mut apt(&["update"]))?;
    let list = ["--print-uris", "-y", "--no-install-recommends", "install"];
    let listed = run::output(&mut apt(&[list.as_slice(), PACKAGES.as_slice()].concat()));
    let listed = listed.ok_or("Debian's unstable suite does not have them now")?;
    let needed: Vec<&str> = packages(&listed).filter(|name| !UNNEEDED.contains(name)).collect();
    run::show(&mut apt(&[&["download"], needed.as_slice()].concat()))?;
    for entry in fs::read_dir(folder.join("packages")).map_err(|e| e.to_string())?.flatten() {
        run::show(Command::new("dpkg").arg("-x").arg(entry.path()).arg(&root))?;
    }
    for (program, _) in PROGRAMS {
        write_script(&folder.join(program), &root.join("usr"), program)?;
    }
    Ok(folder)
}

/// The first archive in Debian's own list.
fn archive() -> Option<String> {
    let sources = fs::read_to_string(SOURCES).ok()?;
    let uris = sources.lines().find_map(|line| line.strip_prefix("URIs:"))?;
    uris.split_whitespace().next().map(str::to_owned)
}

/// The packages of lines such as `'address/name_version_arch.deb' name_version_arch.deb size hash`.
fn packages(listed: &str) -> impl Iterator<Item = &str> {
    let names = listed.lines().filter(|line| line.starts_with('\'')).filter_map(|line| line.split(' ').nth(1));
    names.filter_map(|file| file.split('_').next())
}

/// The loader of the unpacked C library starts the program; the variables are Neovim's, and others ignore them.
fn write_script(script: &Path, usr: &Path, program: &str) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let (usr, libraries) = (usr.display(), "$U/lib/x86_64-linux-gnu");
    let text = format!(
        "#!/bin/sh\nU='{usr}'\n\
         export VIMRUNTIME=\"$U/share/nvim/runtime\" LUA_PATH=\"$U/share/lua/5.1/?.lua;;\"\n\
         export LUA_CPATH=\"{libraries}/lua/5.1/?.so;;\"\n\
         exec \"{libraries}/ld-linux-x86-64.so.2\" --library-path \"{libraries}\" \"$U/bin/{program}\" \"$@\"\n"
    );
    let written = fs::write(script, text).and_then(|()| fs::set_permissions(script, PermissionsExt::from_mode(0o755)));
    written.map_err(|e| format!("{}: {e}", script.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_packages_are_read_from_what_apt_prints() {
        let printed = "Reading lists\n'http://a/pool/libc6_2.43-7_amd64.deb' libc6_2.43-7_amd64.deb 1 SHA256:0\n\
                       'http://a/hx_25%2b1_amd64.deb' hx_25+1_amd64.deb 2 SHA256:1\n";
        assert_eq!(packages(printed).collect::<Vec<_>>(), ["libc6", "hx"]);
    }
}
