#!/usr/bin/env bash
# Builds what run.sh needs on a machine without Rust and without a network, and packs it into packed/: the program, the kernel
# tests, and the libraries that a Vulkan driver may miss there.
set -euo pipefail
cd "$(dirname "$0")/../.."
packed=examples/hardware/packed
# What a machine may be sent beside the repository itself.
most_bytes=$((20 << 20))
libraries=(libvulkan.so.1 libX11.so.6 libXext.so.6 libxcb.so.1 libXau.so.6 libXdmcp.so.6 libbsd.so.0 libmd.so.0 libGLdispatch.so.0)

cargo build --release --locked --workspace
# The profile of all other tests, in which the crate is optimised; --workspace, as other features would build everything again.
tests=$(cargo test --locked --workspace --lib --no-run --message-format json | python3 -c '
import json, sys
for line in sys.stdin:
    built = json.loads(line)
    if built.get("executable") and built["target"]["name"] == "incoder" and "lib" in built["target"]["kind"]:
        print(built["executable"])')

rm -rf "$packed"
mkdir -p "$packed/lib"
pack() {
    strip --strip-all -o "$packed/$2" "$1"
    leave_weights_out "$packed/$2" "$packed/$2.weights-at"
    gzip -9 "$packed/$2"
}
# The demo model's weights are in the program and in the repository, which travels too: zeros take their place in the packed
# program, and the file beside it says where run.sh puts them back.
leave_weights_out() {
    python3 - "$1" "$2" examples/demo-model/weights/model.safetensors <<'END'
import sys
from pathlib import Path
program, place, weights = map(Path, sys.argv[1:])
code, weights = program.read_bytes(), weights.read_bytes()
at = code.find(weights)
if at >= 0:
    program.write_bytes(code[:at] + bytes(len(weights)) + code[at + len(weights):])
    place.write_text(f"{at}\n")
END
}
pack "${CARGO_TARGET_DIR:-target}/release/incoder" incoder
pack "$tests" kernel-tests
for library in "${libraries[@]}"; do
    path=$(ldconfig -p | awk -v name="$library" '$1 == name && /x86-64/ { print $NF; exit }')
    if [ -n "$path" ]; then
        cp -L "$path" "$packed/lib/$library"
    else
        echo "not packed: $library is not installed here"
    fi
done
git rev-parse HEAD >"$packed/commit"
[ -z "$(git status --porcelain --untracked-files=no)" ] || echo "with changes that are not committed" >>"$packed/commit"

bytes=$(du -sb "$packed" | cut -f1)
du -ah --apparent-size "$packed" | sort -k2
if [ "$bytes" -gt "$most_bytes" ]; then
    echo "error: $packed has $bytes bytes, at most $most_bytes can travel" >&2
    exit 1
fi
