// RMSNorm of rows that fit the registers of a group of warps, with the residual addition before it.
#include "cuda.h"
#include "launch.h"
#include "vector.cuh"

namespace octavo::cuda {
namespace {

constexpr int kMost = 4;  // vectors that a thread holds

// `threads` of the CTA share a row; a CTA has blockDim.x / threads rows.
template <class T>
__global__ void rms_norm_kernel(const RmsNorm a, int threads) {
    constexpr int kSize = Vector<T>::kSize;
    __shared__ float sums[32];
    const int lane = threadIdx.x % threads;
    const int64_t row = int64_t(blockIdx.x) * (blockDim.x / threads) + threadIdx.x / threads;
    const int64_t token = row / a.heads, head = row % a.heads;
    const bool active = row < a.tokens * a.heads;
    let_successor_begin();
    wait_for_predecessor();
    const T* x = static_cast<const T*>(a.x) + token * a.token_stride + head * a.head_stride;
    T* residual = a.residual ? static_cast<T*>(a.residual) + token * a.width : nullptr;
    float values[kMost][kSize];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kMost; i++) {
        const int at = (i * threads + lane) * kSize;
        if (!active || at >= a.width) continue;
        Vector<T>::load(x + at, values[i]);
        if (residual) {
            float before[kSize];
            Vector<T>::load(residual + at, before);
#pragma unroll
            for (int j = 0; j < kSize; j++) values[i][j] = Vector<T>::rounded(values[i][j] + before[j]);
            Vector<T>::store(residual + at, values[i]);
        }
#pragma unroll
        for (int j = 0; j < kSize; j++) sum += values[i][j] * values[i][j];
    }
    for (int d = min(threads, 32) / 2; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (threads > 32) {
        if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
        __syncthreads();
        sum = 0.0f;
        for (int w = 0; w < threads / 32; w++) sum += sums[w];
    }
    if (!active) return;
    const float scale = rsqrtf(sum / a.width + a.eps);
    T* out = static_cast<T*>(a.out) + row * a.width;
    const T* weight = static_cast<const T*>(a.weight);
#pragma unroll
    for (int i = 0; i < kMost; i++) {
        const int at = (i * threads + lane) * kSize;
        if (at >= a.width) continue;
        float w[kSize];
        Vector<T>::load(weight + at, w);
#pragma unroll
        for (int j = 0; j < kSize; j++) w[j] *= values[i][j] * scale;
        Vector<T>::store(out + at, w);
    }
}

template <class T>
void run(const RmsNorm& a, cudaStream_t stream) {
    const int64_t vectors = a.width / Vector<T>::kSize, rows = a.tokens * a.heads;
    // A power of two of threads up to a warp, then whole warps; short rows share a CTA.
    int threads = 4;
    while (threads < 32 && threads < vectors) threads *= 2;
    if (threads < vectors) threads = int(vectors + 31) / 32 * 32;
    while (threads > 512) threads = (threads / 2 + 31) / 32 * 32;
    if (a.width % Vector<T>::kSize || vectors > int64_t(threads) * kMost)
        throw std::invalid_argument("rms_norm: no kernel for rows of " + std::to_string(a.width));
    const int per_cta = threads <= 32 ? 128 / threads : 1;
    if (rows) launch(rms_norm_kernel<T>, dim3(unsigned((rows + per_cta - 1) / per_cta)), dim3(threads * per_cta), 0, stream, a, threads);
}

}  // namespace

void rms_norm(const RmsNorm& a, DType dtype, cudaStream_t stream) {
    dtype == DType::kBFloat16 ? run<__nv_bfloat16>(a, stream) : run<float>(a, stream);
}

}  // namespace octavo::cuda
