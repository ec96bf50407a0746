// y = x · Wᵀ + bias for up to eight tokens: the weights are read once, at the speed of memory.
//
// For one token a warp takes an output or two. For more, a cluster of CTAs computes sixteen outputs, its warps taking turns along the
// input. The weights are the wide operand of the tensor cores' product and go from memory to registers in the layout that it wants: which
// of the inputs a lane holds is free as long as both operands agree. Weights depend on no other kernel, so the first of them are on their
// way before the one that makes x has ended.
#include <cooperative_groups.h>

#include "cuda.h"
#include "launch.h"
#include "vector.cuh"

namespace cg = cooperative_groups;

namespace octavo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kOutputs = 16;  // of a CTA
constexpr int kTokens = 8;
constexpr int kStep = 32;  // inputs of a warp's step
constexpr int kAhead = 8;  // steps whose weights are under way at once

__device__ __forceinline__ uint4 load_weights(const __nv_bfloat16* p) {
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(p));
    return x;
}

__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__global__ void __launch_bounds__(kThreads, 2) small_linear_kernel(const SmallLinear a) {
    __shared__ float partial[kWarps][kOutputs][kTokens];
    auto cluster = cg::this_cluster();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, split = cluster.num_blocks(), rank = cluster.block_rank();
    const int64_t tile = blockIdx.x / split;
    const int row = lane / 4, column = lane % 4 * 8;
    const int64_t low = min(tile * kOutputs + row, a.outputs - 1), high = min(tile * kOutputs + row + 8, a.outputs - 1);
    const auto* weights = static_cast<const __nv_bfloat16*>(a.weight);
    const __nv_bfloat16 *first = weights + low * a.inputs + column, *second = weights + high * a.inputs + column;
    const __nv_bfloat16* x = static_cast<const __nv_bfloat16*>(a.x) + row * a.x_stride + column;
    const bool token = row < a.tokens;
    const int steps = int(a.inputs / kStep), stride = kWarps * split, begin = rank * kWarps + warp;
    uint4 w0[kAhead], w1[kAhead];
    const auto load = [&](int from) {
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            const int step = from + i * stride;
            if (step < steps) w0[i] = load_weights(first + step * kStep), w1[i] = load_weights(second + step * kStep);
        }
    };
    load(begin);
    wait_for_predecessor();
    float sums[4] = {};
    for (int from = begin; from < steps; from += kAhead * stride) {
        uint4 v[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            const int step = from + i * stride;
            v[i] = token && step < steps ? *reinterpret_cast<const uint4*>(x + step * kStep) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            if (from + i * stride >= steps) break;
            mma(sums, w0[i].x, w1[i].x, w0[i].y, w1[i].y, v[i].x, v[i].y);
            mma(sums, w0[i].z, w1[i].z, w0[i].w, w1[i].w, v[i].z, v[i].w);
        }
        load(from + kAhead * stride);
    }
    const int at = lane % 4 * 2;
    partial[warp][row][at] = sums[0], partial[warp][row][at + 1] = sums[1];
    partial[warp][row + 8][at] = sums[2], partial[warp][row + 8][at + 1] = sums[3];
    __syncthreads();
    const int output = threadIdx.x / kTokens, t = threadIdx.x % kTokens;
    float sum = 0.0f;
    if (threadIdx.x < kOutputs * kTokens) {
        for (int w = 0; w < kWarps; w++) sum += partial[w][output][t];
        if (split > 1) partial[0][output][t] = sum;
    }
    if (split > 1) {
        cluster.sync();
        if (rank == 0 && threadIdx.x < kOutputs * kTokens) {
            for (int r = 1; r < split; r++) sum += *cluster.map_shared_rank(&partial[0][output][t], r);
        }
        cluster.sync();
    }
    const int64_t n = tile * kOutputs + output;
    if (rank == 0 && threadIdx.x < kOutputs * kTokens && t < a.tokens && n < a.outputs) {
        if (a.bias) sum += __bfloat162float(static_cast<const __nv_bfloat16*>(a.bias)[n]);
        static_cast<__nv_bfloat16*>(a.out)[t * a.outputs + n] = __float2bfloat16(sum);
    }
}

// One token: a warp takes kRows outputs, its lanes run along the input.
template <int kRows>
__global__ void __launch_bounds__(kThreads, 4) one_token_kernel(const SmallLinear a) {
    const int lane = threadIdx.x % 32;
    const int64_t n = (int64_t(blockIdx.x) * kWarps + threadIdx.x / 32) * kRows;
    if (n >= a.outputs) return;
    const auto* weights = static_cast<const __nv_bfloat16*>(a.weight) + n * a.inputs + lane * 8;
    const __nv_bfloat16* x = static_cast<const __nv_bfloat16*>(a.x) + lane * 8;
    const bool whole = n + kRows <= a.outputs;
    const int inputs = int(a.inputs) - lane * 8;
    constexpr int kLoads = 8 / kRows;
    uint4 w[kRows][kLoads];
    const auto load = [&](int from) {
#pragma unroll
        for (int i = 0; i < kLoads; i++) {
#pragma unroll
            for (int r = 0; r < kRows; r++) {
                w[r][i] = make_uint4(0, 0, 0, 0);
                if (from + i * 256 < inputs && (whole || n + r < a.outputs))
                    w[r][i] = load_weights(weights + r * a.inputs + from + i * 256);
            }
        }
    };
    load(0);
    wait_for_predecessor();
    float sums[kRows] = {};
    for (int from = 0; from < a.inputs; from += kLoads * 256) {
        uint4 v[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; i++)
            v[i] = from + i * 256 < inputs ? *reinterpret_cast<const uint4*>(x + from + i * 256) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < kLoads; i++) {
            const uint32_t xs[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
#pragma unroll
            for (int r = 0; r < kRows; r++) {
                const uint32_t ws[4] = {w[r][i].x, w[r][i].y, w[r][i].z, w[r][i].w};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    sums[r] += __uint_as_float(ws[j] << 16) * __uint_as_float(xs[j] << 16);
                    sums[r] += __uint_as_float(ws[j] & 0xffff0000u) * __uint_as_float(xs[j] & 0xffff0000u);
                }
            }
        }
        if (from + kLoads * 256 < a.inputs) load(from + kLoads * 256);
    }
#pragma unroll
    for (int r = 0; r < kRows; r++) {
        for (int d = 16; d; d /= 2) sums[r] += __shfl_xor_sync(~0u, sums[r], d);
        if (lane == r && n + r < a.outputs) {
            if (a.bias) sums[r] += __bfloat162float(static_cast<const __nv_bfloat16*>(a.bias)[n + r]);
            static_cast<__nv_bfloat16*>(a.out)[n + r] = __float2bfloat16(sums[r]);
        }
    }
}

template <int kRows>
void one_token(const SmallLinear& a, cudaStream_t stream) {
    const int64_t rows = kRows * kWarps;
    launch(one_token_kernel<kRows>, dim3(unsigned((a.outputs + rows - 1) / rows)), dim3(kThreads), 0, stream, a);
}

}  // namespace

void small_linear(const SmallLinear& a, cudaStream_t stream) {
    if (a.tokens > kTokens || a.inputs % kStep)
        throw std::invalid_argument("small_linear: no kernel for " + std::to_string(a.tokens) + " tokens of " + std::to_string(a.inputs) +
                                    " inputs");
    if (a.tokens == 1 && a.outputs) return a.outputs < 4096 ? one_token<1>(a, stream) : one_token<2>(a, stream);
    const int64_t tiles = (a.outputs + kOutputs - 1) / kOutputs;
    int split = 1;
    while (split < 4 && tiles * split < 200 && a.inputs / kStep >= int64_t(kWarps) * split * 4) split *= 2;
    if (tiles && a.tokens) launch_clustered(small_linear_kernel, dim3(unsigned(tiles * split)), dim3(kThreads), 0, split, stream, a);
}

}  // namespace octavo::cuda
