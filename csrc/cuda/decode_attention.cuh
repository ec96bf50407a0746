// Decode attention over a paged KV cache: one query token a sequence, split over the KV cache where that fills the chip.
//
// A work item is a part of a sequence and one KV head. CTAs take items from a shared counter; in an item each warp takes
// every kWarps-th page, keeps its own softmax state and its own ring of pages in shared memory, so that the main loop has
// no barrier. Both products run on the tensor cores with the operands swapped (K·Qᵀ, then Vᵀ·Pᵀ): up to eight query heads
// of one KV head are the narrow side, and none of the wide one is padding. Parts of a sequence are merged by whichever
// CTA finishes the last of them (Flash-Decoding, https://pytorch.org/blog/flash-decoding).
#pragma once

#include "attention.h"
#include "launch.h"
#include "vector.cuh"

namespace octavo::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kHeads = kTileHeads;
constexpr int kStages = 3;

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void copy_16(uint32_t target, const void* source) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(target), "l"(source));
}

// Zeros instead, where `wanted` is false.
__device__ __forceinline__ void copy_16_if(uint32_t target, const void* source, bool wanted) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(wanted ? 16 : 0));
}

__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

__device__ __forceinline__ void ldmatrix_trans(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

__device__ __forceinline__ uint32_t transposed(uint32_t x) {
    uint32_t y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// c += a · b, a 16x16, b 16x8.
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <int D>
struct Layout {
    static constexpr int kRow = D + 8;                 // elements; the padding keeps ldmatrix free of bank conflicts
    static constexpr int kTile = kBlockSize * kRow;    // a page of keys or of values
    static constexpr int kWarp = kStages * 2 * kTile;  // elements
    static constexpr int kBytes = kWarps * kWarp * 2;
    static constexpr int kMerge = kWarps * kHeads * (D + 2) * 4;
    static constexpr int kShared = kBytes > kMerge ? kBytes : kMerge;
};

// The state of one warp: scores' maxima and sums of the heads 2t and 2t+1 (t = lane % 4), and Oᵀ, D x 8.
template <int D>
struct State {
    float o[D / 16][4];
    float max[2], sum[2];
};

template <int D>
__device__ __forceinline__ void load_page(uint32_t target, const DecodeArguments& a, int block, int head, int begin, int end, int lane) {
    const int64_t offset = (int64_t(block) * a.kv_heads + head) * (kBlockSize * D);
    const __nv_bfloat16 *k = a.keys + offset, *v = a.values + offset;
    constexpr int kChunks = kBlockSize * D / 8;  // of 16 bytes
#pragma unroll
    for (int i = 0; i < kChunks / 32; i++) {
        const int chunk = i * 32 + lane, row = chunk / (D / 8), column = chunk % (D / 8);
        const uint32_t place = target + (row * Layout<D>::kRow + column * 8) * 2;
        copy_16(place, k + chunk * 8);
        // what nobody wrote may be NaN, and 0 * NaN is NaN
        copy_16_if(place + Layout<D>::kTile * 2, v + chunk * 8, row >= begin && row < end);
    }
    static_assert(kChunks % 32 == 0, "a page is a whole number of copies");
}

template <int D>
__device__ __forceinline__ void attend_page(State<D>& state, const uint32_t (&q)[D / 16][2], uint32_t tile, int first, int begin, int end,
                                            float scale_log2, int lane) {
    constexpr int kRow = Layout<D>::kRow;
    float s[2][4] = {};
    // lanes 0-7: tokens 0-7, first half of 16 components; 8-15: tokens 8-15; 16-31: the second half
    const uint32_t k_address = tile + ((lane % 16) * kRow + (lane / 16) * 8) * 2;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        uint32_t k[4];
        ldmatrix(k, k_address + i * 32);
        mma(s[i % 2], k, q[i][0], q[i][1]);
    }
    // tokens lane/4 and lane/4 + 8, heads 2t and 2t+1
    const int token = first + lane / 4;
    const bool low = token >= begin && token < end, high = token + 8 >= begin && token + 8 < end;
    float x[4];
#pragma unroll
    for (int j = 0; j < 4; j++) x[j] = (j < 2 ? low : high) ? (s[0][j] + s[1][j]) * scale_log2 : -INFINITY;
    float rescale[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        float peak = fmaxf(x[j], x[j + 2]);
        for (int d = 4; d < 32; d *= 2) peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, d));
        const float now = fmaxf(state.max[j], peak);
        rescale[j] = exp2f(state.max[j] - now);
        state.max[j] = now;
        x[j] = exp2f(x[j] - now);
        x[j + 2] = exp2f(x[j + 2] - now);
        state.sum[j] = state.sum[j] * rescale[j] + x[j] + x[j + 2];
    }
    const uint32_t p0 = transposed(packed(x[0], x[1])), p1 = transposed(packed(x[2], x[3]));
    if (rescale[0] != 1.0f || rescale[1] != 1.0f) {
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            state.o[i][0] *= rescale[0], state.o[i][1] *= rescale[1];
            state.o[i][2] *= rescale[0], state.o[i][3] *= rescale[1];
        }
    }
    // transposed on the way: lanes 0-7 tokens 0-7 of components 0-7; 8-15 the same tokens of components 8-15; then tokens 8-15
    const uint32_t v_address = tile + Layout<D>::kTile * 2 + (((lane / 16) * 8 + lane % 8) * kRow + (lane / 8 % 2) * 8) * 2;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        uint32_t v[4];
        ldmatrix_trans(v, v_address + i * 32);
        mma(state.o[i], v, p0, p1);
    }
}

// Merges the warps' states into `merged` [kHeads][D + 2] of shared memory: O, then maximum and sum. All threads come in and go out
// together.
template <int D>
__device__ float* merge_warps(State<D>& state, float* shared, int warp, int lane) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
        for (int d = 4; d < 32; d *= 2) state.sum[j] += __shfl_xor_sync(~0u, state.sum[j], d);
    }
    __syncthreads();  // the pages in shared memory are no longer read
    float* mine = shared + warp * kHeads * (D + 2);
    const int h = lane % 4 * 2, row = lane / 4;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        mine[h * (D + 2) + i * 16 + row] = state.o[i][0];
        mine[(h + 1) * (D + 2) + i * 16 + row] = state.o[i][1];
        mine[h * (D + 2) + i * 16 + row + 8] = state.o[i][2];
        mine[(h + 1) * (D + 2) + i * 16 + row + 8] = state.o[i][3];
    }
    if (lane < 4) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            mine[(h + j) * (D + 2) + D] = state.max[j];
            mine[(h + j) * (D + 2) + D + 1] = state.sum[j];
        }
    }
    __syncthreads();
    for (int e = threadIdx.x; e < kHeads * D; e += kThreads) {
        const int head = e / D, d = e % D;
        float peak = -INFINITY, o = 0.0f, sum = 0.0f;
        for (int w = 0; w < kWarps; w++) peak = fmaxf(peak, shared[(w * kHeads + head) * (D + 2) + D]);
        for (int w = 0; w < kWarps; w++) {
            const float* other = shared + (w * kHeads + head) * (D + 2);
            const float weight = other[D] == -INFINITY ? 0.0f : exp2f(other[D] - peak);
            o += other[d] * weight;
            sum += other[D + 1] * weight;
        }
        shared[head * (D + 2) + d] = o;  // each element is read by its own thread alone
        if (d == 0) {
            // the statistics are still read by other threads: keep them aside
            shared[kWarps * kHeads * (D + 2) + head * 2] = peak;
            shared[kWarps * kHeads * (D + 2) + head * 2 + 1] = sum;
        }
    }
    __syncthreads();
    return shared;
}

// Merges all parts of a sequence, which lie in global memory `stride` apart, into its output.
template <int D>
__device__ void merge_parts(const DecodeArguments& a, int parts, int stride, int place, int heads, float* weights, __nv_bfloat16* out,
                            int warp, int lane) {
    for (int head = warp; head < heads; head += kWarps) {
        float peak = -INFINITY, sum = 0.0f;
        for (int i = lane; i < parts; i += 32) {
            const float2 x = __ldcg(&a.work.statistics[(place + i * stride) * kHeads + head]);
            const float now = fmaxf(peak, x.x);
            sum = (peak == -INFINITY ? 0.0f : sum * exp2f(peak - now)) + (x.x == -INFINITY ? 0.0f : x.y * exp2f(x.x - now));
            peak = now;
            weights[i * kHeads + head] = x.x;
        }
        float top = peak;
        for (int d = 16; d; d /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
        sum = peak == -INFINITY ? 0.0f : sum * exp2f(peak - top);
        for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
        for (int i = lane; i < parts; i += 32) {
            const float m = weights[i * kHeads + head];
            weights[i * kHeads + head] = m == -INFINITY ? 0.0f : exp2f(m - top) / sum;
        }
    }
    __syncthreads();
    for (int e = threadIdx.x * 4; e < heads * D; e += kThreads * 4) {
        const float* first = a.work.partial + int64_t(place) * (kHeads * D) + e;
        const int64_t step = int64_t(stride) * (kHeads * D);
        float4 o = {};
#pragma unroll 8
        for (int i = 0; i < parts; i++) {
            const float4 x = __ldcg(reinterpret_cast<const float4*>(first + i * step));
            const float w = weights[i * kHeads + e / D];
            o.x += x.x * w, o.y += x.y * w, o.z += x.z * w, o.w += x.w * w;
        }
        *reinterpret_cast<uint2*>(out + e) = make_uint2(packed(o.x, o.y), packed(o.z, o.w));
    }
}

template <int D>
__global__ void __launch_bounds__(kThreads) decode_kernel(const DecodeArguments a) {
    extern __shared__ __align__(128) unsigned char shared_bytes[];
    __shared__ int shared_item, shared_last;
    auto* pages = reinterpret_cast<__nv_bfloat16*>(shared_bytes);
    auto* floats = reinterpret_cast<float*>(shared_bytes);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int group = a.q_heads / a.kv_heads, tiles = (group + kHeads - 1) / kHeads;
    const uint32_t ring = shared_address(pages + warp * Layout<D>::kWarp);
    constexpr uint32_t kStageBytes = 2 * Layout<D>::kTile * 2;
    let_successor_begin();
    wait_for_predecessor();
    const int items = a.work.head->count * a.kv_heads * tiles;
    int item = blockIdx.x;
    while (item < items) {
        if (threadIdx.x == 0) shared_item = atomicAdd(&a.work.head->next, 1) + gridDim.x;
        const Part part = a.work.parts[item / (a.kv_heads * tiles)];
        const int head = item / tiles % a.kv_heads, tile = item % tiles;
        const int context = part.context;
        const int32_t* table = a.block_tables + part.sequence * a.table_blocks;
        const int heads = min(kHeads, group - tile * kHeads);
        const int q_head = head * group + tile * kHeads;

        const int count = max(0, (part.end - part.begin - warp + kWarps - 1) / kWarps);
        int blocks = lane < count ? table[part.begin + warp + lane * kWarps] : 0;
        const int visible = a.window && context > a.window ? context - a.window : 0;
        auto load = [&](int i) {
            const int first = (part.begin + warp + i * kWarps) * kBlockSize;
            if (i < count)
                load_page<D>(ring + i % kStages * kStageBytes, a, __shfl_sync(~0u, blocks, i % 32), head, visible - first, context - first,
                             lane);
            asm volatile("cp.async.commit_group;");
        };
#pragma unroll
        for (int i = 0; i < kStages - 1; i++) load(i);

        uint32_t q[D / 16][2] = {};
        if (lane / 4 < heads) {
            const __nv_bfloat16* row = a.q + part.sequence * a.q_stride + int64_t(q_head + lane / 4) * D + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
                q[i][0] = *reinterpret_cast<const uint32_t*>(row + i * 16);
                q[i][1] = *reinterpret_cast<const uint32_t*>(row + i * 16 + 8);
            }
        }
        State<D> state = {};
        state.max[0] = state.max[1] = -INFINITY;
        for (int i = 0; i < count; i++) {
            const int ahead = i + kStages - 1;
            if (ahead % 32 == 0) {
                const int next = ahead + lane;
                blocks = next < count ? table[part.begin + warp + next * kWarps] : 0;
            }
            asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2));
            __syncwarp();
            load(ahead);
            const int first = (part.begin + warp + i * kWarps) * kBlockSize;
            attend_page<D>(state, q, ring + i % kStages * kStageBytes, first, visible, context, a.scale_log2, lane);
        }
        asm volatile("cp.async.wait_all;");
        float* merged = merge_warps<D>(state, floats, warp, lane);
        const float* statistics = floats + kWarps * kHeads * (D + 2);
        __nv_bfloat16* out = a.out + (int64_t(part.sequence) * a.q_heads + q_head) * D;
        if (part.parts == 1) {
            for (int e = threadIdx.x; e < heads * D; e += kThreads) {
                const float sum = statistics[e / D * 2 + 1];
                out[e] = __float2bfloat16(sum > 0.0f ? merged[e / D * (D + 2) + e % D] / sum : 0.0f);
            }
        } else {
            const int stride = a.kv_heads * tiles, place = part.slot * stride + head * tiles + tile;
            float* partial = a.work.partial + int64_t(place + part.part * stride) * (kHeads * D);
            for (int e = threadIdx.x; e < heads * D; e += kThreads) partial[e] = merged[e / D * (D + 2) + e % D];
            if (threadIdx.x < heads)
                a.work.statistics[(place + part.part * stride) * kHeads + threadIdx.x] =
                    make_float2(statistics[threadIdx.x * 2], statistics[threadIdx.x * 2 + 1]);
            __threadfence();
            __syncthreads();
            if (threadIdx.x == 0)
                shared_last = atomicInc(reinterpret_cast<unsigned*>(&a.work.arrived[place]), part.parts - 1) == unsigned(part.parts - 1);
            __syncthreads();
            if (shared_last) {
                __threadfence();
                merge_parts<D>(a, part.parts, stride, place, heads, floats, out, warp, lane);
            }
        }
        __syncthreads();
        item = shared_item;
        __syncthreads();
    }
    // The last CTA to leave makes the plan fit for the next layer.
    if (threadIdx.x == 0 && atomicAdd(&a.work.head->done, 1) == int(gridDim.x) - 1) {
        a.work.head->next = 0;
        a.work.head->done = 0;
    }
}

}  // namespace

template <int D>
void launch_decode(const DecodeArguments& a, int ctas, cudaStream_t stream) {
    constexpr int kShared = Layout<D>::kShared + kHeads * 2 * 4;
    static const cudaError_t prepared = cudaFuncSetAttribute(decode_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
    check(prepared, "decode attention");
    launch(decode_kernel<D>, dim3(ctas), dim3(kThreads), kShared, stream, a);
}

}  // namespace octavo::cuda
