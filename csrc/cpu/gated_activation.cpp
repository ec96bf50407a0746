#include "level.h"
#include "parallel.h"
#include "vec.h"

namespace octavo::cpu::OCTAVO_LEVEL {
namespace {

constexpr int64_t kElementsPerThread = 16384;
constexpr float kLog2E = 1.44269504f;
constexpr float kGeluScale = 1.59576912f;  // 2 * sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

// Both gates are x * sigmoid(y): y is x for silu, and for gelu what its tanh approximation comes to,
// as (1 + tanh(u)) / 2 = sigmoid(2u).
template <bool GeluTanh>
Vec activate(Vec x) {
    const Vec y = GeluTanh ? x * (kGeluScale + kGeluScale * kGeluCubic * x * x) : x;
    return x / (1.0f + exp2(y * -kLog2E));
}

template <bool GeluTanh, class T>
void multiply(T* out, const T* gate, const T* up, int64_t width) {
    int64_t i = 0;
    for (; i + W <= width; i += W) store(out + i, activate<GeluTanh>(load(gate + i)) * load(up + i));
    for (; i < width; i++) store_one(out + i, activate<GeluTanh>(broadcast(load_one(gate + i)))[0] * load_one(up + i));
}

template <class T>
void run(const GatedActivation& a) {
    parallel_for(a.tokens, kElementsPerThread / max<int64_t>(a.width, 1) + 1, [&](int64_t token) {
        T* out = static_cast<T*>(a.out) + token * a.width;
        const T* gate = static_cast<const T*>(a.gate_up) + 2 * token * a.width;
        a.gelu_tanh ? multiply<true>(out, gate, gate + a.width, a.width) : multiply<false>(out, gate, gate + a.width, a.width);
    });
}

}  // namespace

void gated_activation(const GatedActivation& a, DType dtype) {
    dtype == DType::kFloat32 ? run<float>(a) : run<BFloat16>(a);
}

}  // namespace octavo::cpu::OCTAVO_LEVEL
