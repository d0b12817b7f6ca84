# Sourced by run.sh: finds a Vulkan driver, or says in full what it looked for. Needs $work (a folder), $packed, `note` and
# `incoder`.

manifest_folders=(/usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d /usr/local/nvidia/share/vulkan/icd.d)
driver_folders=(/usr/lib/x86_64-linux-gnu /usr/lib64 /usr/lib /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/local/lib)

# The file of a library by its name; nothing where there is none.
library() {
    local path
    path=$(ldconfig -p 2>/dev/null | awk -v name="$1" '$1 == name && /x86-64/ { print $NF; exit }')
    for folder in "${driver_folders[@]}"; do
        [ -n "$path" ] || { [ -e "$folder/$1" ] && path="$folder/$1"; }
    done
    echo "$path"
}

# Libraries that were packed take the place of those that are missing, and of no others.
fill_in_libraries() {
    mkdir -p "$work/lib"
    for file in "$packed"/lib/*; do
        local name
        name=$(basename "$file")
        [ -n "$(library "$name")" ] || { cp "$file" "$work/lib/$name" && note "- $name is missing here: the packed one is used"; }
    done
    export LD_LIBRARY_PATH="$work/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}

# What there is to find a driver by.
show_what_there_is() {
    local cards='not installed'
    command -v nvidia-smi >/dev/null &&
        cards=$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>&1 | head -4 | paste -sd';')
    note "- nvidia-smi: $cards"
    note "- NVIDIA_DRIVER_CAPABILITIES: ${NVIDIA_DRIVER_CAPABILITIES:-not set}"
    for folder in "${manifest_folders[@]}"; do
        note "- $folder: $(ls "$folder" 2>/dev/null | paste -sd' ' | grep . || echo nothing)"
    done
    for name in libvulkan.so.1 libGLX_nvidia.so.0 libEGL_nvidia.so.0 libnvidia-glcore.so libnvidia-eglcore.so libnvidia-gpucomp.so; do
        local found
        found=$(library "$name")
        [ -n "$found" ] || found=$(ls /usr/lib/x86_64-linux-gnu/"$name"* /usr/local/nvidia/lib64/"$name"* 2>/dev/null | head -1)
        note "- $name: ${found:-nowhere}"
    done
    note "- /dev: $(ls -d /dev/nvidia* /dev/dri/* 2>/dev/null | paste -sd' ' | grep . || echo 'neither nvidia* nor dri/*')"
}

# Adapters that are no software, one a line; `$rehearse` takes any.
adapters() {
    incoder devices --json 2>"$work/devices.err" | python3 -c '
import json, sys
text = sys.stdin.read()
for one in json.loads(text)["devices"] if text else []:
    if one["type"] != "software" or sys.argv[1]:
        print("%s (%s, %s, %s)" % tuple(one[key] for key in ("name", "backend", "type", "driver")))' "${rehearse:-}"
}

manifest() {
    printf '{"file_format_version": "1.0.1", "ICD": {"library_path": "%s", "api_version": "1.3.277"}}\n' "$1" >"$2"
}

# Tries one way to reach a driver: its description, and the manifest (none: the loader's own search).
attempt() {
    [ -z "${2:-}" ] || export VK_DRIVER_FILES="$2" VK_ICD_FILENAMES="$2"
    local found
    found=$(adapters)
    note "- $1: ${found:-no hardware adapter}$([ -n "$found" ] || head -c 300 "$work/devices.err" | paste -sd' ' | sed 's/^\(.\)/ (\1/; s/$/)/; s/^)$//')"
    [ -n "$found" ] || unset VK_DRIVER_FILES VK_ICD_FILENAMES
    [ -n "$found" ]
}

find_adapter() {
    fill_in_libraries
    show_what_there_is
    if [ -n "${rehearse:-}" ]; then
        attempt "the software adapter" "$(ls /usr/share/vulkan/icd.d/lvp_icd*.json | head -1)" && return
    fi
    attempt "the loader's own search" && return
    for folder in "${manifest_folders[@]}"; do
        for file in "$folder"/*nvidia*.json; do
            [ -e "$file" ] && attempt "$file" "$file" && return
        done
    done
    for name in libGLX_nvidia.so.0 libEGL_nvidia.so.0; do
        local driver
        driver=$(library "$name")
        [ -n "$driver" ] || continue
        manifest "$driver" "$work/$name.json"
        attempt "a manifest written for $driver" "$work/$name.json" && return
        note "- $driver needs and does not find: $(ldd "$driver" 2>/dev/null | awk '/not found/ { print $1 }' | paste -sd' ' | grep . || echo nothing)"
    done
    note ""
    note "**No Vulkan adapter of a GPU was found.** What the loader says with the last manifest:"
    note ""
    note '```'
    note "$(VK_LOADER_DEBUG=error,warn,driver VK_DRIVER_FILES="$(ls "$work"/*.json 2>/dev/null | tail -1)" incoder devices 2>&1 | grep -v '^$' | tail -40)"
    note '```'
    return 1
}
