"""What ptxas says of every CUDA kernel: no spill beyond what is stated here, and no more shared memory than every GPU has.

    cuda_resources_test.py FILE.resources...

Prints a line for each kernel and GPU, as docs/gpu.md has them. SPILLS names the kernels that may spill, and how many bytes.
"""

import collections
import pathlib
import re
import subprocess
import sys

SPILLS = {}  # such as ("decode_attention", "attend_split<float, ...>", "sm_80"): 8
LARGEST_STATIC_SHARED_BYTES = 48 * 1024

ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for '(sm_\d+)'\n(?:ptxas info[^\n]*\n)?\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
    r"ptxas info\s*: Used (\d+) registers(?:, used \d+ barriers)?(?:, (\d+) bytes cumulative stack size)?(?:, (\d+) bytes smem)?"
)


def kernel_name(symbol):
    text = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout.strip()
    text = re.sub(r"\(anonymous namespace\)::|tiercel::kernels::|cuda::|\(int\)", "", re.sub(r"_GLOBAL__N__\w+::", "", text))
    return re.match(r"(?:void )?(\w+(?:<[^(]*>)?)", text).group(1)


def main():
    problems = []
    count = 0
    rows = collections.defaultdict(list)
    for path in map(pathlib.Path, sys.argv[1:]):
        text = path.read_text()
        entries = ENTRY.findall(text)
        if len(entries) != text.count("Compiling entry function") or not entries:
            problems.append(f"{path.name}: not all of it was understood")
        for symbol, gpu, _, stores, loads, registers, _, shared in entries:
            name = kernel_name(symbol)
            count += 1
            spilled = max(int(stores), int(loads))
            if spilled > SPILLS.get((path.stem, name, gpu), 0):
                problems.append(f"{path.stem}: {name} spills {spilled} bytes on {gpu}")
            if int(shared or 0) > LARGEST_STATIC_SHARED_BYTES:
                problems.append(f"{path.stem}: {name} has {shared} bytes of static shared memory on {gpu}")
            rows[path.stem, re.sub("<.*", "", name), gpu].append((int(registers), int(shared or 0), spilled))
    for (file, name, gpu), of in sorted(rows.items()):
        registers, shared, spilled = zip(*of)
        print(f"{file}.cu {name} {gpu}: {len(of)} variants, {min(registers)} to {max(registers)} registers, "
              f"{min(shared)} to {max(shared)} bytes of static shared memory, {max(spilled)} bytes spilled")
    print("\n".join(problems) or f"{count} kernels, none spills more than is stated")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
