# SPDX-License-Identifier: Apache-2.0
"""Build megacpt._C from csrc/ and package configs/ and launch/ inside the wheel."""

import os
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import find_packages, setup

ROOT = Path(__file__).parent
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
# `make test-sanitize` builds apart, with every check the compiler and its library can put in.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SANITIZED = ["-O1", "-g", "-fno-omit-frame-pointer", "-D_GLIBCXX_ASSERTIONS", *SANITIZERS]
sanitize = os.environ.get("MEGACPT_SANITIZE") == "1"


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
        "megacpt": ["py.typed", "*.pyi", "**/*.jinja", "**/*.css", "**/*.yaml"],
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
            extra_compile_args=[*(SANITIZED if sanitize else ["-O3"]), *WARNINGS],
            extra_link_args=SANITIZERS if sanitize else [],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
