"""Build the compiled half of the server: every `.pyx` below `ext/tuskws_fast_ext` is one extension module.

All else about the distribution is declared in pyproject.toml; only what setuptools cannot express there is here:
the second import root `ext/`, the third (`bench/load/tuskws_bench`, the load harness) and the Cython directives.

    TUSKWS_DEBUG=1      count live connections and frames, so that tests can assert that none is left
    TUSKWS_EXT=ring     build only the named modules (comma separated): for work on one of them
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

EXT = Path("ext/tuskws_fast_ext")
LOAD = Path("bench/load/tuskws_bench")
# What a module is linked with beside the C library.
LIBRARIES = {"deflate": ["z"], "loadclient": ["z", "dl"]}

# Bounds are checked where data enters, in the functions that say so; hot loops run over arrays we sized ourselves.
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": True,
    "freethreading_compatible": False,
}


def extensions() -> list[Extension]:
    only = {name for name in os.environ.get("TUSKWS_EXT", "").split(",") if name}
    macros = [("TUSKWS_DEBUG", "1")] if os.environ.get("TUSKWS_DEBUG") else []
    found = []
    for source in sorted([*EXT.glob("*.pyx"), *LOAD.glob("*.pyx")]):
        if only and source.stem not in only:
            continue
        found.append(
            Extension(
                f"{source.parent.name}.{source.stem}",
                [str(source)],
                include_dirs=[str(source.parent)],
                depends=[str(header) for header in sorted(source.parent.glob("*.[h]"))],
                define_macros=macros,
                libraries=LIBRARIES.get(source.stem, []),
                extra_compile_args=["-O3", "-std=gnu11", "-fvisibility=hidden", "-Wno-unused-function"],
            )
        )
    return found


setup(
    packages=[*find_packages("src"), "tuskws_fast_ext", "tuskws_bench"],
    package_dir={"": "src", "tuskws_fast_ext": str(EXT), "tuskws_bench": str(LOAD)},
    ext_modules=cythonize(
        extensions(),
        compiler_directives=DIRECTIVES,
        include_path=["ext"],
        build_dir="build/cython",
    ),
    options={"build_ext": {"parallel": len(os.sched_getaffinity(0))}},
)
