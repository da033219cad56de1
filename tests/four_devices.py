"""A script in a process of its own, where JAX sees several devices."""

import os
import subprocess
import sys


def said_on_four(script: str, *arguments: str) -> str:
    """The last line that it prints."""
    return said_on(4, script, *arguments)


def said_on(devices: int, script: str, *arguments: str) -> str:
    """The same with so many devices."""
    count = f"--xla_force_host_platform_device_count={devices}"
    flags = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {count}"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=1200,
        env=os.environ | flags,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]
