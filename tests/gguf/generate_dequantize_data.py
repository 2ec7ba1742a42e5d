#!/usr/bin/env python3
"""Writes dequantize_data.h: bytes of each tensor type and the float32 values that the `gguf` package reads from them.

Run: python3 generate_dequantize_data.py > dequantize_data.h   (needs: pip install gguf numpy)
"""
from importlib.metadata import version

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

Type = gguf.GGMLQuantizationType
BLOCKS = 3  # of 32 elements


def raw_bytes(kind, random):
    """Ordinary weights and corner cases: of the format, or random quants under extreme scales and minima."""
    if kind == Type.F16:
        corners = [0x0001, 0x03ff, 0x0400, 0x7bff, 0x8000, 0xfbff, 0x7c00, 0xfc00]
        return np.concatenate([random.normal(size=64).astype(np.float16), np.array(corners * 4, np.uint16).view(np.float16)]).view(np.uint8)
    if kind == Type.BF16:
        corners = [0x0001, 0x007f, 0x0080, 0x7f7f, 0x8000, 0xff7f, 0x7f80, 0xff80]
        ordinary = quantize(random.normal(size=64).astype(np.float32), kind).reshape(-1)
        return np.concatenate([ordinary, np.array(corners * 4, np.uint16).view(np.uint8)])
    ordinary = quantize(random.normal(scale=0.05, size=(1, 32)).astype(np.float32), kind).reshape(-1)
    blocks = [ordinary]
    for scale, minimum in ((-3.7578125, 65504.0), (5.9604645e-08, -0.00048828125)):  # the second scale is the least subnormal
        head = np.array([scale, minimum] if kind == Type.Q4_1 else [scale], np.float16).view(np.uint8)
        blocks.append(np.concatenate([head, random.integers(0, 256, ordinary.size - head.size, np.uint8)]))
    return np.concatenate(blocks)


def lines(items, per_line):
    items = list(items)
    return "\n".join("    " + " ".join(items[i:i + per_line]) for i in range(0, len(items), per_line))


print("// Written by generate_dequantize_data.py with the `gguf` package %s; do not edit." % version("gguf"))
print("#pragma once\n\n#include <cstdint>\n\nnamespace tiercel::dequantize_data {\n")
for kind in (Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1):
    raw = raw_bytes(kind, np.random.default_rng(int(kind)))
    values = np.asarray(dequantize(raw.reshape(1, -1), kind), np.float32).reshape(-1)
    assert values.size == 32 * BLOCKS
    print(f"inline constexpr std::uint8_t k{kind.name}Bytes[] = {{\n{lines((f'0x{b:02x},' for b in raw), 18)}}};")
    print(f"// As the bits of float32.\ninline constexpr std::uint32_t k{kind.name}Values[] = {{\n{lines((f'0x{b:08x},' for b in values.view(np.uint32)), 9)}}};\n")
print("}  // namespace tiercel::dequantize_data")
