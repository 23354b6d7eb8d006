# SPDX-License-Identifier: Apache-2.0
"""Build megacpt._C from csrc/ and package configs/ and launch/ inside the wheel."""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def files_below(folder: str) -> list[str]:
    """Paths below ``folder``, relative to it, for package_data."""
    return sorted(
        str(p.relative_to(ROOT / folder)) for p in (ROOT / folder).rglob("*") if p.is_file()
    )


setup(
    packages=[
        *find_packages(include=["megacpt", "megacpt.*"]),
        "megacpt.configs",
        "megacpt.launch",
    ],
    package_dir={"megacpt.configs": "configs", "megacpt.launch": "launch"},
    package_data={
        "megacpt": ["py.typed", "*.pyi", "**/*.jinja", "**/*.css"],
        "megacpt.configs": files_below("configs"),
        "megacpt.launch": files_below("launch"),
    },
    ext_modules=[
        Pybind11Extension(
            "megacpt._C",
            ["csrc/bindings.cpp"],
            depends=files_below("csrc") and [f"csrc/{f}" for f in files_below("csrc")],
            include_dirs=["csrc"],
            cxx_std=17,
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-Werror"],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
