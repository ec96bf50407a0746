// The operations on a GPU of compute capability 9.0. Nothing here allocates or waits, so that all of it can be captured
// in a graph; what a kernel reads of tokens, positions and block tables is trusted.
#pragma once

#include <cuda_runtime.h>

#include "../operations.h"

namespace octavo::cuda {

void rms_norm(const RmsNorm& a, DType dtype, cudaStream_t stream);
void rotary_kv_write(const RotaryKvWrite& a, DType dtype, cudaStream_t stream);
void paged_attention(const PagedAttention& a, DType dtype, cudaStream_t stream);
void gated_activation(const GatedActivation& a, DType dtype, cudaStream_t stream);
void copy_blocks(const CopyBlocks& a, cudaStream_t stream);

// y = x · Wᵀ + bias for up to eight tokens, in bfloat16.
void small_linear(const SmallLinear& a, cudaStream_t stream);

// Bytes of the workspace that a layer group's attention needs for so many sequences; zeros at first.
int64_t attention_workspace_bytes(int64_t sequences, int64_t q_heads, int64_t kv_heads, int64_t head_size);

// Divides the decodes of a step among the chip's processors; what it writes to `workspace` serves every layer of the group.
void plan_attention(const AttentionPlan& a, cudaStream_t stream);

}  // namespace octavo::cuda
