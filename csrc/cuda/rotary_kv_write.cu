// Rotary embedding of queries and keys, after their RMSNorm where they have one, and the write of keys and values to
// their blocks.
#include "cuda.h"
#include "launch.h"
#include "vector.cuh"

namespace octavo::cuda {
namespace {

// x times weight over the root mean square of a head, of which each of the head's threads has two vectors; rounded as if
// it had been written in between. Every lane of the warp comes in; those with `wanted` are changed.
template <class T, int N>
__device__ __forceinline__ void normalise(float (&first)[N], float (&second)[N], const T* weight, int half, int at, float eps,
                                          bool wanted) {
    float sum = 0.0f, w[N];
#pragma unroll
    for (int j = 0; j < N; j++) sum += first[j] * first[j] + second[j] * second[j];
    for (int d = half / N / 2; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (!wanted) return;
    const float scale = rsqrtf(sum / (2 * half) + eps);
    Vector<T>::load(weight + at, w);
#pragma unroll
    for (int j = 0; j < N; j++) first[j] = Vector<T>::rounded(first[j] * scale * w[j]);
    Vector<T>::load(weight + half + at, w);
#pragma unroll
    for (int j = 0; j < N; j++) second[j] = Vector<T>::rounded(second[j] * scale * w[j]);
}

// A CTA a token; a thread takes a vector of the first half of a head and the same of the second.
template <class T>
__global__ void rotary_kv_write_kernel(const RotaryKvWrite a) {
    constexpr int kSize = Vector<T>::kSize;
    const int64_t token = blockIdx.x;
    const int half = int(a.head_size) / 2, per_head = half / kSize;
    const int heads = int(a.q_heads + 2 * a.kv_heads);
    wait_for_predecessor();
    const int64_t slot = a.slots[token];
    const float* table = a.cos_sin + a.positions[token] * a.head_size;
    const bool normed = a.q_norm != nullptr;
    for (int i = threadIdx.x; i < (heads * per_head + 31) / 32 * 32; i += blockDim.x) {
        const bool active = i < heads * per_head;
        const int head = active ? i / per_head : 0, at = i % per_head * kSize;
        const bool query = head < a.q_heads, value = head >= a.q_heads + a.kv_heads;
        const int kv_head = head - int(a.q_heads) - (value ? int(a.kv_heads) : 0);
        T* source = query   ? static_cast<T*>(a.q) + token * a.q_stride + int64_t(head) * a.head_size
                    : value ? const_cast<T*>(static_cast<const T*>(a.v)) + token * a.v_stride + int64_t(kv_head) * a.head_size
                            : static_cast<T*>(a.k) + token * a.k_stride + int64_t(kv_head) * a.head_size;
        float first[kSize], second[kSize];
        Vector<T>::load(source + at, first);
        Vector<T>::load(source + half + at, second);
        if (normed) normalise<T>(first, second, static_cast<const T*>(query ? a.q_norm : a.k_norm), half, at, a.norm_eps, !value);
        if (!active) continue;
        if (!value) {
#pragma unroll
            for (int j = 0; j < kSize; j++) {
                const float cosine = table[at + j], sine = table[half + at + j];
                const float x = first[j], y = second[j];
                first[j] = x * cosine - y * sine;
                second[j] = y * cosine + x * sine;
            }
            Vector<T>::store(source + at, first);
            Vector<T>::store(source + half + at, second);
        }
        if (!query) {
            T* cache = static_cast<T*>(value ? a.values : a.keys) + (slot / kBlockSize * a.kv_heads + kv_head) * kBlockSize * a.head_size +
                       slot % kBlockSize * a.head_size;
            Vector<T>::store(cache + at, first);
            Vector<T>::store(cache + half + at, second);
        }
    }
}

template <class T>
void run(const RotaryKvWrite& a, cudaStream_t stream) {
    const int64_t work = (a.q_heads + 2 * a.kv_heads) * (a.head_size / 2 / Vector<T>::kSize);
    const int threads = int(work < 256 ? (work + 31) / 32 * 32 : 256);
    if (a.tokens) launch(rotary_kv_write_kernel<T>, dim3(unsigned(a.tokens)), dim3(threads), 0, stream, a);
}

}  // namespace

void rotary_kv_write(const RotaryKvWrite& a, DType dtype, cudaStream_t stream) {
    dtype == DType::kBFloat16 ? run<__nv_bfloat16>(a, stream) : run<float>(a, stream);
}

}  // namespace octavo::cuda
