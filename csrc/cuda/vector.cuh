// Sixteen bytes of a tensor at a time, as floats.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace octavo::cuda {

__device__ __forceinline__ uint32_t packed(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
}

template <class T>
struct Vector;

template <>
struct Vector<__nv_bfloat16> {
    static constexpr int kSize = 8;
    static __device__ __forceinline__ void load(const __nv_bfloat16* p, float (&x)[8]) {
        const uint4 raw = *reinterpret_cast<const uint4*>(p);
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[2 * i] = __uint_as_float(words[i] << 16);
            x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
    }
    static __device__ __forceinline__ void store(__nv_bfloat16* p, const float (&x)[8]) {
        *reinterpret_cast<uint4*>(p) = make_uint4(packed(x[0], x[1]), packed(x[2], x[3]), packed(x[4], x[5]), packed(x[6], x[7]));
    }
    static __device__ __forceinline__ float rounded(float x) { return __bfloat162float(__float2bfloat16(x)); }
};

template <>
struct Vector<float> {
    static constexpr int kSize = 4;
    static __device__ __forceinline__ void load(const float* p, float (&x)[4]) {
        const float4 raw = *reinterpret_cast<const float4*>(p);
        x[0] = raw.x, x[1] = raw.y, x[2] = raw.z, x[3] = raw.w;
    }
    static __device__ __forceinline__ void store(float* p, const float (&x)[4]) {
        *reinterpret_cast<float4*>(p) = make_float4(x[0], x[1], x[2], x[3]);
    }
    static __device__ __forceinline__ float rounded(float x) { return x; }
};

}  // namespace octavo::cuda
