"""Fills what an op library allocates with NaN, so that an element no kernel wrote shows itself.

torch.utils.deterministic.fill_uninitialized_memory does so for torch.empty, but the libraries
allocate by the C function aoti_torch_empty_strided, which it does not reach. So the library's own
slot for that function (in its global offset table) is pointed at a wrapper.
"""

import collections
import ctypes
import mmap
import struct
from pathlib import Path

import torch

NAME = b"aoti_torch_empty_strided"
CPU, BYTE = 0, 0  # torch's numbers for the device and for uint8
_shim = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
_i64, _i32, _pointer = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
_Empty = ctypes.CFUNCTYPE(
    _i32, _i64, _pointer, _pointer, _i32, _i32, _i32, ctypes.POINTER(_pointer)
)


def data_of(handle):
    """(address, bytes) of a tensor handle's storage."""
    address, size = _pointer(), _i64()
    assert _shim.aoti_torch_get_data_ptr(handle, ctypes.byref(address)) == 0
    assert _shim.aoti_torch_get_storage_size(handle, ctypes.byref(size)) == 0
    return address.value, size.value


fills = collections.deque(maxlen=100)  # (address, bytes) of the latest


@_Empty
def empty_filled(dimensions, sizes, strides, dtype, device_type, device, handle):
    """aoti_torch_empty_strided, filled with the bits 1: NaN in every floating dtype, -1 or 255."""
    error = ctypes.cast(_shim[NAME.decode()], _Empty)(
        dimensions, sizes, strides, dtype, device_type, device, handle
    )
    if error == 0 and device_type == CPU:
        address, size = data_of(_pointer(handle[0]))
        fills.append((address, size))
        if size:
            ctypes.memset(address, 0xFF, size)
    elif error == 0:
        value = ctypes.c_double(255 if dtype == BYTE else -1 if dtype < 5 else float("nan"))
        assert _shim.aoti_torch_aten_fill__Scalar(_pointer(handle[0]), value) == 0
    return error


def _offsets(file):
    """Where in the loaded library the addresses of NAME stand: its relocations of that name."""
    elf = Path(file).read_bytes()
    table, _, _, _, _, entry, count = struct.unpack_from("<QIHHHHH", elf, 0x28)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, table + i * entry) for i in range(count)]
    for _, kind, _, _, begin, size, link, *_ in sections:
        if kind != 4:  # SHT_RELA
            continue
        symbols = sections[link]
        names = sections[symbols[6]][4]
        for offset, info, _ in struct.iter_unpack("<QQq", elf[begin : begin + size]):
            (name,) = struct.unpack_from("<I", elf, symbols[4] + (info >> 32) * 24)
            if elf.startswith(NAME + b"\0", names + name):
                yield offset


def fill_allocations(file):
    """Points the loaded library `file` at empty_filled; returns how many slots it has."""
    maps = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
    base = min(int(m[0].split("-")[0], 16) for m in maps if m[-1] == str(Path(file).resolve()))
    slots = [base + offset for offset in _offsets(file)]
    for slot in slots:
        page = slot & -mmap.PAGESIZE
        read_and_write = mmap.PROT_READ | mmap.PROT_WRITE
        assert ctypes.CDLL(None).mprotect(_pointer(page), mmap.PAGESIZE, read_and_write) == 0
        _pointer.from_address(slot).value = ctypes.cast(empty_filled, _pointer).value
    return len(slots)


def delete(handle):
    assert _shim.aoti_torch_delete_tensor_object(handle) == 0
