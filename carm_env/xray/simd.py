"""Vector instructions for the separable projector: four short pieces of LLVM IR for numba.

Plain numba is three times slower in the two inner loops. It cannot promise LLVM that arrays do not
overlap, so a loop with ``h[i] = row[index[i]]`` stays scalar; forced to vectorise, it uses hardware
gathers, which are slower still. Hence `resample_row`, `accumulate_rows`, and `cubic_patch` for the
warp.

There are three modes, `Avx512`, `Avx2` and `Generic` (no assumption about the CPU; ARM as well). A
mode is a *type*: kernels take an instance as their first argument, so numba compiles, and caches on
disk, one version for each mode. Numba's cache does not see changes in this file: touch
``separable_kernels.py`` after an edit here.
"""

from __future__ import annotations

from typing import NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic


class Avx512(NamedTuple):
    """16 lanes; permutes over two 16-lane registers."""

    lanes: int = 16


class Avx2(NamedTuple):
    """8 lanes; permutes over one 8-lane register."""

    lanes: int = 8


class Generic(NamedTuple):
    """8 lanes of whatever vectors LLVM finds; neighbours are loaded one by one."""

    lanes: int = 8


Mode = Avx512 | Avx2 | Generic

LANES = {Avx512: 16, Avx2: 8, Generic: 8}
QUAD, WINDOW = 4, 8
"""Lanes that share a window, and its width in voxels: what a 128-bit byte shuffle reaches."""
SLICES_PER_PASS = 4
"""Slices added to an accumulator row in one pass over it."""
ROWS_AT_A_TIME = (4, 2, 1)
RING_ROWS = 8
"""Resampled rows of a slice that are kept at a time; a power of two."""

FAST = ("fast",)
_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


def available_modes() -> list[Mode]:
    """The modes this CPU can run, fastest first; `Generic` is always among them."""
    # The description of the CPU for which numba compiles, which a user may restrict.
    features = config.CPU_FEATURES if config.CPU_NAME else llvm.get_host_cpu_features().flatten()
    enabled = {feature[1:] for feature in (features or "").split(",") if feature.startswith("+")}
    modes: list[Mode] = []
    if "avx512bw" in enabled:
        modes.append(Avx512())
    if "avx2" in enabled:
        modes.append(Avx2())
    return [*modes, Generic()]


MODE = available_modes()[0]
"""The mode that is used unless another is asked for."""


class _Vectors:
    """Vector types and the few operations on them that the intrinsics share."""

    def __init__(self, builder: ir.IRBuilder, lanes: int) -> None:
        self.builder, self.lanes = builder, lanes
        self.float = ir.VectorType(_F32, lanes)
        self.int = ir.VectorType(_I32, lanes)
        self.short_pair = ir.VectorType(_I16, 2 * lanes)

    def load(self, pointer: ir.Value, offset: ir.Value, kind: ir.Type, align: int = 4) -> ir.Value:
        address = self.builder.gep(pointer, [offset])
        return self.builder.load(self.builder.bitcast(address, kind.as_pointer()), align=align)

    def store(self, value: ir.Value, pointer: ir.Value, offset: ir.Value) -> None:
        address = self.builder.gep(pointer, [offset])
        self.builder.store(value, self.builder.bitcast(address, value.type.as_pointer()), align=4)

    def splat(self, scalar: ir.Value) -> ir.Value:
        single = self.builder.insert_element(ir.Constant(self.float, ir.Undefined), scalar, _I32(0))
        return self.broadcast_lane(single, 0)

    def broadcast_lane(self, vector: ir.Value, lane: int) -> ir.Value:
        return self.builder.shuffle_vector(vector, vector, ir.Constant(self.int, [lane] * self.lanes))

    def all_equal(self, number: int) -> ir.Constant:
        return ir.Constant(self.int, [number] * self.lanes)

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fadd(a, b, flags=FAST)

    def multiply(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fmul(a, b, flags=FAST)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        return self.add(self.multiply(a, b), c)


def _data(context, builder, array_type, array) -> ir.Value:
    return context.make_array(array_type)(context, builder, array).data


def _external(builder, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Value:
    known = builder.module.globals
    return known[name] if name in known else ir.Function(builder.module, ir.FunctionType(result, arguments), name)


@intrinsic
def lanes_of(typing_context, mode):
    """``lanes_of(mode)``: the number of lanes, as a constant that LLVM can use."""

    def generate(context, builder, signature, arguments):
        return _I64(LANES[mode.instance_class])

    return types.int64(mode), generate


@intrinsic
def shuffles(typing_context, mode):
    """``shuffles(mode)``: whether `resample_row` picks voxels by byte shuffles, as a constant."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(ir.IntType(1), mode.instance_class in (Avx512, Avx2))

    return types.boolean(mode), generate


@intrinsic
def prefetch(typing_context, array, offset):
    """Ask for the cache line of ``array.flat[offset]``, which may lie outside the array."""

    def generate(context, builder, signature, arguments):
        address = builder.gep(_data(context, builder, signature.args[0], arguments[0]), [arguments[1]])
        pointer = builder.bitcast(address, ir.IntType(8).as_pointer())
        function = _external(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


class _PairsOneByOne:
    """Both neighbours of every lane: one unaligned 32-bit load fetches two 16-bit voxels."""

    def __init__(self, vectors: _Vectors, base: ir.Value, pick: ir.Value, column: ir.Value, mode_class: type) -> None:
        self.vectors = vectors
        builder = vectors.builder
        addresses = (builder.gep(pick, [builder.add(column, _I64(lane))]) for lane in range(vectors.lanes))
        self.places = [builder.sext(builder.load(address), _I64) for address in addresses]

    def of_row(self, row: ir.Value) -> ir.Value:
        builder = self.vectors.builder
        pairs = ir.Constant(self.vectors.int, ir.Undefined)
        for lane, place in enumerate(self.places):
            address = builder.bitcast(builder.gep(row, [place]), _I32.as_pointer())
            pairs = builder.insert_element(pairs, builder.load(address, align=2), _I32(lane))
        return builder.bitcast(pairs, self.vectors.short_pair)


class _PairsByShuffle:
    """Both neighbours of every lane by one byte shuffle; each quad of lanes has a window of 8 voxels."""

    def __init__(self, vectors: _Vectors, base: ir.Value, pick: ir.Value, column: ir.Value, mode_class: type) -> None:
        self.vectors = vectors
        builder = vectors.builder
        quad = builder.udiv(column, _I64(QUAD))
        addresses = (builder.gep(base, [builder.add(quad, _I64(n))]) for n in range(vectors.lanes // QUAD))
        self.windows = [builder.sext(builder.load(address), _I64) for address in addresses]
        self.bytes = ir.VectorType(ir.IntType(8), 4 * vectors.lanes)
        self.mask = builder.bitcast(vectors.load(pick, column, vectors.int), self.bytes)
        name = "llvm.x86.avx512.pshuf.b.512" if mode_class is Avx512 else "llvm.x86.avx2.pshuf.b"
        self.shuffle = _external(builder, name, self.bytes, [self.bytes, self.bytes])

    def of_row(self, row: ir.Value) -> ir.Value:
        builder = self.vectors.builder
        parts = [self.vectors.load(row, window, ir.VectorType(_I16, WINDOW), align=2) for window in self.windows]
        while len(parts) > 1:
            both = ir.VectorType(_I32, 2 * parts[0].type.count)
            whole = ir.Constant(both, list(range(both.count)))
            parts = [builder.shuffle_vector(parts[n], parts[n + 1], whole) for n in range(0, len(parts), 2)]
        picked = builder.call(self.shuffle, [builder.bitcast(parts[0], self.bytes), self.mask])
        return builder.bitcast(picked, self.vectors.short_pair)


def _weighted_sum_of_pairs(vectors: _Vectors, pairs: ir.Value, weights: ir.Value, mode_class: type) -> ir.Value:
    """``pairs[2 n] * weights[2 n] + pairs[2 n + 1] * weights[2 n + 1]`` of int16, as int32."""
    builder = vectors.builder
    if mode_class in (Avx512, Avx2):
        name = "llvm.x86.avx512.pmaddw.d.512" if mode_class is Avx512 else "llvm.x86.avx2.pmadd.wd"
        function = _external(builder, name, vectors.int, [vectors.short_pair, vectors.short_pair])
        return builder.call(function, [pairs, weights])
    wide = ir.VectorType(_I32, 2 * vectors.lanes)
    products = builder.mul(builder.sext(pairs, wide), builder.sext(weights, wide), flags=["nsw"])
    even, odd = (
        builder.shuffle_vector(products, products, ir.Constant(vectors.int, list(range(first, 2 * vectors.lanes, 2))))
        for first in (0, 1)
    )
    return builder.add(even, odd, flags=["nsw"])


@intrinsic
def resample_rows(
    typing_context,
    mode,
    volume,
    slice_offset,
    row_length,
    first_row,
    last_row,
    base,
    pick,
    weights,
    place,
    out,
    first_group,
    last_group,
):
    """Linear interpolation of rows of voxels at every column of the virtual plane.

    For the rows ``first_row <= r <= last_row`` and the columns i of the groups ``first_group <= i // lanes <
    last_group``, with ``row = volume.flat[slice_offset + r * row_length:]`` (int16), q the lower neighbour's place
    in it and f the fraction::

        out[place, r % RING_ROWS, i] = 2**14 * row[q] + round(2**14 * f) * (row[q + 1] - row[q])

    `out` is ``(n, RING_ROWS, width)``, `pick` and `weights` are ``(n, width)``, `base` is ``(n, width // 4)``.
    ``weights[place, i]`` packs ``2**14 - round(2**14 * f)`` (low half) and ``round(2**14 * f)``.
    ``pick[place, i]`` is q if ``shuffles(mode)`` is False, else the four bytes ``2 d, 2 d + 1, 2 d + 2, 2 d + 3``
    where ``d = q - base[place, i // 4]`` must lie in ``[0, 6]``.
    """
    mode_class = mode.instance_class

    def generate(context, builder, signature, arguments):
        vectors = _Vectors(builder, LANES[mode_class])
        volume_, base_, pick_, weights_, out_ = (
            _data(context, builder, signature.args[n], arguments[n]) for n in (1, 6, 7, 8, 10)
        )
        slice_offset, row_length, first_row, last_row, place = (arguments[n] for n in (2, 3, 4, 5, 9))
        out_shape = context.make_array(signature.args[10])(context, builder, arguments[10]).shape
        width = builder.extract_value(out_shape, 2)
        start = builder.mul(place, width)
        pick_, weights_ = builder.gep(pick_, [start]), builder.gep(weights_, [start])
        base_ = builder.gep(base_, [builder.udiv(start, _I64(QUAD))])
        out_ = builder.gep(out_, [builder.mul(start, _I64(RING_ROWS))])
        volume_ = builder.gep(volume_, [slice_offset])
        row = cgutils.alloca_once_value(builder, first_row)
        for count in ROWS_AT_A_TIME:
            chunks = builder.sdiv(builder.sub(builder.add(last_row, _I64(1)), builder.load(row)), _I64(count))
            with cgutils.for_range_slice(builder, _I64(0), chunks, _I64(1), intp=_I64):
                first = builder.load(row)
                rows, slots = [], []
                for n in range(count):
                    r = builder.add(first, _I64(n))
                    rows.append(builder.gep(volume_, [builder.mul(r, row_length)]))
                    slots.append(builder.gep(out_, [builder.mul(builder.and_(r, _I64(RING_ROWS - 1)), width)]))
                with cgutils.for_range_slice(builder, arguments[11], arguments[12], _I64(1), intp=_I64) as (group, _):
                    column = builder.mul(group, _I64(vectors.lanes))
                    find = _PairsByShuffle if mode_class in (Avx512, Avx2) else _PairsOneByOne
                    pairs = find(vectors, base_, pick_, column, mode_class)
                    weight_pairs = builder.bitcast(vectors.load(weights_, column, vectors.int), vectors.short_pair)
                    for voxels, slot in zip(rows, slots, strict=True):
                        total = _weighted_sum_of_pairs(vectors, pairs.of_row(voxels), weight_pairs, mode_class)
                        vectors.store(builder.sitofp(total, vectors.float), slot, column)
                builder.store(builder.add(first, _I64(count)), row)
        return context.get_dummy_value()

    integer = types.int64
    arguments = (volume, *[integer] * 4, base, pick, weights, integer, out, integer, integer)
    return types.void(mode, *arguments), generate


@intrinsic
def accumulate_rows(typing_context, mode, accumulator, offset, rows, places, weights, number, first_group, last_group):
    """Add ``2 * SLICES_PER_PASS`` weighted rows to one row of the accumulator.

    For the columns i of the groups ``first_group <= i // lanes < last_group``::

        accumulator.flat[offset + i] += sum_q weights[number, q] * rows.flat[places[number, q] + i]
    """

    def generate(context, builder, signature, arguments):
        vectors = _Vectors(builder, LANES[mode.instance_class])
        accumulator_, rows_, places_, weights_ = (
            _data(context, builder, signature.args[n], arguments[n]) for n in (1, 3, 4, 5)
        )
        target = builder.gep(accumulator_, [arguments[2]])
        first = builder.mul(arguments[6], _I64(2 * SLICES_PER_PASS))
        sources = []
        for q in range(2 * SLICES_PER_PASS):
            at = builder.add(first, _I64(q))
            weight = builder.load(builder.gep(weights_, [at]))
            place = builder.sext(builder.load(builder.gep(places_, [at])), _I64)
            sources.append((builder.gep(rows_, [place]), vectors.splat(weight)))
        with cgutils.for_range_slice(builder, arguments[7], arguments[8], _I64(1), intp=_I64) as (group, _):
            column = builder.mul(group, _I64(vectors.lanes))
            # Two sums, so that fewer multiplications wait for the one before.
            sums = [vectors.load(target, column, vectors.float)]
            for n, (source, weight) in enumerate(sources):
                row = vectors.load(source, column, vectors.float)
                if n == 1:
                    sums.append(vectors.multiply(weight, row))
                else:
                    sums[n % 2] = vectors.multiply_add(weight, row, sums[n % 2])
            vectors.store(vectors.add(*sums), target, column)
        return context.get_dummy_value()

    integers = [types.int64] * 3
    return types.void(mode, accumulator, types.int64, rows, places, weights, *integers), generate


@intrinsic
def cubic_patch(typing_context, image, offset, stride, column_fraction, row_fraction):
    """Catmull-Rom value (Keys 1981, a = -1/2) of the 4 x 4 patch whose corner is ``image.flat[offset]``.

    The fractions, float32 in [0, 1), run from the patch's second to its third column and row;
    ``stride`` is from a row to the next.
    """

    def generate(context, builder, signature, arguments):
        vectors = _Vectors(builder, 4)
        data = _data(context, builder, signature.args[0], arguments[0])

        def constant(*values: float) -> ir.Constant:
            return ir.Constant(vectors.float, list(values))

        def weights(fraction: ir.Value) -> ir.Value:
            t = vectors.splat(fraction)
            value = vectors.multiply_add(t, constant(-0.5, 1.5, -1.5, 0.5), constant(1.0, -2.5, 2.0, -0.5))
            value = vectors.multiply_add(value, t, constant(-0.5, 0.0, 0.5, 0.0))
            return vectors.multiply_add(value, t, constant(0.0, 1.0, 0.0, 0.0))

        row_weights = weights(arguments[4])
        columns = constant(0.0, 0.0, 0.0, 0.0)
        for q in range(4):
            start = builder.add(arguments[1], builder.mul(arguments[2], _I64(q)))
            row = vectors.load(data, start, vectors.float)
            columns = vectors.multiply_add(row, vectors.broadcast_lane(row_weights, q), columns)
        products = vectors.multiply(columns, weights(arguments[3]))
        parts = [builder.extract_element(products, _I32(lane)) for lane in range(4)]
        return vectors.add(vectors.add(parts[0], parts[1]), vectors.add(parts[2], parts[3]))

    return types.float32(image, types.int64, types.int64, types.float32, types.float32), generate
