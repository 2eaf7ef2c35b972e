"""A cupy made of numpy, as far as deepdrr 1.2.2 uses it to show a volume; it records what kernels are handed."""

import ctypes
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np

CONSTANTS = (
    "cudaChannelFormatKindFloat cudaChannelFormatKindSigned cudaChannelFormatKindUnsigned cudaResourceTypeArray "
    "cudaAddressModeClamp cudaAddressModeBorder cudaAddressModeWrap cudaAddressModeMirror cudaFilterModePoint "
    "cudaFilterModeLinear cudaReadModeNormalizedFloat cudaReadModeElementType"
).split()


class Array(np.ndarray):
    """An array whose `data.ptr` is its address, as cupy's is on the device."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


class NativeTexture(ctypes.Structure):
    """What `kernel_on_cpu` reads a texture from."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_int32 * 3),
        ("is_float", ctypes.c_int32),
        ("is_linear", ctypes.c_int32),
    ]


class CUDAarray:
    def __init__(self, descriptor, width, height=0, depth=0):
        self.shape = (depth, height, width)

    def copy_from(self, array):
        assert array.shape == self.shape
        assert array.flags.c_contiguous
        self.array = array


class TextureObject:
    def __init__(self, resource, settings):
        self.resource, self.settings = resource, settings
        self.native = NativeTexture()
        self.ptr = ctypes.addressof(self.native)

    @property
    def array(self):
        return self.resource.array

    def fill(self):
        """Point the native texture at the array, which is filled after the texture is made."""
        self.native.data = self.array.ctypes.data
        self.native.size[:] = self.array.shape[::-1]
        self.native.is_float = self.array.dtype == np.float32
        self.native.is_linear = self.settings.filterMode == "cudaFilterModeLinear"


class Device:
    """The only device; `depth` counts the contexts that are open."""

    depth = 0
    free_bytes = 1 << 40

    def __init__(self, number=None):
        self.id = 0 if number is None else number

    @property
    def mem_info(self):
        return self.free_bytes, 1 << 40

    def __enter__(self):
        Device.depth += 1

    def __exit__(self, *error):
        Device.depth -= 1


def build(compile_kernel=None):
    """A module ``cupy`` with the list `launches` of what kernels were called with, `modules` and `textures`.

    Args:
        compile_kernel: ``(source, options) -> launch(grid_x, grid_y, block_x, block_y, pointers)`` for
            the kernel that projects; None if it shall only be recorded.
    """
    cupy = ModuleType("cupy")
    cupy.__spec__ = ModuleSpec("cupy", None)
    cupy.__version__ = "13.6.0"
    cupy.launches, cupy.modules, cupy.textures = [], [], []
    arrays = {}

    def on_device(value):
        array = np.array(value, order="C").view(Array)
        arrays[array.ctypes.data] = array
        return array

    for name in ("uint8", "uint16", "int32", "float32", "uint64", "moveaxis"):
        setattr(cupy, name, getattr(np, name))
    cupy.ndarray = Array
    cupy.array = lambda value, dtype=None: on_device(np.asarray(value, dtype=dtype))
    cupy.asarray = cupy.array
    cupy.zeros = lambda shape, dtype=float: on_device(np.zeros(shape, dtype))
    cupy.ones = lambda shape, dtype=float: on_device(np.ones(shape, dtype))
    cupy.asnumpy = lambda value: np.array(value, order="C")
    cupy.get_array_module = lambda *values: np
    pool = SimpleNamespace(free_all_blocks=lambda: None)
    cupy.get_default_memory_pool = cupy.get_default_pinned_memory_pool = lambda: pool

    def make_texture(resource, settings):
        cupy.textures.append(TextureObject(resource, settings))
        return cupy.textures[-1]

    cupy.cuda = SimpleNamespace(
        Device=Device,
        memory=SimpleNamespace(_set_thread_local_allocator=lambda allocator: None),
        runtime=SimpleNamespace(
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda number: {"name": b"Fake GPU"},
            **{name: name for name in CONSTANTS},
        ),
        get_nvcc_path=lambda: "nvcc",
        texture=SimpleNamespace(
            ChannelFormatDescriptor=lambda *bits_and_kind: bits_and_kind,
            CUDAarray=CUDAarray,
            ResourceDescriptor=lambda kind, cuArr: cuArr,
            TextureDescriptor=lambda **settings: SimpleNamespace(**settings),
            TextureObject=make_texture,
        ),
    )

    class RawModule:
        def __init__(self, code, options=(), backend="nvrtc"):
            self.code, self.options, self.backend = code, options, backend
            cupy.modules.append(self)

        def get_function(self, name):
            compiled = compile_kernel(self.code, self.options) if compile_kernel and name == "projectKernel" else None

            def call(grid, block, args):
                pointed = {n: arrays[int(a)].copy() for n, a in enumerate(args) if int(a) in arrays}
                cupy.launches.append(SimpleNamespace(name=name, grid=grid, block=block, args=args, arrays=pointed))
                if compiled is None:
                    return
                for texture in cupy.textures:
                    texture.fill()
                values = [np.atleast_1d(value) for value in args]
                pointers = (ctypes.c_void_p * len(values))(*[value.ctypes.data for value in values])
                compiled(*grid, *block[:2], pointers)

            return call

    cupy.RawModule = RawModule
    return cupy
