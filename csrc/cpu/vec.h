// Vectors as wide as the instruction set that this is compiled for, in the vector extensions of GCC and Clang.
// Everything has internal linkage: each instruction set keeps its own copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * W)));
typedef int32_t IntVec __attribute__((vector_size(4 * W)));
typedef uint16_t HalfVec __attribute__((vector_size(2 * W)));

// The same in memory: of any alignment, over any type.
typedef float VecInMemory __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint16_t HalfVecInMemory __attribute__((vector_size(2 * W), aligned(2), may_alias));

struct BFloat16 {
    uint16_t bits;
};

using Lanes = std::make_integer_sequence<int, W>;

using std::size_t;

constexpr float kInfinity = __builtin_inff();

template <class T>
inline T min(T a, T b) {
    return b < a ? b : a;
}

template <class T>
inline T max(T a, T b) {
    return a < b ? b : a;
}

inline Vec broadcast(float x) {
    return x - Vec{};
}

template <int... L>
inline IntVec lane_numbers(std::integer_sequence<int, L...>) {
    return IntVec{L...};
}

inline Vec select(IntVec mask, Vec yes, Vec no) {
    return mask ? yes : no;
}

inline Vec load(const float* p) {
    return *reinterpret_cast<const VecInMemory*>(p);
}

inline void store(float* p, Vec x) {
    *reinterpret_cast<VecInMemory*>(p) = x;
}

// Each half in the low bits of a lane, and back. GCC makes two vectors of half the width of a conversion to 512 bits,
// and its intrinsics without a mask have warnings of their own.
inline IntVec widen(HalfVec bits) {
#ifdef __AVX512F__
    return reinterpret_cast<IntVec>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(bits)));
#else
    return __builtin_convertvector(bits, IntVec);
#endif
}

inline HalfVec narrow(IntVec bits) {
#ifdef __AVX512F__
    return reinterpret_cast<HalfVec>(_mm512_maskz_cvtepi32_epi16(0xffff, reinterpret_cast<__m512i>(bits)));
#else
    return __builtin_convertvector(bits, HalfVec);
#endif
}

inline Vec load(const BFloat16* p) {
    return reinterpret_cast<Vec>(widen(*reinterpret_cast<const HalfVecInMemory*>(p)) << 16);
}

// Rounds to nearest even; NaN stays NaN.
inline void store(BFloat16* p, Vec x) {
#ifdef __AVX512BF16__
    const __m256bh bits = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(x));
    __builtin_memcpy(p, &bits, sizeof bits);
#else
    const IntVec bits = reinterpret_cast<IntVec>(x);
    const IntVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const IntVec kept = x == x ? rounded : IntVec{} + 0x7fc0;
    *reinterpret_cast<HalfVecInMemory*>(p) = narrow(kept);
#endif
}

inline float load_one(const float* p) {
    return *p;
}

inline float load_one(const BFloat16* p) {
    const uint32_t bits = static_cast<uint32_t>(p->bits) << 16;
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

inline void store_one(float* p, float x) {
    *p = x;
}

inline void store_one(BFloat16* p, float x) {
    BFloat16 lanes[W];
    store(lanes, broadcast(x));
    *p = lanes[0];
}

// Lane i of the result is lane I[i] of a, or lane I[i] - W of b.
template <int... I>
inline Vec shuffle(Vec a, Vec b) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, I...);
#else
    return __builtin_shuffle(a, b, IntVec{I...});
#endif
}

template <int Step, int... L>
inline Vec across(Vec x, std::integer_sequence<int, L...>) {
    return shuffle<(L ^ Step)...>(x, x);
}

inline float sum(Vec x) {
    if constexpr (W > 8) x += across<8 % W>(x, Lanes{});
    if constexpr (W > 4) x += across<4 % W>(x, Lanes{});
    x += across<2>(x, Lanes{});
    x += across<1>(x, Lanes{});
    return x[0];
}

inline Vec max(Vec a, Vec b) {
    return a > b ? a : b;
}

inline float largest(Vec x) {
    if constexpr (W > 8) x = max(x, across<8 % W>(x, Lanes{}));
    if constexpr (W > 4) x = max(x, across<4 % W>(x, Lanes{}));
    x = max(x, across<2>(x, Lanes{}));
    x = max(x, across<1>(x, Lanes{}));
    return x[0];
}

// 2^x, 0 below the smallest normal number; relative error 3e-7. The polynomial is 2^f for |f| <= 1/2.
inline Vec exp2(Vec x) {
    const Vec magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const Vec clamped = x < 128.0f ? x : broadcast(127.99999f);
    const Vec shifted = clamped + magic;
    const Vec f = clamped - (shifted - magic);
    Vec p = broadcast(1.3276472e-3f);
    p = p * f + 9.6755415e-3f;
    p = p * f + 5.55071328e-2f;
    p = p * f + 2.40221197e-1f;
    p = p * f + 6.93146967e-1f;
    p = p * f + 1.00000007f;
    const IntVec exponent = reinterpret_cast<IntVec>(shifted) << 23;
    const Vec power = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(p) + exponent);
    return x >= -126.0f ? power : (x == x ? Vec{} : x);
}

// One step of the transpose below: exchanges two rows' lanes that differ in bit `Step`.
template <int Step, int... L>
inline void exchange(Vec& a, Vec& b, std::integer_sequence<int, L...>) {
    const Vec first = shuffle<((L & Step) ? W + L - Step : L)...>(a, b);
    b = shuffle<((L & Step) ? W + L : L + Step)...>(a, b);
    a = first;
}

template <int Step>
inline void exchange_rows(Vec (&rows)[W]) {
    if constexpr (Step < W) {
#pragma GCC unroll 16
        for (int i = 0; i < W; i++)
            if (!(i & Step)) exchange<Step>(rows[i], rows[i + Step], Lanes{});
        exchange_rows<2 * Step>(rows);
    }
}

// Transposes a W x W matrix of 32-bit values in registers.
inline void transpose(Vec (&rows)[W]) {
    exchange_rows<1>(rows);
}

}  // namespace
