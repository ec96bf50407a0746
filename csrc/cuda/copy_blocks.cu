// Whole blocks of keys and values, copied on write.
#include "cuda.h"
#include "launch.h"

namespace octavo::cuda {
namespace {

__global__ void copy_blocks_kernel(const CopyBlocks a) {
    wait_for_predecessor();
    char* cache = static_cast<char*>(blockIdx.y ? a.values : a.keys);
    const auto* source = reinterpret_cast<const uint4*>(cache + a.sources[blockIdx.x] * a.block_bytes);
    auto* target = reinterpret_cast<uint4*>(cache + a.targets[blockIdx.x] * a.block_bytes);
    for (int64_t i = threadIdx.x; i < a.block_bytes / 16; i += blockDim.x) target[i] = source[i];
}

}  // namespace

void copy_blocks(const CopyBlocks& a, cudaStream_t stream) {
    if (a.block_bytes % 16)
        throw std::invalid_argument("copy_blocks: a block has " + std::to_string(a.block_bytes) + " bytes, must be a multiple of 16");
    if (a.count) launch(copy_blocks_kernel, dim3(unsigned(a.count), 2), dim3(256), 0, stream, a);
}

}  // namespace octavo::cuda
