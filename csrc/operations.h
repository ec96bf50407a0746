// What each operation is called with; engine/octavo/ops has the meaning. Addresses are of the device that computes,
// strides in elements, everything without a stride is contiguous. T tokens, Hq and Hkv heads, D the head size.
#pragma once

#include <cstdint>

namespace octavo {

constexpr int kBlockSize = 16;
constexpr int kMaxHeadSize = 256;
constexpr int kMaxQueryHeadsPerKvHead = 64;

enum class DType : int { kFloat32 = 0, kBFloat16 = 1 };

struct RmsNorm {
    void* out;           // [T, heads, width]
    const void* x;       // [T, heads, width], strided
    const void* weight;  // [width]
    void* residual;      // [T, width] or null; x is added to it
    int64_t tokens, heads, width;
    int64_t token_stride, head_stride;
    float eps;
};

struct RotaryKvWrite {
    void *q, *k;    // [T, Hq, D], [T, Hkv, D]
    const void* v;  // [T, Hkv, D]
    int64_t q_stride, k_stride, v_stride;
    const float* cos_sin;      // [num_positions, D]
    const int64_t* positions;  // [T]
    const int64_t* slots;      // [T]
    void *keys, *values;       // [num_blocks, Hkv, kBlockSize, D]
    int64_t tokens, q_heads, kv_heads, head_size, num_positions, num_blocks;
    // On a GPU: weights [D] of the RMSNorm of queries and keys that comes first, or null.
    const void *q_norm, *k_norm;
    float norm_eps;
};

struct PagedAttention {
    void* out;         // [T, Hq, D]
    const void* q;     // [T, Hq, D], tokens strided
    const void* keys;  // [num_blocks, Hkv, kBlockSize, D]
    const void* values;
    const int32_t* block_tables;  // [sequences, table_blocks]
    const int32_t* query_start;   // [sequences + 1]
    const int32_t* context_lens;  // [sequences]
    int64_t tokens, q_heads, kv_heads, head_size, q_stride;
    int64_t sequences, table_blocks, num_blocks;
    float scale;
    int64_t window;  // 0 for all
    // On a GPU: the first num_decodes sequences have one token each, and `plan` says how they are divided.
    int64_t num_decodes;
    void* plan;
    int64_t plan_sequences;  // for which the plan's workspace has room
};

struct AttentionPlan {
    void* workspace;
    const int32_t* context_lens;  // [sequences], one token each
    int64_t sequences, plan_sequences;
    int64_t q_heads, kv_heads, head_size;
    int64_t window;
};

struct SmallLinear {
    void* out;           // [tokens, outputs]
    const void* x;       // [tokens, inputs], tokens strided
    const void* weight;  // [outputs, inputs]
    const void* bias;    // [outputs] or null
    int64_t tokens, inputs, outputs, x_stride;
};

struct GatedActivation {
    void* out;            // [T, width]
    const void* gate_up;  // [T, 2 * width]
    int64_t tokens, width;
    bool gelu_tanh;
};

struct CopyBlocks {
    void *keys, *values;     // [num_blocks, block_bytes]
    const int64_t* sources;  // [count]
    const int64_t* targets;  // [count]
    int64_t count, num_blocks, block_bytes;
};

}  // namespace octavo
