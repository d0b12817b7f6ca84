"""Fetch the pinned packages of packages.json with pip and npm, and hold each to its licence.

An archive lands in <work>/archives/{python,npm}/<name>-<version>/; one that is there already is not
fetched again. Packages are only unpacked as text, never installed or run.
"""

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLATFORMS = ["any"] + [f"manylinux_2_{n}_x86_64" for n in (17, 24, 27, 28, 34)] + ["manylinux2014_x86_64"]
PERMISSIVE = ("MIT", "BSD-2-Clause", "BSD-3-Clause", "BSD", "Apache-2.0")
CLASSIFIERS = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: BSD License": "BSD",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
}


def pinned():
    """packages.json: {registry: {"train" | "held_out" | "development": {name: [version, licence]}}}."""
    return json.loads((HERE / "packages.json").read_text())


def permissive(expression):
    """Whether an SPDX expression grants one of the accepted licences: every AND part, any OR part."""
    parts = re.sub(r"[()]", " ", expression)
    return all(
        any(choice.strip() in PERMISSIVE for choice in clause.split(" OR "))
        for clause in parts.split(" AND ")
    )


def free_text_licence(text):
    """The SPDX name of a one-line `License:` field written in prose, or None."""
    line = text.strip().splitlines()[0].strip() if text.strip() else ""
    for pattern, name in (
        (r"(The )?MIT( License)?( \(MIT\))?", "MIT"),
        (r"Apache([ -]Software)?( Licen[sc]e)?,?([ -]\(?(Apache |Version )?2\.0\)?( License)?)?", "Apache-2.0"),
        (r"(New )?BSD([ -](2|3)-Clause)?( License)?", "BSD"),
    ):
        if re.fullmatch(pattern, line, re.I):
            return name
    return None


def wheel_licence(path):
    """The licence in a wheel's metadata: its SPDX expression, else its classifiers, else prose."""
    with zipfile.ZipFile(path) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        meta = HeaderParser().parsestr(wheel.read(name).decode("utf-8", "replace"))
    if meta["License-Expression"]:
        return meta["License-Expression"]
    classified = [c for c in meta.get_all("Classifier", []) if c.startswith("License ::")]
    if any(c not in CLASSIFIERS and c != "License :: OSI Approved" for c in classified):
        return " AND ".join(classified)
    named = [CLASSIFIERS[c] for c in classified if c in CLASSIFIERS]
    return named[0] if len(named) == 1 else free_text_licence(meta["License"] or "") or "unknown"


def tarball_licence(path):
    """The `license` field of an npm package's package.json."""
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.count("/") == 1 and member.name.endswith("/package.json"):
                return str(json.load(tar.extractfile(member)).get("license", "unknown"))
    return "unknown"


def download(registry, name, version, folder):
    """Fetch one archive into `folder` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [p for p in folder.iterdir() if p.suffix in (".whl", ".tgz")]
    if found:
        return found[0]
    if registry == "python":
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", "3.13", "-d", str(folder)]
        command += [a for p in PLATFORMS for a in ("--platform", p)] + [f"{name}=={version}"]
    else:
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{name}@{version}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(p for p in folder.iterdir() if p.suffix in (".whl", ".tgz"))


def fetch(work):
    """Yield (registry, role, name, version, archive) for every pinned package, licences checked."""
    for registry, roles in pinned().items():
        for role, packages in roles.items():
            for name, (version, licence) in packages.items():
                folder = work / "archives" / registry / f"{name.replace('/', '+')}-{version}"
                archive = download(registry, name, version, folder)
                found = wheel_licence(archive) if registry == "python" else tarball_licence(archive)
                if found != licence or not permissive(found):
                    raise SystemExit(f"{name} {version}: licence {found!r}, pinned as {licence!r}: refused")
                yield registry, role, name, version, archive
