"""What bigjax finds on this machine, and whether its devices compute."""

import platform
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from bigjax.training.flops import peak_flops
from bigjax.training.manifest import PACKAGES, cpu_model, package_version


def doctor() -> Iterator[str]:
    """Lines of a report: versions, devices, and a matrix product on each device, checked and timed."""
    yield f"python {platform.python_version()} on {platform.platform()}"
    yield cpu_model()
    yield "  ".join(f"{name} {version}" for name in PACKAGES if (version := package_version(name)))
    yield f"backend {jax.default_backend()}, {jax.device_count()} devices, {jax.process_count()} processes"
    for device in jax.local_devices():
        yield f"{device}: {check_matmul(device)}"


def check_matmul(device: jax.Device) -> str:
    """One line on a bfloat16 and a float32 product of ones, [n, n] @ [n, n], whose every element is n."""
    n = 2048 if device.platform == "cpu" else 8192
    found = []
    for dtype in (jnp.bfloat16, jnp.float32):
        x = jax.device_put(jnp.ones((n, n), dtype), device)
        product = jax.jit(jnp.matmul)
        right = bool((product(x, x) == n).all())
        start = time.perf_counter()
        for _ in range(3):
            y = product(x, x)
        y.block_until_ready()
        rate = 3 * 2 * n**3 / (time.perf_counter() - start)
        found.append(f"{jnp.dtype(dtype).name} {rate / 1e12:.2f} TFLOP/s{'' if right else ' WRONG RESULT'}")
    peak = peak_flops(device.device_kind)
    return f"{device.device_kind}, matmul {', '.join(found)}" + (f" (peak {peak / 1e12:.0f})" if peak else "")
