#!/usr/bin/env bash
# Everything that needs a GPU, on a machine that has neither Rust nor a network, in six minutes: README.md says how.
# `run.sh --rehearse` does the same on Mesa's software adapter, with small sizes.
set -uo pipefail
cd "$(dirname "$0")"
[ "${1:-}" = --rehearse ] && rehearse=1 || rehearse=
started=$SECONDS
# Seconds that all steps may take together.
most=${INCODER_HARDWARE_SECONDS:-345}
packed=$PWD/packed
out=${OUT:-$PWD/out}
report=$out/report.md
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
: >"$report"
export XDG_CACHE_HOME=$work/cache NODEVICE_SELECT=1 MESA_VK_IGNORE_CONFORMANCE_WARNING=1
steps=()
failed=0

# Prints a line, and keeps it in the report.
note() { printf '%s\n' "$1" | tee -a "$report"; }
incoder() { "$work/incoder" "$@"; }
left() { echo $((most - SECONDS + started)); }

# step TITLE SECONDS COMMAND…: runs it for at most so long and prints it as it goes. Its output is Markdown, unless `plain` is set.
step() {
    local title=$1 limit=$2 began=$SECONDS code
    shift 2
    note ""
    note "## $title"
    note ""
    if [ "$(left)" -lt 8 ]; then
        note "Left out: the time is up."
        steps+=("| $title | left out, the time was up | |")
        return
    fi
    [ "$limit" -le "$(left)" ] || limit=$(left)
    note "\`$(printf '%s ' "${@//$work\//}" | sed 's/ $//')\`"
    note ""
    [ -z "${plain:-}" ] || note '```'
    timeout --kill-after 5 "$limit" "$@" 2>&1 | tee -a "$report"
    code=${PIPESTATUS[0]}
    [ -z "${plain:-}" ] || note '```'
    case $code in
        0) steps+=("| $title | done | $((SECONDS - began)) |") ;;
        124 | 137) steps+=("| $title | **stopped after $limit s** | $((SECONDS - began)) |") ;;
        *) steps+=("| $title | **failed ($code)** | $((SECONDS - began)) |") ;;
    esac
    [ "$code" -eq 0 ] || failed=1
}
plain() { plain=1 step "$@"; }
# Whether the program has a flag or a command.
has() { incoder "${@:1:$#-1}" --help 2>/dev/null | grep -q -e "${@: -1}"; }

finish() {
    note ""
    note "## Steps"
    note ""
    note "| step | outcome | seconds |"
    note "| --- | --- | ---: |"
    for one in "${steps[@]}"; do note "$one"; done
    note ""
    note "$((SECONDS - started)) seconds in all. $(date -u +%Y-%m-%dT%H:%MZ)"
    exit "$1"
}

note "# A GPU, checked and measured"
note ""
note "- commit: $(paste -sd' ' "$packed/commit" 2>/dev/null || echo unknown)"
note "- machine: $(uname -sr), $(nproc) processors, $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 2^20 }' /proc/meminfo)"
[ -z "$rehearse" ] || note "- **a rehearsal on a software adapter: its figures say nothing**"
for name in incoder kernel-tests; do
    if ! gzip -dc "$packed/$name.gz" >"$work/$name"; then
        note "**packed/$name.gz is missing: run prepare.sh, and have packed/ travel.**"
        finish 2
    fi
    if [ -e "$packed/$name.weights-at" ]; then
        dd status=none conv=notrunc oflag=seek_bytes bs=1M seek="$(cat "$packed/$name.weights-at")" \
            if=../demo-model/weights/model.safetensors of="$work/$name"
    fi
    chmod +x "$work/$name"
done
if ! "$work/incoder" --version >"$work/version" 2>&1; then
    note "**The program does not run here: $(paste -sd' ' "$work/version")**"
    finish 2
fi
note "- $(cat "$work/version")"
note ""
note "## The adapter"
note ""
. ./vulkan.sh
if ! find_adapter; then
    finish 3
fi

shapes=(small 1B 6B)
prompts=128,512,2048 new=64 depths=0,1900 context=2048 repetitions=3
tests=(engine::)
if [ -n "$rehearse" ]; then
    shapes=(small)
    prompts=16,32 new=4 depths=0,60 context=128 repetitions=1
    tests=(kernel_random an_adapter_too_small a_lost_device)
fi
bench=("$work/incoder" bench -q --no-infill -c "$context" -r "$repetitions")

plain "The devices" 10 "$work/incoder" devices
if has doctor; then
    plain "Doctor" 60 "$work/incoder" doctor --quick
fi
for shape in "${shapes[@]}"; do
    step "$shape, fp16" 45 "${bench[@]}" --shape "$shape" -p "$prompts" -n "$new" -d "$depths"
    step "$shape, GPU time by kernel" 25 "${bench[@]}" --shape "$shape" -p "${prompts##*,}" -d "$depths" --profile
done
if has bench --quantize; then
    for shape in "${shapes[@]: -2}"; do
        for format in q8 q4; do
            step "$shape, $format" 30 "${bench[@]}" --shape "$shape" --quantize "$format" -p "${prompts%%,*}" -n "$new" -d "$depths"
        done
    done
fi
tuned=("$work/incoder" bench --no-infill -v -c "$context" -r "$repetitions" --shape "${shapes[${#shapes[@]} / 2]}" -p "${prompts%%,*}" -n "$new")
plain "Workgroup shapes, measured" 25 env XDG_CACHE_HOME="$work/fresh" "${tuned[@]}"
plain "Workgroup shapes, from the file" 25 env XDG_CACHE_HOME="$work/fresh" "${tuned[@]}"
plain "The file" 5 sh -c "cat '$work/fresh/incoder/tuning.json' || echo 'none: a software adapter keeps its own shapes'"
step "Every kernel, by the tokens of a step" 60 "$work/incoder" bench -q --kernels -r "$repetitions" ${rehearse:+--shape small}
step "PyTorch in fp16" 70 env PYTHONUNBUFFERED=1 python3 torch_beside.py ${rehearse:+--rehearse}
# Last, as it takes what is left.
plain "Kernel tests" 120 "$work/kernel-tests" "${tests[@]}"
finish "$failed"
