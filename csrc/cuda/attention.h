// What the attention kernels share: how decodes are divided, and where the parts are kept.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "../operations.h"

namespace octavo::cuda {

constexpr int kTileHeads = 8;  // query heads that one CTA computes at once
constexpr int kItemsPerCta = 4;

// One part of a sequence: pages [begin, end) of its block table; `parts` of the sequence in all, its `part`-th.
struct Part {
    int sequence, context;
    int begin, end;
    int part, parts;
    int slot;  // of the first part of the sequence among all parts of split sequences
    int unused;
};
static_assert(sizeof(Part) == 32, "read as two vectors");

struct PlanHead {
    int count;  // parts
    int next;   // work counter
    int done;   // CTAs that found no more work
    int chunk;
};

// The workspace of a layer group, cut up.
struct Workspace {
    PlanHead* head;
    Part* parts;
    int* arrived;        // [slots, Hkv, tiles]
    float* partial;      // [slots, Hkv, tiles, kTileHeads, D]
    float2* statistics;  // [slots, Hkv, tiles, kTileHeads]: maximum and sum
    int64_t bytes;
};

Workspace workspace_at(void* base, int64_t sequences, int64_t q_heads, int64_t kv_heads, int64_t head_size);

// CTAs of the decode kernel for so many sequences.
int decode_ctas(int64_t sequences, int64_t kv_heads, int64_t head_size);

__device__ __forceinline__ int first_page(int context, int window) {
    return window && context > window ? (context - window) / kBlockSize : 0;
}

struct DecodeArguments {
    __nv_bfloat16* out;         // [S, Hq, D]
    const __nv_bfloat16* q;     // [S, Hq, D], strided
    const __nv_bfloat16* keys;  // [num_blocks, Hkv, kBlockSize, D]
    const __nv_bfloat16* values;
    const int32_t* block_tables;  // [S, table_blocks]
    Workspace work;
    int64_t q_stride, table_blocks;
    int q_heads, kv_heads, window;
    float scale_log2;
};

template <int D>
void launch_decode(const DecodeArguments& a, int ctas, cudaStream_t stream);

// Queries from `first_token` on, of the sequences whose tables, query_start and context_lens these are.
template <int D>
void launch_prefill(const PagedAttention& a, int64_t num_decodes, cudaStream_t stream);

}  // namespace octavo::cuda
