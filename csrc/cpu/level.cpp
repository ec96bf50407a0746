#include "level.h"

namespace octavo::cpu::OCTAVO_LEVEL {

void rms_norm(const RmsNorm&, DType);
void rotary_kv_write(const RotaryKvWrite&, DType);
void paged_attention(const PagedAttention&, const AttentionPlan&, DType);
void gated_activation(const GatedActivation&, DType);

#define NAME_OF(level) #level
#define NAME(level) NAME_OF(level)
const Level level = {NAME(OCTAVO_LEVEL), rms_norm, rotary_kv_write, paged_attention, gated_activation};

}  // namespace octavo::cpu::OCTAVO_LEVEL
