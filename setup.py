# SPDX-License-Identifier: BSD-3-Clause
"""Build `unlearnkit._C` with pybind11 and ninja, and without torch.

The module takes raw pointers and links nothing of torch: one build serves every torch release,
and an isolated build downloads setuptools, pybind11 and ninja alone. A build that fails is a
warning, since the torch routes compute the same numbers. The environment may set

CXX, CXXFLAGS           the C++ compiler (default c++) and flags to add to ours, in linking too
MAX_JOBS                how many files to compile at once (default: as many as there are cores)
UNLEARNKIT_OPENMP       0: threads are std::thread (auto, the default: OpenMP where GCC has it)
UNLEARNKIT_CUDA         what to do with csrc/cuda/*.cu: auto (compile them where nvcc is found and
                        works; the default), 0 (leave them out) or 1 (fail without them)
UNLEARNKIT_CUDA_ARCHS   default "80;90": one binary each, and PTX of the last for newer devices
"""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

CXXFLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
# a * b + c in one instruction where there is one: ISO C++ mode leaves it to be asked for
CXXFLAGS += ["-ffp-contract=fast"]
NVCCFLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
# Files in csrc/cpu/isa/ are compiled once for each of these; the processor chooses when they are run.
ISAS = {
    "portable": [],
    "v3": ["-march=x86-64-v3"],
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}


# Each probe is what a part of csrc/ needs of the compiler.
SUPPORTS = 'bool probe() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avx512vl"); }'
# Clang's OpenMP is a library of its own: beside the one that torch brings, its threads would be in the way.
OPENMP = "#include <omp.h>\n#if defined(__clang__)\n#error\n#endif"


def glob(*patterns: str) -> list[str]:
    """List the files of csrc/ that match, relative to the root as setuptools wants them."""
    return sorted(str(path) for pattern in patterns for path in Path("csrc").glob(pattern))


def find_nvcc() -> str | None:
    """Find the CUDA compiler; the user's word comes before PATH and the usual place."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    names = [os.path.join(home, "bin", "nvcc") for home in homes if home]
    return next(filter(None, map(shutil.which, [*names, "nvcc", "/usr/local/cuda/bin/nvcc"])), None)


def cuda_archs() -> list[str]:
    """Read which architectures are asked for, such as 80 or 90a."""
    archs = os.environ.get("UNLEARNKIT_CUDA_ARCHS", "80;90").split(";")
    if not all(re.fullmatch(r"\d+[af]?", arch) for arch in archs):
        sys.exit(f"UNLEARNKIT_CUDA_ARCHS={';'.join(archs)!r} is not known: set it to numbers such as 80;90")
    return archs


def gencode() -> list[str]:
    """Name the architectures to nvcc."""
    archs = cuda_archs()
    targets = [(arch, f"sm_{arch}") for arch in archs] + [(archs[-1], f"compute_{archs[-1]}")]
    return [f"-gencode=arch=compute_{arch},code={code}" for arch, code in targets]


def accepts(command: list[str], code: str) -> bool:
    """Tell whether the compiler makes an object of a piece of code, warnings apart."""
    command = [*command, "-x", "c++", "-", "-S", "-o", os.devnull]
    return subprocess.run(command, input=code, text=True, capture_output=True).returncode == 0


class NinjaBuild(build_ext):
    """Compile an extension's .cpp and .cu files in parallel, and only what has changed."""

    def build_extension(self, ext: Extension) -> None:
        """Build with CUDA where that is asked for and possible, else for the CPU alone."""
        mode = os.environ.get("UNLEARNKIT_CUDA", "auto")
        if mode not in ("auto", "0", "1"):
            sys.exit(f"UNLEARNKIT_CUDA={mode!r} is not known: set it to auto, 0 or 1")
        ext.optional = mode != "1"  # what the user insists on fails loudly
        sources = any(source.endswith(".cu") for source in ext.sources)
        nvcc = find_nvcc() if sources and mode != "0" else None
        if mode == "1" and not sources:
            sys.exit("UNLEARNKIT_CUDA=1, but csrc/cuda/ holds nothing to compile: leave it unset")
        if mode == "1" and nvcc is None:
            sys.exit("UNLEARNKIT_CUDA=1 needs nvcc: set CUDA_HOME to the CUDA toolkit's folder")
        if nvcc is None:
            found = "nvcc was not found" if sources else "no sources"
            self.compile(ext, None, "switched off" if mode == "0" else found)
            return
        try:
            self.compile(ext, nvcc)
        except CompileError as error:
            if mode == "1":
                raise
            self.warn(f"the CUDA build failed, so unlearnkit is built for the CPU alone: {error}")
            self.compile(ext, None, "nvcc failed")

    def compile(self, ext: Extension, nvcc: str | None, without_cuda: str = "") -> None:
        """Write build.ninja and run it; the folder's name holds the hash of the flags."""
        import pybind11  # here, so that metadata can be asked for where neither is installed
        from ninja import ninja_syntax

        compiler = os.environ.get("CXX", "c++")
        cxx = shutil.which(compiler)
        if cxx is None:
            raise CompileError(f"no C++ compiler: {compiler} is not on PATH")
        cxxflags = CXXFLAGS + shlex.split(os.environ.get("CXXFLAGS", ""))
        openmp = os.environ.get("UNLEARNKIT_OPENMP") != "0" and accepts([cxx, "-fopenmp"], OPENMP)
        cxxflags.append("-fopenmp" if openmp else "-pthread")  # which std::thread needs in an old glibc
        x86 = all(accepts([cxx, *flags], SUPPORTS) for flags in ISAS.values())
        isas = ISAS if x86 else {"portable": []}
        cxxflags.append(f"-DUNLEARNKIT_X86={int(x86)}")
        key = hashlib.sha256(repr([cxxflags, isas]).encode()).hexdigest()[:8]
        archs = ", ".join(f"sm_{arch}" for arch in cuda_archs()) + ", PTX for newer ones"
        # What build_info() says; to module.cpp alone, so that nothing else is compiled anew.
        said = {"CUDA": int(nvcc is not None), "CUDA_BUILD": without_cuda or archs, "FLAGS": key}
        ours = f"-I{os.path.abspath('csrc')}"
        headers = [sysconfig.get_path("include"), pybind11.get_include()]
        includes = [ours, *(f"-isystem{path}" for path in headers)]
        # Python's own linker flags, for they differ between systems; nvcc finds libcudart itself.
        link = [cxx, *shlex.split(sysconfig.get_config_var("LDSHARED") or "")[1:], *cxxflags]
        if nvcc:
            link = [nvcc, "-shared", "-cudart=static", f"-ccbin={cxx}"]
            link += ["-Xcompiler", "-fopenmp"] * ("-fopenmp" in cxxflags)

        folder = Path("build", f"{sysconfig.get_config_var('SOABI')}-{key}").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "build.ninja", "w") as file:
            ninja = ninja_syntax.Writer(file)

            def rule(name: str, command: list[str], tail: str, **options: str) -> None:
                ninja.rule(name, ninja_syntax.escape(shlex.join(command)) + tail, **options)

            deps = {"depfile": "$out.d", "deps": "gcc"}
            rule("cpp", [cxx, *cxxflags, *includes], " $extra -MMD -MF $out.d -c $in -o $out", **deps)
            if nvcc:
                command = [nvcc, *NVCCFLAGS, *gencode(), f"-ccbin={cxx}", ours]
                rule("cu", command, " -MD -MF $out.d -c $in -o $out", **deps)
            rule("link", link, " $in -o $out")
            objects = []
            for source in ext.sources:
                suffix = source.rpartition(".")[2]
                if suffix == "cu" and not nvcc:
                    continue
                extras = {"": []}
                if Path(source).parent.name == "isa":
                    extras = {isa: [f"-DUNLEARNKIT_ISA={isa}", *flags] for isa, flags in isas.items()}
                elif Path(source).name == "module.cpp":
                    extras[""] = [f"-DUNLEARNKIT_{name}={value}" for name, value in said.items()]
                for name, flags in extras.items():
                    extra = {"extra": ninja_syntax.escape(shlex.join(flags))}
                    path = os.path.abspath(source)
                    objects += ninja.build(f"{source}.{name}.o", suffix, path, variables=extra)
            ninja.build("_C.so", "link", objects)

        run = [sys.executable, "-m", "ninja", "-C", str(folder)]
        if jobs := os.environ.get("MAX_JOBS"):
            run += ["-j", jobs]
        result = subprocess.run(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(result.stdout)
        if result.returncode:
            raise CompileError(f"ninja failed in {folder}:\n{result.stdout}")
        target = self.get_ext_fullpath(ext.name)
        self.mkpath(os.path.dirname(target))
        self.copy_file(str(folder / "_C.so"), target)


if __name__ == "__main__":
    module = Extension(
        "unlearnkit._C",
        sources=glob("module.cpp", "cpu/**/*.cpp", "cuda/*.cu"),
        depends=glob("**/*.h", "**/*.cuh"),  # the source distribution needs the headers too
        optional=True,
    )
    setup(ext_modules=[module], cmdclass={"build_ext": NinjaBuild})
