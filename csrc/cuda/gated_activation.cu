// activation(gate) * up of a fused projection.
#include "cuda.h"
#include "launch.h"
#include "vector.cuh"

namespace octavo::cuda {
namespace {

template <bool GELU>
__device__ __forceinline__ float activated(float x) {
    if (!GELU) return x / (1.0f + __expf(-x));
    return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

template <class T, bool GELU>
__global__ void gated_activation_kernel(const GatedActivation a) {
    constexpr int kSize = Vector<T>::kSize;
    const int64_t per_row = a.width / kSize, i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= a.tokens * per_row) return;
    const int64_t token = i / per_row, at = i % per_row * kSize;
    let_successor_begin();
    wait_for_predecessor();
    const T* row = static_cast<const T*>(a.gate_up) + token * 2 * a.width + at;
    float gate[kSize], up[kSize];
    Vector<T>::load(row, gate);
    Vector<T>::load(row + a.width, up);
#pragma unroll
    for (int j = 0; j < kSize; j++) gate[j] = activated<GELU>(gate[j]) * up[j];
    Vector<T>::store(static_cast<T*>(a.out) + token * a.width + at, gate);
}

template <class T>
void run(const GatedActivation& a, cudaStream_t stream) {
    if (a.width % Vector<T>::kSize) throw std::invalid_argument("gated_activation: no kernel for rows of " + std::to_string(a.width));
    const int64_t vectors = a.tokens * (a.width / Vector<T>::kSize);
    const dim3 grid(unsigned((vectors + 255) / 256)), block(256);
    if (!vectors) return;
    if (a.gelu_tanh)
        launch(gated_activation_kernel<T, true>, grid, block, 0, stream, a);
    else
        launch(gated_activation_kernel<T, false>, grid, block, 0, stream, a);
}

}  // namespace

void gated_activation(const GatedActivation& a, DType dtype, cudaStream_t stream) {
    dtype == DType::kBFloat16 ? run<__nv_bfloat16>(a, stream) : run<float>(a, stream);
}

}  // namespace octavo::cuda
