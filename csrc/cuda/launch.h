// Launching kernels so that one may begin while the one before it ends (programmatic dependent launch).
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace octavo::cuda {

inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

#ifdef __CUDACC__
// First in every kernel: what the kernel before it wrote is there afterwards.
__device__ __forceinline__ void wait_for_predecessor() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Where the next kernel has something to do that does not depend on this one, it may start on it when all CTAs of this
// one have begun.
__device__ __forceinline__ void let_successor_begin() {
    asm volatile("griddepcontrol.launch_dependents;");
}

template <class Kernel, class... Arguments>
void launch_clustered(Kernel kernel, dim3 grid, dim3 block, int shared, int cluster, cudaStream_t stream, const Arguments&... arguments) {
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim = {unsigned(cluster), 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = cluster > 1 ? 2 : 1;
    check(cudaLaunchKernelEx(&config, kernel, arguments...), "kernel launch");
}

template <class Kernel, class... Arguments>
void launch(Kernel kernel, dim3 grid, dim3 block, int shared, cudaStream_t stream, const Arguments&... arguments) {
    launch_clustered(kernel, grid, block, shared, 1, stream, arguments...);
}
#endif

}  // namespace octavo::cuda
