"""Hatchling's build hook: compile the BPF object into the package and name the wheel after the platform.

The compiler is a system clang if there is one that can do CO-RE well, else the one inside PyPI's `ziglang`. No kernel
headers are needed: the sources declare the few kernel fields they read, and libbpf relocates them at load.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BPF = Path("src/culpa/collect/trace/bpf")
SOURCE = "culpa.bpf.c"
TARGETS = {"culpa.bpf.o": (), "culpa-plain.bpf.o": ("-DWITHOUT_FETCH",)}
"""Objects and what they are compiled with; the second one is for kernels before 5.12."""
OLDEST_CLANG = 15  # 14 was seen to crash on CO-RE relocations
ZIG = "ziglang>=0.13"
FLAGS = ("-g", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-stack-protector", "-c")


def system_clang() -> str | None:
    """Path of a clang on the PATH that is new enough, or None."""
    clang = shutil.which("clang")
    if clang is None:
        return None
    said = subprocess.run([clang, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\d+)", said)
    return clang if version and int(version[1]) >= OLDEST_CLANG else None


def compiler() -> list[str]:
    """The command that compiles C for BPF."""
    clang = system_clang()
    if clang:
        return [clang, "-target", "bpfel"]
    return [sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding", "-fno-sanitize=undefined"]


def compile_probes(root: Path) -> None:
    """Compile the probes below `root`, a checkout or an unpacked sdist.

    Raises:
        SystemExit: the compiler failed; its words are on stderr.
    """
    folder = root / BPF
    for target, settings in TARGETS.items():
        part = folder / (target + ".part")
        command = [*compiler(), *FLAGS, *settings, SOURCE, "-o", part.name]
        if subprocess.run(command, cwd=folder, check=False).returncode != 0:
            part.unlink(missing_ok=True)
            raise SystemExit(f"cannot compile {folder / SOURCE}: {' '.join(command)}")
        part.rename(folder / target)


def platform_tag() -> str:
    """`py3-none-linux_x86_64`: any Python 3, no ABI; the object holds no code of this machine's C library."""
    return "py3-none-" + re.sub(r"[-.]", "_", sysconfig.get_platform())


class ProbesHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling is present only while building
    """Compiles the probes before a wheel or an editable install is put together."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the build needs besides hatchling: a compiler, 400 MB of it, only where there is no clang."""
        return [] if system_clang() else [ZIG]

    def initialize(self, version: str, build_data: dict[str, object]) -> None:  # noqa: ARG002  # the hook's signature
        """Called by hatchling; `version` is standard or editable."""
        if self.target_name != "wheel":
            return
        compile_probes(Path(self.root))
        build_data["pure_python"] = False
        build_data["tag"] = platform_tag()
