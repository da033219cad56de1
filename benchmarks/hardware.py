"""What a figure was measured on: the processor, its instruction sets, its memory."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Of what a processor can do, that by which the rate of matrix products differs.
SETS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "sve": "SVE",
    "bf16": "BF16",
}


def processor() -> str:
    """Name and instruction sets, as in `Intel(R) Xeon(R) (2 cores: AVX2, AVX-512)`."""
    name, flags = _on_macos() if sys.platform == "darwin" else _on_linux()
    known = ", ".join(label for flag, label in SETS.items() if flag in flags)
    cores = f"{os.cpu_count()} cores"
    return f"{name} ({cores}: {known})" if known else f"{name} ({cores})"


def _on_linux() -> tuple[str, set[str]]:
    """x86 has `model name` and `flags`, ARM `Features` and no name."""
    try:
        text = CPUINFO.read_text("utf-8")
    except OSError:
        return platform.processor() or platform.machine(), set()
    found = dict(re.findall(r"^([^:\n]+?)\s*: (.*)$", text, re.MULTILINE))
    name = found.get("model name") or platform.machine()
    family = found.get("cpu family"), found.get("model")
    if all(family):  # a virtual machine's name says little
        name += f", family {family[0]} model {family[1]}"
    return name, set(found.get("flags", found.get("Features", "")).split())


def _on_macos() -> tuple[str, set[str]]:
    text = subprocess.run(["sysctl", "-a"], capture_output=True, text=True).stdout
    found = dict(re.findall(r"^([\w.]+): (.*)$", text, re.MULTILINE))
    flags = found.get("machdep.cpu.features", "").lower().split()
    flags += found.get("machdep.cpu.leaf7_features", "").lower().split()
    flags += ["asimd"] * (found.get("hw.optional.AdvSIMD") == "1")
    flags += ["bf16"] * (found.get("hw.optional.arm.FEAT_BF16") == "1")
    return found.get("machdep.cpu.brand_string", platform.machine()), set(flags)


def memory_gib() -> int:
    """Of the machine."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return round(pages / 1024**3)
