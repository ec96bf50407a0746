// Attention of a step: decodes by the plan, then the chunks of the other sequences.
#include <stdexcept>
#include <string>

#include "attention.h"
#include "cuda.h"

namespace octavo::cuda {
namespace {

void decode(const PagedAttention& a, cudaStream_t stream) {
    const DecodeArguments arguments = {static_cast<__nv_bfloat16*>(a.out),
                                       static_cast<const __nv_bfloat16*>(a.q),
                                       static_cast<const __nv_bfloat16*>(a.keys),
                                       static_cast<const __nv_bfloat16*>(a.values),
                                       a.block_tables,
                                       workspace_at(a.plan, a.plan_sequences, a.q_heads, a.kv_heads, a.head_size),
                                       a.q_stride,
                                       a.table_blocks,
                                       int(a.q_heads),
                                       int(a.kv_heads),
                                       int(a.window),
                                       a.scale * 1.4426950408889634f};
    const int ctas = decode_ctas(a.num_decodes, a.kv_heads, a.head_size);
    switch (a.head_size) {
        case 64:
            return launch_decode<64>(arguments, ctas, stream);
        case 80:
            return launch_decode<80>(arguments, ctas, stream);
        case 96:
            return launch_decode<96>(arguments, ctas, stream);
        case 128:
            return launch_decode<128>(arguments, ctas, stream);
        case 256:
            return launch_decode<256>(arguments, ctas, stream);
        default:
            throw std::invalid_argument("paged_attention: no decode kernel for head size " + std::to_string(a.head_size));
    }
}

void prefill(const PagedAttention& a, cudaStream_t stream) {
    switch (a.head_size) {
        case 64:
            return launch_prefill<64>(a, a.num_decodes, stream);
        case 128:
            return launch_prefill<128>(a, a.num_decodes, stream);
        case 256:
            return launch_prefill<256>(a, a.num_decodes, stream);
        default:
            throw std::invalid_argument("paged_attention: no prefill kernel for head size " + std::to_string(a.head_size));
    }
}

}  // namespace

void paged_attention(const PagedAttention& a, DType dtype, cudaStream_t stream) {
    if (dtype != DType::kBFloat16) throw std::invalid_argument("paged_attention: the GPU's kernels are for bfloat16");
    if (a.num_decodes && !a.plan) throw std::invalid_argument("paged_attention: decodes need a plan");
    if (a.num_decodes) decode(a, stream);
    if (a.sequences > a.num_decodes) prefill(a, stream);
}

}  // namespace octavo::cuda
