// Prefill attention over a paged KV cache: chunks of new tokens against all of their sequence's context, on wgmma and TMA.
//
// A CTA computes kRows queries of one head: two producer warps bring pages to shared memory, two consumer warpgroups of 64
// queries each take turns, so that one's softmax runs beside the other's products (FlashAttention-3, arXiv:2407.08608).
// A page outside of what the queries may see is loaded from beyond the end of the cache, which TMA fills with zeros.
#pragma once

#include <cuda.h>

#include "attention.h"
#include "launch.h"
#include "vector.cuh"
#include "wgmma.cuh"

namespace octavo::cuda {
namespace {

constexpr int kRows = 128;  // queries of a CTA
constexpr int kStages = 2;
constexpr int kThreads = 384;

// Keys of a step, by head size: what registers and shared memory leave room for.
template <int D>
constexpr int kKeysOf = D <= 128 ? 128 : 64;

struct PrefillArgs {
    __nv_bfloat16* out;           // [T, Hq, D]
    const int32_t* block_tables;  // [S, table_blocks]
    const int32_t* query_start;   // [S + 1]
    const int32_t* context_lens;  // [S]
    int sequences, table_blocks, num_blocks;
    int q_heads, kv_heads, window;
    float scale_log2;
};

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void barrier_init(uint32_t barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}

__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t barrier, int phase) {
    asm volatile(
        "{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra again;\ndone:\n}\n" ::"r"(
            barrier),
        "r"(phase)
        : "memory");
}

__device__ __forceinline__ void tma_3d(uint32_t target, const CUtensorMap* map, uint32_t barrier, int x, int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(target),
        "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
        : "memory");
}

__device__ __forceinline__ void tma_4d(uint32_t target, const CUtensorMap* map, uint32_t barrier, int x, int y, int z, int w) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(target),
        "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
        : "memory");
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ void named_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <int D>
struct Shared {
    static constexpr int kKeys = kKeysOf<D>;
    static constexpr int kPages = kKeys / kBlockSize;
    static constexpr int kHalves = D / 64;
    static constexpr int kHalf = kKeys * 128;  // bytes of 64 components of a tile
    static constexpr int kTile = kHalves * kHalf;
    static constexpr int kQ = 0, kK = kHalves * kRows * 128, kV = kK + kStages * kTile, kBarriers = kV + kStages * kTile;
    static constexpr int kBytes = kBarriers + (1 + 4 * kStages) * 8 + 1024;
};

// Where a CTA's queries are.
struct Tile {
    int sequence, first, rows;  // first query in the batch, how many
    int position;               // of the first query in its sequence
    int context;
};

// The tile-th run of kRows queries; `sequence` is -1 past the last. Every lane of the warp gets it.
__device__ Tile find_tile(const PrefillArgs& a, int tile, int lane) {
    int before = 0;
    for (int base = 0; base < a.sequences; base += 32) {
        const int s = base + lane;
        const int begin = s < a.sequences ? a.query_start[s] : 0, count = s < a.sequences ? a.query_start[s + 1] - begin : 0;
        const int tiles = (count + kRows - 1) / kRows;
        int sum = tiles;
        for (int d = 1; d < 32; d *= 2) {
            const int x = __shfl_up_sync(~0u, sum, d);
            if (lane >= d) sum += x;
        }
        const int at = before + sum - tiles;
        const unsigned found = __ballot_sync(~0u, tile >= at && tile < at + tiles);
        if (found) {
            const int owner = __ffs(found) - 1;
            // the last queries first: they have most to attend to
            const int index = __shfl_sync(~0u, tiles - 1 - (tile - at), owner);
            const int first = __shfl_sync(~0u, begin, owner), all = __shfl_sync(~0u, count, owner);
            const int context = a.context_lens[base + owner];
            return {base + owner, first + index * kRows, min(kRows, all - index * kRows), context - all + index * kRows, context};
        }
        before += __shfl_sync(~0u, sum, 31);
    }
    return {-1, 0, 0, 0, 0};
}

// One warp brings the queries and all keys, or all values.
template <int D>
__device__ void produce(const PrefillArgs& a, const CUtensorMap* q_map, const CUtensorMap* cache_map, const Tile& tile, int head,
                        uint32_t shared, bool values, int first_key, int last_tile) {
    using S = Shared<D>;
    const int lane = threadIdx.x % 32;
    const uint32_t barriers = shared + S::kBarriers;
    const int kv_head = head / (a.q_heads / a.kv_heads);
    if (lane == 0 && !values) {
        barrier_expect(barriers, S::kHalves * kRows * 128);
        for (int h = 0; h < S::kHalves; h++) tma_3d(shared + S::kQ + h * kRows * 128, q_map, barriers, h * 64, head, tile.first);
    }
    const int32_t* table = a.block_tables + int64_t(tile.sequence) * a.table_blocks;
    const int begin_page = first_key / kBlockSize, end_page = (tile.context + kBlockSize - 1) / kBlockSize;
    constexpr int kKeys = S::kKeys;
    const int page_in_tile = lane % S::kPages, half = lane / S::kPages;  // a lane a page and half
    const uint32_t tiles = shared + (values ? S::kV : S::kK) + half * S::kHalf + page_in_tile * kBlockSize * 128;
    const uint32_t full_barriers = barriers + 8 + (values ? 2 * kStages : 0) * 8;
    int stage = 0, phase = 0;
    for (int t = last_tile; t >= first_key / kKeys; t--) {
        const int page = t * S::kPages + page_in_tile;
        const int block = page >= begin_page && page < end_page ? table[page] : a.num_blocks;
        const uint32_t full = full_barriers + stage * 8, empty = full + kStages * 8;
        barrier_wait(empty, phase ^ 1);
        if (lane == 0) barrier_expect(full, S::kTile);
        __syncwarp();
        if (half < S::kHalves) tma_4d(tiles + stage * S::kTile, cache_map, full, half * 64, 0, kv_head, block);
        if (++stage == kStages) stage = 0, phase ^= 1;
    }
}

template <int D>
__device__ void consume(const PrefillArgs& a, const Tile& tile, int head, uint32_t shared, unsigned char* bytes, int group, int first_key,
                        int last_tile) {
    using S = Shared<D>;
    constexpr int kKeys = S::kKeys;
    const uint32_t barriers = shared + S::kBarriers;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int row = group * 64 + warp * 16 + lane / 4;  // and row + 8
    const int first_tile = first_key / kKeys;
    float o[D / 2], s[kKeys / 2], peak[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    uint32_t p[kKeys / 16][4];
#pragma unroll
    for (int i = 0; i < D / 2; i++) o[i] = 0.0f;
    const uint32_t q_tile = shared + S::kQ + group * 64 * 128;

    auto scores = [&](int stage) {
        const uint32_t k_tile = shared + S::kK + stage * S::kTile;
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            const int half = i / 4, inside = i % 4 * 32;
            wgmma_ss(s, descriptor(q_tile + half * kRows * 128 + inside, 16, 1024), descriptor(k_tile + half * S::kHalf + inside, 16, 1024),
                     i > 0);
        }
        wgmma_commit();
    };
    auto values = [&](int stage) {
        const uint32_t v_tile = shared + S::kV + stage * S::kTile;
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < kKeys / 16; i++) wgmma_rs(o, p[i], descriptor(v_tile + i * 2048, S::kHalf, 1024), 1);
        wgmma_commit();
    };
    // Softmax of the scores of the keys from `first` on; returns what the output so far is to be multiplied by.
    auto softmax = [&](int first, float (&rescale)[2]) {
        const int p0 = tile.position + row;
        const int lowest = tile.position + group * 64, highest = lowest + 63;
        if (first + kKeys - 1 > lowest || first + kKeys > tile.context || (a.window && first <= highest - a.window)) {
#pragma unroll
            for (int i = 0; i < kKeys / 2; i++) {
                const int key = first + i / 4 * 8 + lane % 4 * 2 + i % 2, position = p0 + i / 2 % 2 * 8;
                if (key > position || (a.window && key <= position - a.window)) s[i] = -INFINITY;
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = peak[r];
#pragma unroll
            for (int i = 0; i < kKeys / 8; i++) top = fmaxf(top, fmaxf(s[i * 4 + r * 2], s[i * 4 + r * 2 + 1]));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            const float base = top == -INFINITY ? 0.0f : top * a.scale_log2;
            rescale[r] = exp2_fast(peak[r] * a.scale_log2 - base);
            peak[r] = top;
            float add = 0.0f;
#pragma unroll
            for (int i = 0; i < kKeys / 8; i++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float& x = s[i * 4 + r * 2 + j];
                    x = exp2_fast(fmaf(x, a.scale_log2, -base));
                    add += x;
                }
            }
            sum[r] = sum[r] * rescale[r] + add;
        }
    };
    auto pack = [&]() {
#pragma unroll
        for (int i = 0; i < kKeys / 16; i++) {
            p[i][0] = packed(s[i * 8], s[i * 8 + 1]);
            p[i][1] = packed(s[i * 8 + 2], s[i * 8 + 3]);
            p[i][2] = packed(s[i * 8 + 4], s[i * 8 + 5]);
            p[i][3] = packed(s[i * 8 + 6], s[i * 8 + 7]);
        }
    };
    // Values beside what any query of the tile sees may be anything, and 0 * NaN is NaN. Both warpgroups write the same zeros.
    auto clear = [&](int stage, int begin, int end) {
        unsigned char* v = bytes + S::kV + stage * S::kTile;
        const int chunks = (end - begin) * 8;
        for (int i = threadIdx.x % 128; i < chunks * S::kHalves; i += 128) {
            *reinterpret_cast<uint4*>(v + i / chunks * S::kHalf + begin * 128 + i % chunks * 16) = make_uint4(0, 0, 0, 0);
        }
    };
    auto clear_ends = [&](int stage, int t) {
        const int front = first_key - t * kKeys, back = tile.context - t * kKeys;
        const bool at_front = t == first_tile && front % kBlockSize, at_back = t == last_tile && back < kKeys && back % kBlockSize;
        if (at_front) clear(stage, front / kBlockSize * kBlockSize, front);
        if (at_back) clear(stage, back, (back + kBlockSize - 1) / kBlockSize * kBlockSize);
        if (!at_front && !at_back) return;
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        named_sync(4 + group, 128);
    };

    const int mine = 2 + group, other = 3 - group;
    if (group == 1) named_arrive(other, 256);  // the first turn is the other's
    barrier_wait(barriers, 0);
    int stage = 0, phase = 0;
    float rescale[2];
    barrier_wait(barriers + 8, 0);
    named_sync(mine, 256);
    scores(0);
    named_arrive(other, 256);
    wgmma_wait<0>();
    settle(s);
    barrier_arrive(barriers + 8 + kStages * 8);
    softmax(last_tile * kKeys, rescale);
    pack();
    for (int t = last_tile - 1; t >= first_tile; t--) {
        const int next = stage + 1 == kStages ? 0 : stage + 1, next_phase = next == 0 ? phase ^ 1 : phase;
        barrier_wait(barriers + 8 + next * 8, next_phase);
        named_sync(mine, 256);
        scores(next);
        barrier_wait(barriers + 8 + (2 * kStages + stage) * 8, phase);
        clear_ends(stage, t + 1);
        values(stage);
        named_arrive(other, 256);
        wgmma_wait<1>();
        settle(s);
        barrier_arrive(barriers + 8 + (kStages + next) * 8);
        softmax(t * kKeys, rescale);
        wgmma_wait<0>();
        settle(o);
        barrier_arrive(barriers + 8 + (3 * kStages + stage) * 8);
#pragma unroll
        for (int i = 0; i < D / 2; i++) o[i] *= rescale[i / 2 % 2];
        pack();
        stage = next, phase = next_phase;
    }
    named_sync(mine, 256);
    barrier_wait(barriers + 8 + (2 * kStages + stage) * 8, phase);
    clear_ends(stage, first_tile);
    values(stage);
    if (group == 0) named_arrive(other, 256);
    wgmma_wait<0>();
    settle(o);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        const float scale = sum[r] > 0.0f ? 1.0f / sum[r] : 0.0f;
        if (row + r * 8 >= tile.rows) continue;
        __nv_bfloat16* out = a.out + (int64_t(tile.first + row + r * 8) * a.q_heads + head) * D + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            *reinterpret_cast<uint32_t*>(out + i * 8) = packed(o[i * 4 + r * 2] * scale, o[i * 4 + r * 2 + 1] * scale);
    }
}

template <int D>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_kernel(const PrefillArgs a, const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
                   const __grid_constant__ CUtensorMap v_map) {
    extern __shared__ unsigned char unaligned[];
    using S = Shared<D>;
    unsigned char* bytes = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
    const uint32_t shared = shared_address(bytes), barriers = shared + S::kBarriers;
    wait_for_predecessor();
    const Tile tile = find_tile(a, blockIdx.y, threadIdx.x % 32);
    if (tile.sequence < 0) return;
    const int head = blockIdx.x;
    if (threadIdx.x == 0) {
        barrier_init(barriers, 1);
        for (int i = 0; i < kStages; i++) {
            barrier_init(barriers + 8 + i * 8, 1);
            barrier_init(barriers + 8 + (kStages + i) * 8, 256);
            barrier_init(barriers + 8 + (2 * kStages + i) * 8, 1);
            barrier_init(barriers + 8 + (3 * kStages + i) * 8, 256);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    const int last_key = tile.position + tile.rows - 1;
    const int first_key = a.window ? max(0, tile.position - a.window + 1) : 0;
    const int last_tile = last_key / S::kKeys;
    if (threadIdx.x >= 256) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x / 32 < 10) {
            const bool values = threadIdx.x / 32 == 9;
            produce<D>(a, &q_map, values ? &v_map : &k_map, tile, head, shared, values, first_key, last_tile);
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        consume<D>(a, tile, head, shared, bytes, threadIdx.x / 128, first_key, last_tile);
    }
}

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                            const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

Encode encoder() {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return reinterpret_cast<Encode>(found);
}

template <int N>
CUtensorMap tensor_map(const void* base, const cuuint64_t (&sizes)[N], const cuuint64_t (&strides)[N - 1], const cuuint32_t (&box)[N]) {
    static const Encode encode = encoder();
    CUtensorMap map;
    cuuint32_t steps[N];
    for (auto& step : steps) step = 1;
    const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, N, const_cast<void*>(base), sizes, strides, box, steps,
                                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status != CUDA_SUCCESS)
        throw std::runtime_error("prefill attention: a tensor map was refused with CUDA error " + std::to_string(int(status)));
    return map;
}

}  // namespace

template <int D>
void launch_prefill(const PagedAttention& a, int64_t num_decodes, cudaStream_t stream) {
    using U = cuuint64_t;
    const int64_t tokens = a.tokens - num_decodes, sequences = a.sequences - num_decodes;
    const PrefillArgs arguments = {static_cast<__nv_bfloat16*>(a.out),
                                   a.block_tables + num_decodes * a.table_blocks,
                                   a.query_start + num_decodes,
                                   a.context_lens + num_decodes,
                                   int(sequences),
                                   int(a.table_blocks),
                                   int(a.num_blocks),
                                   int(a.q_heads),
                                   int(a.kv_heads),
                                   int(a.window),
                                   a.scale * 1.4426950408889634f};
    const auto q_map = tensor_map<3>(a.q, {U(D), U(a.q_heads), U(a.tokens)}, {U(D * 2), U(a.q_stride * 2)}, {64, 1, kRows});
    const auto cache = [&](const void* base) {
        return tensor_map<4>(base, {U(D), U(kBlockSize), U(a.kv_heads), U(a.num_blocks)},
                             {U(D * 2), U(kBlockSize * D * 2), U(a.kv_heads) * kBlockSize * D * 2}, {64, kBlockSize, 1, 1});
    };
    static const cudaError_t prepared =
        cudaFuncSetAttribute(prefill_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, Shared<D>::kBytes);
    check(prepared, "prefill attention");
    const dim3 grid(unsigned(a.q_heads), unsigned((tokens + kRows - 1) / kRows + sequences - 1));
    launch(prefill_kernel<D>, grid, dim3(kThreads), Shared<D>::kBytes, stream, arguments, q_map, cache(a.keys), cache(a.values));
}

}  // namespace octavo::cuda
