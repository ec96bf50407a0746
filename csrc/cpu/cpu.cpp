#include "cpu.h"

#include <stdexcept>

#include "attention_plan.h"
#include "level.h"

namespace octavo::cpu {
namespace {

std::vector<const Level*> supported() {
    std::vector<const Level*> found = {&portable::level};
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found.push_back(&avx2::level);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512dq")) {
            found.push_back(&avx512::level);
            if (__builtin_cpu_supports("avx512bf16")) found.push_back(&avx512_bf16::level);
        }
    }
#endif
    return found;
}

const Level*& current() {
    static const Level* chosen = supported().back();
    return chosen;
}

[[noreturn]] void refuse(const char* what, int64_t value, int64_t limit, int64_t token) {
    throw std::out_of_range("rotary_kv_write: token " + std::to_string(token) + " has " + what + " " + std::to_string(value) +
                            ", which must be below " + std::to_string(limit));
}

}  // namespace

std::vector<std::string> levels() {
    std::vector<std::string> names;
    for (const Level* level : supported()) names.push_back(level->name);
    return names;
}

std::string level() {
    return current()->name;
}

void set_level(const std::string& name) {
    std::string names;
    for (const Level* level : supported()) {
        if (name == level->name) {
            current() = level;
            return;
        }
        names += std::string(" ") + level->name;
    }
    throw std::invalid_argument("this chip has no level " + name + "; it has" + names);
}

void rms_norm(const RmsNorm& a, DType dtype) {
    current()->rms_norm(a, dtype);
}

void rotary_kv_write(const RotaryKvWrite& a, DType dtype) {
    for (int64_t i = 0; i < a.tokens; i++) {
        if (a.positions[i] < 0 || a.positions[i] >= a.num_positions) refuse("position", a.positions[i], a.num_positions, i);
        if (a.slots[i] < 0 || a.slots[i] >= a.num_blocks * kBlockSize) refuse("slot", a.slots[i], a.num_blocks * kBlockSize, i);
    }
    current()->rotary_kv_write(a, dtype);
}

void paged_attention(const PagedAttention& a, DType dtype) {
    attend_as_planned(a, current()->paged_attention, dtype);
}

void gated_activation(const GatedActivation& a, DType dtype) {
    current()->gated_activation(a, dtype);
}

}  // namespace octavo::cpu
