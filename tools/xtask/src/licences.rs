//! Every dependency's licence against the allow-list in deny.toml, as `cargo deny check licenses` does it.
//! (cargo-deny itself would work too; building it takes longer than building this project.)

use std::collections::BTreeSet;
use std::process::Command;

/// How many packages were checked, or what is wrong, one line a package.
pub fn check() -> Result<usize, String> {
    let deny = std::fs::read_to_string("deny.toml").map_err(|e| format!("deny.toml: {e}"))?;
    let allowed = allow_list(&deny)?;
    let mut tree = Command::new("cargo");
    tree.args(["tree", "--locked", "--workspace", "--target", "all", "--edges", "normal,build,dev"]);
    tree.args(["--prefix", "none", "--format", "{p}|{l}"]);
    let tree = tree.output().map_err(|e| format!("cargo tree: {e}"))?;
    if !tree.status.success() {
        return Err(format!("cargo tree: {}", String::from_utf8_lossy(&tree.stderr).trim()));
    }
    let tree = String::from_utf8_lossy(&tree.stdout);
    let mut packages = BTreeSet::new();
    for line in tree.lines().filter_map(|line| line.split_once('|')) {
        packages.insert((line.0.trim(), line.1.trim_end_matches("(*)").trim()));
    }
    let refused: Vec<String> = packages
        .iter()
        .filter(|(_, licence)| !is_allowed(licence, &allowed))
        .map(|(package, licence)| format!("{package} has the licence {licence:?}, which deny.toml does not allow"))
        .collect();
    if refused.is_empty() { Ok(packages.len()) } else { Err(refused.join("\n")) }
}

/// The strings of `allow = [ … ]`.
fn allow_list(toml: &str) -> Result<Vec<String>, String> {
    let list = toml.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']'));
    let Some((list, _)) = list else { return Err("deny.toml has no `allow = [ … ]`".into()) };
    Ok(list.split('"').skip(1).step_by(2).map(String::from).collect())
}

/// Whether an SPDX expression can be met with the allowed licences alone.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut words = &words[..];
    // Anything left over is no SPDX expression: refused rather than guessed at.
    either(&mut words, allowed) && words.is_empty()
}

fn either(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut met = both(words, allowed);
    while let ["OR", rest @ ..] = words {
        *words = rest;
        met |= both(words, allowed);
    }
    met
}

fn both(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut met = one(words, allowed);
    while let ["AND", rest @ ..] = words {
        *words = rest;
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut &[&str], allowed: &[String]) -> bool {
    match **words {
        ["(", ref rest @ ..] => {
            *words = rest;
            let met = either(words, allowed);
            let closed = words.first() == Some(&")");
            *words = words.get(1..).unwrap_or_default();
            met && closed
        }
        [licence, "WITH", exception, ref rest @ ..] => {
            *words = rest;
            allowed.contains(&format!("{licence} WITH {exception}"))
        }
        [licence, ref rest @ ..] => {
            *words = rest;
            allowed.iter().any(|a| a == licence)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_spdx_expressions() {
        let allowed = allow_list("[licenses]\nallow = [\n \"MIT\",\n \"Zlib\", \"A WITH B\" ]\n").unwrap();
        assert_eq!(allowed, ["MIT", "Zlib", "A WITH B"]);
        for yes in
            ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-3.0", "MIT AND Zlib", "(GPL-3.0 OR MIT) AND Zlib", "A WITH B OR X"]
        {
            assert!(is_allowed(yes, &allowed), "{yes}");
        }
        for no in ["", "GPL-3.0", "MIT AND GPL-3.0", "A", "MIT WITH B", "MIT Zlib", "(MIT", "MIT OR Zlib AND X )"] {
            assert!(!is_allowed(no, &allowed), "{no}");
        }
        assert!(allow_list("[licenses]").is_err());
    }
}
