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
SLICES_PER_PASS = 2
"""Slices added to an accumulator row in one pass over it."""

FAST = ("fast",)
_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


def available_modes() -> list[Mode]:
    """The modes this CPU can run, fastest first; `Generic` is always among them."""
    # The description of the CPU for which numba compiles, which a user may restrict.
    features = config.CPU_FEATURES if config.CPU_NAME else llvm.get_host_cpu_features().flatten()
    enabled = {feature[1:] for feature in (features or "").split(",") if feature.startswith("+")}
    modes: list[Mode] = []
    if "avx512f" in enabled:
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
        self.short = ir.VectorType(_I16, lanes)

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


def _neighbours_one_by_one(vectors: _Vectors, row: ir.Value, base: ir.Value, index: ir.Value):
    """Both neighbours of every lane: one unaligned 32-bit load fetches two 16-bit voxels."""
    builder = vectors.builder
    pairs = ir.Constant(vectors.int, ir.Undefined)
    for lane in range(vectors.lanes):
        position = builder.add(base, builder.sext(builder.extract_element(index, _I32(lane)), _I64))
        address = builder.bitcast(builder.gep(row, [position]), _I32.as_pointer())
        pairs = builder.insert_element(pairs, builder.load(address, align=2), _I32(lane))
    sixteen = vectors.all_equal(16)
    left = builder.ashr(builder.shl(pairs, sixteen), sixteen)
    right = builder.ashr(pairs, sixteen)
    return builder.sitofp(left, vectors.float), builder.sitofp(right, vectors.float)


def _neighbours_by_permute(vectors: _Vectors, row: ir.Value, base: ir.Value, index: ir.Value, mode_class: type):
    """Both neighbours of every lane out of two registers that hold ``2 * lanes`` voxels."""
    builder, lanes = vectors.builder, vectors.lanes
    halves = []
    for start in (0, lanes):
        voxels = vectors.load(row, builder.add(base, _I64(start)), vectors.short, align=2)
        halves.append(builder.sitofp(builder.sext(voxels, vectors.int), vectors.float))
    low, high = halves

    def permute(lane: ir.Value) -> ir.Value:
        if mode_class is Avx512:
            kinds = [vectors.float, vectors.int, vectors.float]
            function = _external(builder, "llvm.x86.avx512.vpermi2var.ps.512", vectors.float, kinds)
            return builder.call(function, [low, lane, high])
        # permps looks at the index's low three bits only, so both halves take the same index.
        function = _external(builder, "llvm.x86.avx2.permps", vectors.float, [vectors.float, vectors.int])
        from_high = builder.icmp_signed(">", lane, vectors.all_equal(lanes - 1))
        return builder.select(from_high, builder.call(function, [high, lane]), builder.call(function, [low, lane]))

    return permute(index), permute(builder.add(index, vectors.all_equal(1)))


@intrinsic
def resample_row(
    typing_context, mode, volume, row_offset, base, index, fraction, out, out_offset, first_group, last_group
):
    """Linear interpolation of one row of voxels at every column of the virtual plane.

    For the columns i of the groups ``first_group <= i // lanes < last_group``, with ``row =
    volume.flat[row_offset:]`` (int16) and ``q = base[i // lanes] + index[i]``::

        out.flat[out_offset + i] = row[q] + fraction[i] * (row[q + 1] - row[q])

    ``index`` must lie in ``[0, 2 * lanes - 2]``: a group reads ``2 * lanes`` voxels from its base.
    """
    mode_class = mode.instance_class

    def generate(context, builder, signature, arguments):
        vectors = _Vectors(builder, LANES[mode_class])
        volume_, base_, index_, fraction_, out_ = (
            _data(context, builder, signature.args[n], arguments[n]) for n in (1, 3, 4, 5, 6)
        )
        row = builder.gep(volume_, [arguments[2]])
        out_row = builder.gep(out_, [arguments[7]])
        with cgutils.for_range_slice(builder, arguments[8], arguments[9], _I64(1), intp=_I64) as (group, _):
            column = builder.mul(group, _I64(vectors.lanes))
            start = builder.sext(builder.load(builder.gep(base_, [group])), _I64)
            lane_index = vectors.load(index_, column, vectors.int)
            weight = vectors.load(fraction_, column, vectors.float)
            if mode_class is Generic:
                left, right = _neighbours_one_by_one(vectors, row, start, lane_index)
            else:
                left, right = _neighbours_by_permute(vectors, row, start, lane_index, mode_class)
            difference = builder.fsub(right, left, flags=FAST)
            vectors.store(vectors.multiply_add(weight, difference, left), out_row, column)
        return context.get_dummy_value()

    integers = [types.int64] * 3
    return types.void(mode, volume, types.int64, base, index, fraction, out, *integers), generate


@intrinsic
def accumulate_rows(
    typing_context, mode, accumulator, offset, resampled, rows, weights, weight_offset, stride, first_group, last_group
):
    """Add ``2 * SLICES_PER_PASS`` weighted rows to one row of the accumulator.

    For the columns i of the groups ``first_group <= i // lanes < last_group``::

        accumulator.flat[offset + i] += sum_q weights.flat[weight_offset + q] * resampled.flat[rows[q] * stride + i]
    """

    def generate(context, builder, signature, arguments):
        vectors = _Vectors(builder, LANES[mode.instance_class])
        accumulator_, resampled_, rows_, weights_ = (
            _data(context, builder, signature.args[n], arguments[n]) for n in (1, 3, 4, 5)
        )
        target = builder.gep(accumulator_, [arguments[2]])
        sources = []
        for q in range(2 * SLICES_PER_PASS):
            weight = builder.load(builder.gep(weights_, [builder.add(arguments[6], _I64(q))]))
            row = builder.sext(builder.load(builder.gep(rows_, [_I64(q)])), _I64)
            source = builder.gep(resampled_, [builder.mul(row, arguments[7])])
            sources.append((source, vectors.splat(weight)))
        with cgutils.for_range_slice(builder, arguments[8], arguments[9], _I64(1), intp=_I64) as (group, _):
            column = builder.mul(group, _I64(vectors.lanes))
            total = vectors.load(target, column, vectors.float)
            for source, weight in sources:
                total = vectors.multiply_add(weight, vectors.load(source, column, vectors.float), total)
            vectors.store(total, target, column)
        return context.get_dummy_value()

    integers = [types.int64] * 4
    return types.void(mode, accumulator, types.int64, resampled, rows, weights, *integers), generate


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
