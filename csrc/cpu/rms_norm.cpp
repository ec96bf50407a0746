#include "level.h"
#include "parallel.h"
#include "vec.h"

namespace octavo::cpu::OCTAVO_LEVEL {
namespace {

constexpr int64_t kElementsPerThread = 32768;

// row += x, element by element, rounded to T; the sum of the squares of what is then in it.
template <class T>
float add_and_square(T* row, const T* x, int64_t width) {
    Vec squares = {};
    int64_t i = 0;
    for (; i + W <= width; i += W) {
        store(row + i, load(row + i) + load(x + i));
        const Vec y = load(row + i);
        squares += y * y;
    }
    float total = sum(squares);
    for (; i < width; i++) {
        store_one(row + i, load_one(row + i) + load_one(x + i));
        total += load_one(row + i) * load_one(row + i);
    }
    return total;
}

template <class T>
float square(const T* x, int64_t width) {
    Vec squares = {};
    int64_t i = 0;
    for (; i + W <= width; i += W) squares += load(x + i) * load(x + i);
    float total = sum(squares);
    for (; i < width; i++) total += load_one(x + i) * load_one(x + i);
    return total;
}

template <class T>
void run(const RmsNorm& a) {
    const T* weight = static_cast<const T*>(a.weight);
    parallel_for(a.tokens * a.heads, kElementsPerThread / max<int64_t>(a.width, 1) + 1, [&](int64_t row) {
        const T* x = static_cast<const T*>(a.x) + row / a.heads * a.token_stride + row % a.heads * a.head_stride;
        float squares;
        if (a.residual != nullptr) {
            T* residual = static_cast<T*>(a.residual) + row * a.width;
            squares = add_and_square(residual, x, a.width);
            x = residual;
        } else {
            squares = square(x, a.width);
        }
        const float factor = 1.0f / __builtin_sqrtf(squares / static_cast<float>(a.width) + a.eps);
        T* out = static_cast<T*>(a.out) + row * a.width;
        int64_t i = 0;
        for (; i + W <= a.width; i += W) store(out + i, load(x + i) * factor * load(weight + i));
        for (; i < a.width; i++) store_one(out + i, load_one(x + i) * factor * load_one(weight + i));
    });
}

}  // namespace

void rms_norm(const RmsNorm& a, DType dtype) {
    dtype == DType::kFloat32 ? run<float>(a) : run<BFloat16>(a);
}

}  // namespace octavo::cpu::OCTAVO_LEVEL
