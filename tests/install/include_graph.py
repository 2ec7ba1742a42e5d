"""Checks who includes whom: layers, third-party libraries, cycles.

    include_graph.py PROJECT_ROOT

Each folder may include itself, the folders named for it here, and the third-party headers named for it. The public headers
name nothing but the standard library. No header includes itself through others.
"""

import pathlib
import re
import sys

PUBLIC = "include/tiercel"

# Folder -> the folders it may include.
LAYERS = {
    PUBLIC: [],
    "src/base": [PUBLIC],
    "src/options": [PUBLIC, "src/base"],
    "src/kv": [PUBLIC, "src/base"],
    "src/tier": [PUBLIC, "src/base", "src/kv"],
    "kernels": [PUBLIC, "src/base", "src/gguf"],  # for the names of quantised formats
    "src/gguf": [PUBLIC, "src/base"],
    "src/text": [PUBLIC, "src/base", "src/gguf"],
    "src/ranks": [PUBLIC],
    "src/device": [PUBLIC, "src/base", "src/kv", "src/ranks"],
    "src/model": [PUBLIC, "src/base", "src/kv", "src/gguf", "src/ranks", "src/device", "kernels"],
    "src/engine": [PUBLIC, "src/base", "src/kv", "src/gguf", "src/text", "src/device", "src/ranks", "src/model", "kernels"],
    "src/replay": [PUBLIC, "src/base", "src/kv"],
    "src/cli": [PUBLIC, "src/base", "src/options", "src/device", "src/replay"],
    "tests/cuemu": [PUBLIC, "src/gguf"],  # CUDA's headers are its own
    "tests/nccl_stand_in": [PUBLIC, "tests/cuemu"],
    "examples": [PUBLIC],
}

# Folder -> the third-party headers it may include, by how they begin.
LIBRARIES = {
    PUBLIC: [],
    "src/base": ["fmt/", "spdlog/"],
    "src/options": ["fmt/", "nlohmann/", "toml++/"],
    "src/kv": ["fmt/", "spdlog/", "xxhash.h"],
    "src/tier": ["fmt/", "xxhash.h", "zstd.h", "openssl/", "liburing.h"],
    "kernels": ["hwy/", "cuda_"],
    "src/gguf": ["fmt/"],
    "src/text": ["fmt/", "pcre2.h", "nlohmann/"],
    "src/ranks": ["fmt/", "gloo/"],
    "src/device": ["fmt/", "cuda_runtime_api.h", "nccl.h"],
    "src/model": ["fmt/", "spdlog/", "xxhash.h", "ATen/", "c10/", "torch/", "cuda_runtime_api.h"],
    "src/engine": ["fmt/", "spdlog/"],
    "src/replay": ["fmt/", "nlohmann/"],
    "src/cli": ["fmt/", "CLI/", "nlohmann/"],
    "tests/cuemu": ["cuda_", "sanitizer/", "gtest/"],
    "tests/nccl_stand_in": ["cuda_", "nccl.h", "gtest/"],
    "examples": ["fmt/"],
}

# Headers of the C library and the operating system; not for the public headers.
SYSTEM = {"cpuid.h", "dirent.h", "dlfcn.h", "fcntl.h", "immintrin.h", "malloc.h", "netdb.h", "poll.h", "pthread.h", "sched.h", "signal.h", "spawn.h", "ucontext.h",
          "unistd.h"}

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:<([^>]+)>|"([^"]+)")', re.MULTILINE)
FOREIGN = re.compile(r"\b(?:fmt|spdlog|at|c10|torch|gloo|hwy|nlohmann|toml|CLI|testing)::|\b(?:XXH|PCRE2_|cuda)[A-Za-z0-9_]+")


def is_standard(name):
    return "/" not in name and "." not in name


def is_system(name):
    return name in SYSTEM or name.startswith(("sys/", "netinet/", "arpa/"))


def is_comment(line):
    return line.lstrip().startswith("//")


class Graph:
    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.problems = []
        self.includes = {}  # header -> headers of ours

    def check(self):
        for folder in LAYERS:
            for path in sorted((self.root / folder).rglob("*")):
                if path.suffix in (".h", ".cc", ".cu"):
                    self.check_file(folder, path)
        self.check_folders()
        self.check_cycles()
        return self.problems

    def check_file(self, folder, path):
        name = path.relative_to(self.root).as_posix()
        text = path.read_text(encoding="utf-8")
        self.includes[name] = []
        for match in INCLUDE.finditer(text):
            angled, quoted = match.groups()
            included = angled or quoted
            target = self.resolve(path, included)
            if target is None:
                if quoted:
                    self.problems.append(f'{name} includes "{included}", which is no file of this project')
                else:
                    self.check_library(folder, name, included)
                continue
            self.includes[name].append(target)
            if target == name:  # a file that Highway compiles once for each instruction set names itself
                continue
            into = self.folder_of(target)
            if into != folder and into not in LAYERS[folder]:
                self.problems.append(f"{name} includes {target}: {folder} may not depend on {into}")
        if folder == PUBLIC:
            for number, line in enumerate(text.splitlines(), 1):
                foreign = None if is_comment(line) else FOREIGN.search(line.split("//")[0])
                if foreign:
                    self.problems.append(f"{name}:{number} names {foreign.group()}: public headers name no third-party type")

    def resolve(self, path, included):
        """The file of this project that an include line means, or None."""
        for base in (self.root / "include", self.root / "src", self.root, path.parent):
            if (base / included).is_file():
                return (base / included).resolve().relative_to(self.root.resolve()).as_posix()
        return None

    def check_library(self, folder, name, included):
        if is_standard(included) or (is_system(included) and folder != PUBLIC):
            return
        if not included.startswith(tuple(LIBRARIES[folder])):
            self.problems.append(f"{name} includes <{included}>: {folder} may not use it")

    def folder_of(self, name):
        return next((folder for folder in LAYERS if name.startswith(folder + "/")), name.rpartition("/")[0])

    def check_folders(self):
        for path in sorted((self.root / "src").glob("*/")):
            folder = path.relative_to(self.root).as_posix()
            if folder not in LAYERS:
                self.problems.append(f"{folder} is in no layer: say in include_graph.py what it may depend on")

    def check_cycles(self):
        done = set()

        def visit(name, trail):
            if name in trail:
                self.problems.append("cycle: " + " -> ".join(trail[trail.index(name):] + [name]))
            elif name not in done:
                for target in self.includes.get(name, []):
                    if target != name:
                        visit(target, trail + [name])
                done.add(name)

        for name in sorted(self.includes):
            visit(name, [])


def main():
    graph = Graph(sys.argv[1])
    problems = graph.check()
    print("\n".join(problems) or f"{len(graph.includes)} files, every include in order")
    if len(graph.includes) < 20:
        problems.append("too few files: is this the project's root?")
        print(problems[-1])
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
