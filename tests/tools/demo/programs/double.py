"""double.py [SECONDS]: double 2^16 numbers on every OpenCL device there is, by its C library alone; check each result.

Prints a line a device, and goes on for SECONDS. Exit status 1: there is no device, or a call failed.
"""

import array
import ctypes
import sys
import time
from collections.abc import Callable
from typing import TypeAlias

COUNT = 2**16
SOURCE = b"__kernel void twice(__global float *x) { size_t i = get_global_id(0); x[i] = 2.0f * x[i]; }"
NAME = 0x102B  # CL_DEVICE_NAME
ALL_DEVICES = 0xFFFFFFFF
READ_WRITE = 1
cl = ctypes.CDLL("libOpenCL.so.1")
for each in (
    "clCreateContext",
    "clCreateCommandQueue",
    "clCreateProgramWithSource",
    "clCreateKernel",
    "clCreateBuffer",
):
    getattr(cl, each).restype = ctypes.c_void_p


def check(status: int, what: str) -> None:
    if status:
        sys.exit(f"OpenCL failed: {what}: {status}")


def listed(function: Callable[..., int], *of: object) -> list[int]:
    """What one of OpenCL's functions lists: it is asked how many there are, then for them."""
    count = ctypes.c_uint(0)
    if function(*of, 0, None, ctypes.byref(count)) or not count.value:
        return []
    found = (ctypes.c_void_p * count.value)()
    check(function(*of, count, found, None), "list")
    return [each for each in found if each]


Numbers: TypeAlias = "array.array[float]"


class Device:
    def __init__(self, device: int) -> None:
        status, self._device = ctypes.c_int(0), ctypes.c_void_p(device)
        text = ctypes.create_string_buffer(256)
        check(cl.clGetDeviceInfo(self._device, NAME, ctypes.c_size_t(256), text, None), "name")
        self.name = text.value.decode()
        handle = ctypes.byref(self._device)
        context = ctypes.c_void_p(cl.clCreateContext(None, 1, handle, None, None, ctypes.byref(status)))
        check(status.value, "context")
        no_properties = ctypes.c_ulong(0)
        queue = cl.clCreateCommandQueue(context, self._device, no_properties, ctypes.byref(status))
        self._queue = ctypes.c_void_p(queue)
        check(status.value, "queue")
        source = ctypes.c_char_p(SOURCE)
        program = cl.clCreateProgramWithSource(context, 1, ctypes.byref(source), None, ctypes.byref(status))
        check(status.value, "program")
        check(cl.clBuildProgram(ctypes.c_void_p(program), 1, handle, None, None, None), "build")
        self._kernel = ctypes.c_void_p(cl.clCreateKernel(ctypes.c_void_p(program), b"twice", ctypes.byref(status)))
        check(status.value, "kernel")
        self._size = ctypes.c_size_t(4 * COUNT)
        buffer = cl.clCreateBuffer(context, ctypes.c_ulong(READ_WRITE), self._size, None, ctypes.byref(status))
        self._buffer = ctypes.c_void_p(buffer)
        check(status.value, "buffer")

    def doubles(self, numbers: Numbers) -> Numbers:
        data = (ctypes.c_float * COUNT).from_buffer_copy(numbers)
        start, count = ctypes.c_size_t(0), ctypes.c_size_t(COUNT)
        moves = (self._queue, self._buffer, 1, start, self._size, data, 0, None, None)
        check(cl.clEnqueueWriteBuffer(*moves), "write")
        pointer = ctypes.c_size_t(ctypes.sizeof(ctypes.c_void_p))
        check(cl.clSetKernelArg(self._kernel, 0, pointer, ctypes.byref(self._buffer)), "argument")
        one = (self._queue, self._kernel, 1, None, ctypes.byref(count), None, 0, None, None)
        check(cl.clEnqueueNDRangeKernel(*one), "run")
        check(cl.clEnqueueReadBuffer(*moves), "read")
        return array.array("f", data)


devices = [Device(device) for platform in listed(cl.clGetPlatformIDs) for device in
           listed(cl.clGetDeviceIDs, ctypes.c_void_p(platform), ctypes.c_ulong(ALL_DEVICES))]  # fmt: skip
if not devices:
    sys.exit("no OpenCL device: is the server there?")
numbers = array.array("f", range(COUNT))
wanted = array.array("f", (2 * each for each in numbers))
end = time.monotonic() + (float(sys.argv[1]) if len(sys.argv) > 1 else 0)
told = False
while not told or time.monotonic() < end:
    for device in devices:
        if device.doubles(numbers) != wanted:
            sys.exit(f"wrong result of {device.name}")
        if not told:
            print(f"{COUNT} numbers doubled on {device.name}", flush=True)
    told = True
print("done", flush=True)
