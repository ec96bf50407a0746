// Small matrix products and the packing of their operands: what attention is made of. Values are packed into 32-bit
// units: a float each, or two bfloat16 where the chip multiplies those in pairs. Internal linkage, as vec.h.
#pragma once

#include "vec.h"

namespace {

template <class T>
struct Packed {
    using Unit = float;
    static constexpr int kValues = 1;
};

// A row of values as units.
inline void pack(float* to, const float* from, int64_t count) {
    __builtin_memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
}

inline void pack(float* to, const BFloat16* from, int64_t count) {
    for (int64_t i = 0; i < count; i += W) store(to + i, load(from + i));
}

// Weights of a softmax as units.
inline void pack(float* to, Vec x) {
    store(to, x);
}

// W units of a row from unit `begin` on, as they are in memory; of a row of `units`.
inline Vec load_units(const float* row, int64_t begin, int64_t) {
    return load(row + begin);
}

inline Vec multiply_add(Vec sum, const float* a, const float* b) {
    return sum + *a * load(b);
}

// Rows [first, last) of the 16 of a block of values, as right operand of a product.
inline const float* pack_block(float*, const float* block, int, int, int64_t) {
    return block;
}

#ifdef __AVX512BF16__
struct Pair {
    uint32_t bits;
};

template <>
struct Packed<BFloat16> {
    using Unit = Pair;
    static constexpr int kValues = 2;
};

inline void pack(Pair* to, const BFloat16* from, int64_t count) {
    __builtin_memcpy(to, from, static_cast<size_t>(count) * sizeof(BFloat16));
}

inline void pack(Pair* to, Vec x) {
    const __m256bh bits = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(x));
    __builtin_memcpy(to, &bits, sizeof bits);
}

inline Vec load_units(const BFloat16* row, int64_t begin, int64_t units) {
    const auto there = static_cast<__mmask16>(units - begin >= W ? 0xffff : (1 << (units - begin)) - 1);
    return reinterpret_cast<Vec>(_mm512_maskz_loadu_epi32(there, row + 2 * begin));
}

inline Vec multiply_add(Vec sum, const Pair* a, const Pair* b) {
    const __m512i left = _mm512_set1_epi32(static_cast<int>(a->bits)), right = _mm512_loadu_si512(b);
    return reinterpret_cast<Vec>(
        _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(left), reinterpret_cast<__m512bh>(right)));
}

// Pairs of rows, value by value; rows outside of [first, last) count as 0.
inline const Pair* pack_block(Pair* to, const BFloat16* block, int first, int last, int64_t width) {
    const auto bits = [](const BFloat16* at) { return widen(*reinterpret_cast<const HalfVecInMemory*>(at)); };
    for (int i = first & ~1; i < last; i += 2) {
        const BFloat16 *even = block + i * width, *odd = even + width;
        Pair* pairs = to + (i / 2) * width;
        const auto put = [=](int64_t column, IntVec low, IntVec high) {
            store(reinterpret_cast<float*>(pairs + column), reinterpret_cast<Vec>(low | high << 16));
        };
        if (i < first)
            for (int64_t column = 0; column < width; column += W) put(column, IntVec{}, bits(odd + column));
        else if (i + 1 == last)
            for (int64_t column = 0; column < width; column += W) put(column, bits(even + column), IntVec{});
        else
            for (int64_t column = 0; column < width; column += W) put(column, bits(even + column), bits(odd + column));
    }
    return to;
}
#else
inline Vec load_units(const BFloat16* row, int64_t begin, int64_t) {
    return load(row + begin);
}

inline const float* pack_block(float* to, const BFloat16* block, int first, int last, int64_t width) {
    for (int i = first; i < last; i++) pack(to + i * width, block + i * width, width);
    return to;
}
#endif

template <class U>
struct Matrix {
    U* at;
    int64_t stride;  // from row to row, in units
};

// c += a b, or c = a b, for `Rows` rows of a and c and `Columns` vectors of the columns of b and c, over `depth` units.
template <int Rows, int Columns, bool Add, class Unit>
inline void multiply_tile(Matrix<const Unit> a, Matrix<const Unit> b, Matrix<float> c, int64_t depth) {
    Vec sums[Rows][Columns];
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < Columns; j++) sums[i][j] = Add ? load(c.at + i * c.stride + j * W) : Vec{};
    for (int64_t k = 0; k < depth; k++)
#pragma GCC unroll 8
        for (int i = 0; i < Rows; i++)
#pragma GCC unroll 8
            for (int j = 0; j < Columns; j++) sums[i][j] = multiply_add(sums[i][j], a.at + i * a.stride + k, b.at + k * b.stride + j * W);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < Columns; j++) store(c.at + i * c.stride + j * W, sums[i][j]);
}

// The same for any number of rows.
template <int Columns, bool Add, class Unit>
void multiply(Matrix<const Unit> a, Matrix<const Unit> b, Matrix<float> c, int64_t rows, int64_t depth) {
    for (; rows >= 4; rows -= 4, a.at += 4 * a.stride, c.at += 4 * c.stride) multiply_tile<4, Columns, Add>(a, b, c, depth);
    if (rows == 3) multiply_tile<3, Columns, Add>(a, b, c, depth);
    if (rows == 2) multiply_tile<2, Columns, Add>(a, b, c, depth);
    if (rows == 1) multiply_tile<1, Columns, Add>(a, b, c, depth);
}

}  // namespace
