"""Runs DeepDRR's own CUDA kernel on the CPU: the installed source, compiled as C++.

Nothing of it is copied. The CUDA words it uses (thread indices, `tex3D`) are given the meaning of the
CUDA C++ programming guide: a linear texture holds texel i at coordinate i + 0.5, its weights have
8 fractional bits, a point texture reads the texel that a coordinate falls in, both clamp.
"""

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

COMPILER = shutil.which("g++")

_PRELUDE = r"""
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <algorithm>
#include <type_traits>
#include <utility>
#define __device__
#define __global__
#define CUDART_PI_F 3.14159265f
struct Index { int x, y, z; };
static Index threadIdx, blockIdx, blockDim;
typedef unsigned long long cudaTextureObject_t;
struct Texture { const void* data; int32_t size[3]; int32_t is_float; int32_t is_linear; };
static int inside(int i, int n) { return std::min(std::max(i, 0), n - 1); }
template <class T> T texel(const Texture& t, int i, int j, int k) {
    size_t at = ((size_t)inside(k, t.size[2]) * t.size[1] + inside(j, t.size[1])) * t.size[0] + inside(i, t.size[0]);
    return t.is_float ? (T)((const float*)t.data)[at] : (T)((const uint8_t*)t.data)[at];
}
template <class T> T tex3D(cudaTextureObject_t handle, float x, float y, float z) {
    const Texture& t = *(const Texture*)handle;
    if (!t.is_linear) return texel<T>(t, (int)floorf(x), (int)floorf(y), (int)floorf(z));
    float at[3] = {x - 0.5f, y - 0.5f, z - 0.5f}, part[3];
    int low[3];
    for (int a = 0; a < 3; a++) {
        low[a] = (int)floorf(at[a]);
        part[a] = roundf((at[a] - low[a]) * 256) / 256;
    }
    float sum = 0;
    for (int corner = 0; corner < 8; corner++) {
        float weight = 1;
        int i[3];
        for (int a = 0; a < 3; a++) {
            int high = (corner >> a) & 1;
            weight *= high ? part[a] : 1 - part[a];
            i[a] = low[a] + high;
        }
        sum += weight * texel<T>(t, i[0], i[1], i[2]);
    }
    return (T)sum;
}
"""

_LAUNCHER = r"""
template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(std::remove_const_t<A>*)arguments[I]...);
}
template <class... A> static void spread(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>());
}
extern "C" void launch(int gx, int gy, int bx, int by, void** arguments) {
    blockDim = {bx, by, 1};
    for (int i = 0; i < gx; i++) for (int j = 0; j < gy; j++)
    for (int u = 0; u < bx; u++) for (int v = 0; v < by; v++) {
        blockIdx = {i, j, 0};
        threadIdx = {u, v, 0};
        spread(projectKernel, arguments);
    }
}
"""


def compile_kernel(source: str, options: tuple[str, ...]):
    """The function `launch` of the kernel `source`, compiled with the ``-D`` options that DeepDRR gives nvcc."""
    defines = [f"-D{value}" for flag, value in zip(options, options[1:], strict=False) if flag == "-D"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for empty in ("cubicTex3D.cu", "math_constants.h"):
            (folder / empty).touch()
        (folder / "kernel.cpp").write_text(_PRELUDE + source + _LAUNCHER, encoding="utf-8")
        library = folder / "kernel.so"
        command = [COMPILER, "-O2", "-w", "-shared", "-fPIC", f"-I{folder}", *defines, str(folder / "kernel.cpp")]
        subprocess.run([*command, "-o", str(library)], check=True)
        return ctypes.CDLL(str(library)).launch
