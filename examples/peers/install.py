#!/usr/bin/env python3
"""Install the peers: Debian's packages, and PyPI's into installed/venv beside this file.

    python3 examples/peers/install.py             # llama.cpp is built, which takes minutes
    python3 examples/peers/install.py --cuda      # also PyTorch from PyPI, with 7 GB of CUDA
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / "installed/venv"
# To build llama.cpp, for Vulkan; and PyTorch for the CPU, for which PyPI would bring CUDA.
# OpenBLAS with OpenMP, as PyTorch: two kinds of threads on the same cores wait for each other.
DEBIAN = ["g++", "cmake", "ninja-build", "glslc", "libvulkan-dev", "spirv-headers", "python3-dev", "python3-venv"]
DEBIAN += ["python3-torch", "libopenblas0-openmp"]


def run(command, **env):
    print("+", *command, file=sys.stderr, flush=True)
    if subprocess.run(command, env={**os.environ, **env}).returncode:
        sys.exit(f"error: failed: {' '.join(map(str, command))}")


def is_installed(package):
    status = subprocess.run(["dpkg-query", "-Wf", "${db:Status-Status}", package], capture_output=True, text=True)
    return status.stdout == "installed"


def debian():
    if not shutil.which("apt-get"):
        sys.exit(f"error: no apt-get here; the peers need what Debian calls {' '.join(DEBIAN)}")
    missing = [package for package in DEBIAN if not is_installed(package)]
    if missing and os.geteuid() != 0:
        sys.exit(f"error: run this first: sudo apt-get install {' '.join(missing)}")
    if missing:
        run(["apt-get", "update", "-q"])
        run(["apt-get", "install", "-qy", "--no-install-recommends", *missing], DEBIAN_FRONTEND="noninteractive")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true", help="PyTorch from PyPI as well, which then also runs on the CPU")
    args = parser.parse_args()
    debian()
    # Debian's Python, since python3-torch is for no other.
    if not VENV.exists():
        run(["/usr/bin/python3", "-m", "venv", "--system-site-packages", VENV])
    nice = ["nice", "-n", "15", VENV / "bin/pip", "install", "--disable-pip-version-check"]
    run(
        [*nice, "--no-binary", "llama-cpp-python", "-r", HERE / "requirements.txt"],
        CMAKE_ARGS="-DGGML_VULKAN=on -DLLAVA_BUILD=off",
        CMAKE_BUILD_PARALLEL_LEVEL=str(os.cpu_count()),
        CXXFLAGS=f"-include {HERE / 'layer_settings.hpp'}",
    )
    if args.cuda:
        run([*nice, "-r", HERE / "requirements-cuda.txt"])


if __name__ == "__main__":
    main()
