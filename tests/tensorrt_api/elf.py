"""Writes an empty shared library: a name and some symbols, no code.

TensorRT's bindings name its libraries and take the addresses of a few of their functions when they are loaded.
Libraries of those names that define those symbols let the bindings load, and everything in them be read; nothing can be
called. Layout: the ELF-64 specification (System V ABI, chapters 4 and 5).
"""

from __future__ import annotations

import platform
import struct

MACHINES = {"x86_64": 62, "aarch64": 183}
HEADER, PROGRAM_HEADER, SYMBOL, DYNAMIC = 64, 56, 24, 16
PT_LOAD, PT_DYNAMIC, READ_WRITE = 1, 2, 6
DT_NULL, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_SONAME = 0, 4, 5, 6, 10, 11, 14
GLOBAL_FUNCTION, SHARED_OBJECT = 0x12, 3


def shared_library(soname: str, symbols: list[str]) -> bytes:
    """The bytes of a shared library called `soname` that defines `symbols`, all at the same address."""
    names = [b"", soname.encode(), *(symbol.encode() for symbol in symbols)]
    starts = [sum(len(name) + 1 for name in names[:index]) for index in range(len(names))]
    strings = b"".join(name + b"\0" for name in names)
    count = len(symbols) + 1  # the first symbol is empty
    dynamic_at = HEADER + 2 * PROGRAM_HEADER
    symbols_at = dynamic_at + 7 * DYNAMIC
    hash_at = symbols_at + SYMBOL * count
    strings_at = hash_at + 4 * (3 + count)
    size = strings_at + len(strings)
    entries = [
        (DT_HASH, hash_at),
        (DT_STRTAB, strings_at),
        (DT_SYMTAB, symbols_at),
        (DT_STRSZ, len(strings)),
        (DT_SYMENT, SYMBOL),
        (DT_SONAME, starts[1]),
        (DT_NULL, 0),
    ]
    table = bytes(SYMBOL) + b"".join(
        struct.pack("<IBBHQQ", start, GLOBAL_FUNCTION, 0, 1, symbols_at, 0) for start in starts[2:]
    )
    # One bucket, and all symbols in its chain.
    chain = [0, *(index + 1 if index + 1 < count else 0 for index in range(1, count))]
    return b"".join(
        [
            b"\x7fELF\x02\x01\x01" + bytes(9),
            struct.pack("<HHIQQQIHHHHHH", SHARED_OBJECT, MACHINES[platform.machine()], 1, 0, HEADER, 0, 0, HEADER,
                        PROGRAM_HEADER, 2, 0, 0, 0),
            struct.pack("<IIQQQQQQ", PT_LOAD, READ_WRITE, 0, 0, 0, size, size, 0x1000),
            struct.pack("<IIQQQQQQ", PT_DYNAMIC, READ_WRITE, *[dynamic_at] * 3, *[7 * DYNAMIC] * 2, 8),
            b"".join(struct.pack("<QQ", *entry) for entry in entries),
            table,
            struct.pack(f"<{3 + count}I", 1, count, int(count > 1), *chain),
            strings,
        ]
    )  # fmt: skip
