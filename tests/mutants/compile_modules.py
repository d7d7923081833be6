"""Compiles some modules of the tree that it is run in, with the flags of its setup.py but hardly optimised: a mutant runs once."""

from __future__ import annotations

import sys
from pathlib import Path


def main(sources: list[str]) -> None:
    """Build these .pyx files in place."""
    root = Path.cwd()
    sys.path.insert(0, str(root))
    # From the tree, so that its flags and directives count; a top-level `import setup` would be resolved before the path is set.
    from Cython.Build import cythonize
    from setuptools import setup

    import setup as project

    # Generated C comes from a file that just changed; what the original left there is a link to it.
    for source in sources:
        (root / "build/release/generated" / source).with_suffix(".c").unlink(missing_ok=True)
    wanted = [extension for extension in project.extensions(root) if extension.sources[0] in sources]
    assert len(wanted) == len(sources), (sources, [extension.sources for extension in wanted])
    for extension in wanted:
        extension.extra_compile_args = [argument for argument in extension.extra_compile_args if argument[:2] != "-g"] + ["-O1", "-g0"]
    modules = cythonize(
        wanted,
        build_dir="build/release/generated",
        compiler_directives=project.directives(),
        include_path=["."],
        force=True,
        quiet=True,
    )
    setup(
        name="mutant",
        ext_modules=modules,
        script_args=["--quiet", "build_ext", "--inplace", "--force", "--build-temp", "build/mutant"],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
