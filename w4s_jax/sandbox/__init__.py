"""Runs model-written code: `open_sandbox` gives a `Sandbox`; `base.py` says what is covered.

flags ─ open_sandbox ─ Pool ─ zygote ─ guarded children
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence

from w4s_jax.sandbox import base, isolation
from w4s_jax.sandbox.link import UnusableError
from w4s_jax.sandbox.pool import Pool
from w4s_jax.types import InputError

_LOG = logging.getLogger(__name__)

DEFAULT_PACKAGES = ("numpy", "sympy")


@contextlib.asynccontextmanager
async def open_sandbox(
    name: str = "auto",
    *,
    packages: Sequence[str] = DEFAULT_PACKAGES,
    workers: int | None = None,
    allow_unsafe: bool = False,
) -> AsyncIterator[Pool]:
    """A sandbox that runs while the context is open.

    Args:
        name: `bwrap`, `guard`, `process`, or `auto`: bwrap where it works, else guard.
        packages: Distributions that workflows and programs may import.
        workers: Children that compute at a time; the number of cores where None.
        allow_unsafe: Lets `process` run while an API key is in the environment.

    Raises:
        InputError: The back end is unknown, does not work on this machine, or is unsafe here.
    """
    if name not in base.BACK_ENDS:
        raise InputError(f"sandbox={name!r} is unknown; allowed: {', '.join(base.BACK_ENDS)}")
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers} of the sandbox; allowed: at least 1")
    if name == "process":
        _warn_of_process(allow_unsafe)
    pool = await _first_that_works(name, tuple(packages), workers or os.cpu_count() or 1)
    _LOG.info("sandbox %s: %s", pool.name, ", ".join(pool.layers))
    try:
        yield pool
    finally:
        pool.close()


async def _first_that_works(name: str, packages: tuple[str, ...], workers: int) -> Pool:
    isolation.package_paths(packages)  # a package that is missing is no fault of a back end
    reasons = []
    for candidate in ("bwrap", "guard") if name == "auto" else (name,):
        try:
            pool = Pool(isolation.recipe(candidate, packages), workers)
            await pool.start()
        except (InputError, UnusableError) as error:
            reasons.append(str(error))
        else:
            return pool
    raise InputError(f"{'; '.join(reasons)}; remedy: {isolation.INSTALL_BWRAP}, or a Linux kernel with Landlock")


def _warn_of_process(allow_unsafe: bool) -> None:
    secrets = isolation.secrets_in(os.environ)
    if secrets and not allow_unsafe:
        raise InputError(
            f"sandbox='process' with {', '.join(secrets)} in the environment: model-written code could read it; "
            "use --sandbox=auto, unset it, or pass --allow_unsafe_sandbox"
        )
    print(f"warning: {base.PROCESS_DOES_NOT_STOP}", file=sys.stderr)


__all__ = ["DEFAULT_PACKAGES", "open_sandbox"]
