// The kernels of one instruction set. Their sources are compiled once for each, in a namespace of its name, and include
// nothing whose inline functions the linker could share between instruction sets.
#pragma once

#include "../operations.h"

namespace octavo::cpu {

struct AttentionPlan;

struct Level {
    const char* name;
    void (*rms_norm)(const RmsNorm&, DType);
    void (*rotary_kv_write)(const RotaryKvWrite&, DType);
    void (*paged_attention)(const PagedAttention&, const AttentionPlan&, DType);
    void (*gated_activation)(const GatedActivation&, DType);
};

namespace portable {
extern const Level level;
}
#ifdef __x86_64__
namespace avx2 {
extern const Level level;
}
namespace avx512 {
extern const Level level;
}
namespace avx512_bf16 {
extern const Level level;
}
#endif

}  // namespace octavo::cpu
