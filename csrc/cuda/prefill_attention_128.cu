#include "prefill_attention.cuh"

template void octavo::cuda::launch_prefill<128>(const PagedAttention&, int64_t, cudaStream_t);
