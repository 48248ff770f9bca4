"""What pyproject.toml cannot say: the commands of `experiments/` are shipped as the package `w4s_jax.commands`.

In a checkout they stay outside the library, which reads no flag and does not import them.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["w4s_jax*"]), "w4s_jax.commands"],
    package_dir={"w4s_jax.commands": "experiments"},
)
