#include "level.h"
#include "parallel.h"
#include "vec.h"

namespace octavo::cpu::OCTAVO_LEVEL {
namespace {

constexpr int64_t kElementsPerThread = 32768;

// Rotates component i of a head together with component i + half.
template <class T>
void rotate(T* head, const float* cosines, const float* sines, int64_t half) {
    int64_t i = 0;
    for (; i + W <= half; i += W) {
        const Vec first = load(head + i), second = load(head + half + i);
        const Vec cosine = load(cosines + i), sine = load(sines + i);
        store(head + i, first * cosine - second * sine);
        store(head + half + i, second * cosine + first * sine);
    }
    for (; i < half; i++) {
        const float first = load_one(head + i), second = load_one(head + half + i);
        store_one(head + i, first * cosines[i] - second * sines[i]);
        store_one(head + half + i, second * cosines[i] + first * sines[i]);
    }
}

template <class T>
void run(const RotaryKvWrite& a) {
    const int64_t size = a.head_size, half = size / 2;
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    parallel_for(a.tokens, kElementsPerThread / ((a.q_heads + 2 * a.kv_heads) * size) + 1, [&](int64_t token) {
        const float* cosines = a.cos_sin + a.positions[token] * size;
        T* q = static_cast<T*>(a.q) + token * a.q_stride;
        for (int64_t h = 0; h < a.q_heads; h++) rotate(q + h * size, cosines, cosines + half, half);
        T* k = static_cast<T*>(a.k) + token * a.k_stride;
        const T* v = static_cast<const T*>(a.v) + token * a.v_stride;
        const int64_t block = a.slots[token] / kBlockSize, offset = a.slots[token] % kBlockSize;
        for (int64_t h = 0; h < a.kv_heads; h++) {
            rotate(k + h * size, cosines, cosines + half, half);
            const int64_t place = ((block * a.kv_heads + h) * kBlockSize + offset) * size;
            __builtin_memcpy(static_cast<T*>(a.keys) + place, k + h * size, bytes);
            __builtin_memcpy(static_cast<T*>(a.values) + place, v + h * size, bytes);
        }
    });
}

}  // namespace

void rotary_kv_write(const RotaryKvWrite& a, DType dtype) {
    dtype == DType::kFloat32 ? run<float>(a) : run<BFloat16>(a);
}

}  // namespace octavo::cpu::OCTAVO_LEVEL
